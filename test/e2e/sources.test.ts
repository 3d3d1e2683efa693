/**
 * An adapter in every way a server takes one gives one and the same generation and answer; what is
 * refused is refused with its code and leaves nothing.
 */
import { cp, mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { request as httpRequest } from 'node:http';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { createGzip, gzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  longName,
  pax,
  type TarEntry,
  tarEntry,
  tarGz,
  type ZipEntry,
  zip,
} from '../support/archives.ts';
import { type Certificate, selfSigned } from '../support/certificate.ts';
import { type Answer, answeredBy, putFrom, send } from '../support/clients.ts';
import { CONTENT_MODEL_DIR, type Contents, makeContents } from '../support/contents.ts';
import { type FileServer, startFileServer } from '../support/file-server.ts';
import { folderTree } from '../support/folder-tree.ts';
import { HubServer } from '../support/hub-server.ts';
import { readAdapterFiles, startTestServer, type TestServer } from '../support/server.ts';
import { until } from '../support/until.ts';

const CONFIG = 'adapter_config.json';
const WEIGHTS = 'adapter_model.safetensors';
const MAX_ADAPTER_MB = 2;

/** Everything the servers may write, with canaries around it. */
let base: string;
let root: string;
let contents: Contents;
let files: Record<string, Uint8Array>;
let hub: HubServer;
let web: FileServer;
let secureWeb: FileServer;
/** Fetches from inside the network; the other one does not. */
let open: TestServer;
let guarded: TestServer;

async function start(name: string, args: readonly string[], certificate: Certificate) {
  const authorities = path.join(base, 'authorities.pem');
  await writeFile(authorities, certificate.cert);
  const dataDir = path.join(base, name);
  await mkdir(dataDir);
  const common = ['--model', CONTENT_MODEL_DIR, '--hub-endpoint', hub.url, '--adapter-root', root];
  const limits = ['--max-adapter-mb', String(MAX_ADAPTER_MB), '--max-archive-entries', '32'];
  const env = { NODE_EXTRA_CA_CERTS: authorities };
  return startTestServer([...common, ...limits, ...args], { dataDir, env });
}

beforeAll(async () => {
  base = await mkdtemp(path.join(tmpdir(), 'loramux-sources-'));
  root = path.join(base, 'root');
  await mkdir(root);
  const certificate = selfSigned();
  [contents, hub, web, secureWeb] = await Promise.all([
    makeContents(2),
    HubServer.start(),
    startFileServer(),
    startFileServer(certificate),
  ]);
  [open, guarded] = await Promise.all([
    start('open', ['--allow-private-sources', 'true'], certificate),
    start('guarded', [], certificate),
  ]);
  files = await readAdapterFiles(contents.list[0]!.dir);
  hub.commit('team/one', files);
});
afterAll(async () => {
  await Promise.all([open, guarded].map((server) => server?.end()));
  await Promise.all([hub, web, secureWeb].map((server) => server?.close()));
  await contents?.remove();
  await rm(base, { recursive: true, force: true });
});

const route = (name: string) => `/v1/adapters/${name}`;
const zipEntries = (folder = ''): ZipEntry[] =>
  Object.entries(files).map(([name, data]) => ({ name: `${folder}${name}`, data }));
const tarEntries = (folder = ''): TarEntry[] =>
  Object.entries(files).map(([name, data]) => ({ name: `${folder}${name}`, data }));

function form(parts: Record<string, Uint8Array>): FormData {
  const result = new FormData();
  for (const [name, bytes] of Object.entries(parts)) result.set(name, new Blob([bytes]), name);
  return result;
}

const putZip = (name: string, body: Uint8Array) =>
  send(open, 'PUT', route(name), { type: 'application/zip', body });
const putTarGz = (name: string, body: Uint8Array) =>
  send(open, 'PUT', route(name), { type: 'application/gzip', body });

describe('one adapter', () => {
  const ways: Record<string, (name: string) => Promise<Answer>> = {
    'two files in a form': (name) => send(open, 'PUT', route(name), { body: form(files) }),
    'a zip in a form': (name) =>
      send(open, 'PUT', route(name), { body: form({ 'adapter.zip': zip(zipEntries('one/')) }) }),
    'a tar.gz in a form': (name) =>
      send(open, 'PUT', route(name), { body: form({ 'adapter.tgz': tarGz(tarEntries('a/b/')) }) }),
    'a zip': (name) =>
      putZip(name, zip([...zipEntries(), { name: 'README.md', data: files[CONFIG]! }])),
    'a tar.gz': (name) => putTarGz(name, tarGz([{ name: './', type: '5' }, ...tarEntries('./')])),
    'a folder below the root': async (name) => {
      await cp(contents.list[0]!.dir, path.join(root, 'team', 'one'), { recursive: true });
      return putFrom(open, name, { path: 'team/one' });
    },
    'an absolute folder below the root': (name) =>
      putFrom(open, name, { path: path.join(root, 'team', 'one') }),
    'a repository': (name) => putFrom(open, name, { repo: 'team/one' }),
    'a revision and a subfolder of a repository': (name) => {
      const inFolder = Object.fromEntries(
        Object.entries(files).map(([file, bytes]) => [`checkpoints/last/${file}`, bytes]),
      );
      hub.commit('team/many', inFolder, 'v1');
      hub.commit('team/many', { 'README.md': 'moved on' });
      const source = { repo: 'team/many', revision: 'v1', subfolder: 'checkpoints/last' };
      return putFrom(open, name, source);
    },
    'an http URL': (name) => {
      web.files.set('/one.zip', zip(zipEntries()));
      return putFrom(open, name, { url: `${web.url}/one.zip` });
    },
    'an https URL after a redirect': (name) => {
      secureWeb.files.set('/latest', { redirect: '/one.tar.gz' });
      secureWeb.files.set('/one.tar.gz', tarGz(tarEntries('one/')));
      return putFrom(open, name, { url: `${secureWeb.url}/latest` });
    },
  };

  it.each(Object.entries(ways))('as %s is the same generation', async (way, put) => {
    const [content] = contents.list;
    const name = way.replaceAll(/\W+/g, '-');
    const { status, body, headers } = await put(name);
    expect([status, body.generation], JSON.stringify(body)).toEqual([201, content!.generation]);
    expect(headers.get('etag')).toBe(`"${content!.generation}"`);
    expect(await answeredBy(open, name, contents)).toBe(content);
  });

  it('is stored once, and says where each name got it from', async () => {
    const { body } = await open.call('GET', '/v1/adapters');
    const sources = Object.fromEntries(
      body.data.map(({ name, source }: Record<string, string>) => [name, source]),
    );
    expect(Object.keys(sources)).toHaveLength(Object.keys(ways).length);
    expect(sources).toMatchObject({
      'a-zip': 'upload',
      'a-repository': expect.stringMatching(/^hf:team\/one@[0-9a-f]{40}$/),
      'a-revision-and-a-subfolder-of-a-repository': expect.stringMatching(
        /^hf:team\/many@[0-9a-f]{40}\/checkpoints\/last$/,
      ),
      'an-http-URL': `${web.url}/one.zip`,
      'an-https-URL-after-a-redirect': `${secureWeb.url}/latest`,
    });
    const tree = folderTree(open.dataDir);
    expect(
      Object.keys(tree).filter((file) => file.includes(contents.list[0]!.generation)),
    ).toHaveLength(1);
    expect(Object.keys(tree).filter((file) => /(tmp|uploads)\/./.test(file))).toEqual([]);
  });
});

/** Sends something that must be refused, and checks that nothing came of it. */
async function refused(
  server: TestServer,
  code: string,
  put: (name: string) => Promise<Answer>,
): Promise<void> {
  const before = folderTree(base);
  const { status, body } = await put('attack');
  expect(body?.error?.code, `${status} ${JSON.stringify(body)}`).toBe(code);
  expect((await server.call('GET', route('attack'))).status).toBe(404);
  expect(folderTree(base)).toEqual(before);
}

describe('an archive that is refused', () => {
  const evil = Buffer.from('evil');
  const outside = '/tmp/loramux-must-not-exist';
  const good = () => zipEntries();
  const link = 0o120777;
  const BOMB_BYTES = 64 * 2 ** 20;
  const zips: Record<string, [code: string, bytes: () => Uint8Array]> = {
    'leads up': ['archive_unsafe', () => zip([...good(), { name: '../evil', data: evil }])],
    'leads up from within': [
      'archive_unsafe',
      () => zip([...good(), { name: 'a/../../evil', data: evil }]),
    ],
    'leads up as Windows does': [
      'archive_unsafe',
      () => zip([...good(), { name: '..\\evil', data: evil }]),
    ],
    'is absolute': ['archive_unsafe', () => zip([...good(), { name: outside, data: evil }])],
    'has a drive': ['archive_unsafe', () => zip([...good(), { name: 'C:\\evil', data: evil }])],
    'has a link': [
      'archive_unsafe',
      () => zip([...good(), { name: 'link', data: Buffer.from('/etc/passwd'), mode: link }]),
    ],
    'has a link for a file': [
      'archive_unsafe',
      () =>
        zip([
          { name: CONFIG, data: files[CONFIG]! },
          { name: WEIGHTS, data: Buffer.from('/etc/passwd'), mode: link },
        ]),
    ],
    'has two names for one entry': [
      'archive_invalid',
      () => zip([good()[0]!, { ...good()[1]!, localName: '../evil' }]),
    ],
    'unpacks to more than it says': [
      'archive_invalid',
      () => zip([good()[0]!, { name: WEIGHTS, data: Buffer.alloc(BOMB_BYTES), size: 1000 }]),
    ],
    'unpacks to too much': [
      'adapter_too_large',
      () => zip([good()[0]!, { name: WEIGHTS, data: Buffer.alloc(BOMB_BYTES) }]),
    ],
    'unpacks to too much beside the adapter': [
      'archive_limit_exceeded',
      () => zip([...good(), { name: 'optimizer.pt', data: Buffer.alloc(2 * BOMB_BYTES) }]),
    ],
    'is encrypted': ['archive_unsafe', () => zip([good()[0]!, { ...good()[1]!, flags: 0x801 }])],
    'breaks off': ['archive_invalid', () => zip(good()).subarray(0, -30)],
    'is none': ['archive_invalid', () => Buffer.from('not an archive '.repeat(100))],
    'is a tar.gz': ['archive_invalid', () => tarGz(tarEntries())],
    'lacks a file': ['adapter_upload_incomplete', () => zip([good()[0]!])],
    'is empty': ['adapter_upload_incomplete', () => zip([])],
    'has a pickle': [
      'adapter_pickle_refused',
      () => zip([good()[0]!, { name: 'adapter_model.bin', data: evil }]),
    ],
    'has too many entries': [
      'archive_limit_exceeded',
      () => zip([...good(), ...Array.from({ length: 32 }, (_, i) => ({ name: `x${i}` }))]),
    ],
    'has a million entries': ['archive_limit_exceeded', () => millionZip()],
  };
  it.each(Object.entries(zips))('as a zip that %s', async (_what, [code, bytes]) => {
    await refused(open, code, (name) => putZip(name, bytes()));
  });

  const tars: Record<string, [code: string, bytes: () => Uint8Array | Promise<Uint8Array>]> = {
    'leads up': ['archive_unsafe', () => tarGz([...tarEntries(), { name: '../evil', data: evil }])],
    'is absolute': [
      'archive_unsafe',
      () => tarGz([...tarEntries(), { name: outside, data: evil }]),
    ],
    'has a symbolic link': [
      'archive_unsafe',
      () => tarGz([...tarEntries(), { name: 'link', type: '2', link: '/etc/passwd' }]),
    ],
    'has a link for a file': [
      'archive_unsafe',
      () => tarGz([tarEntries()[0]!, { name: WEIGHTS, type: '2', link: '/etc/passwd' }]),
    ],
    'has a hard link': [
      'archive_unsafe',
      () => tarGz([...tarEntries(), { name: 'link', type: '1', link: CONFIG }]),
    ],
    'has a device': ['archive_unsafe', () => tarGz([...tarEntries(), { name: 'dev', type: '3' }])],
    'has a pipe': ['archive_unsafe', () => tarGz([...tarEntries(), { name: 'pipe', type: '6' }])],
    'leads up in an extended header': [
      'archive_unsafe',
      () => tarGz([...tarEntries(), pax({ path: '../evil' }), { name: 'fine', data: evil }]),
    ],
    'leads up in a long name': [
      'archive_unsafe',
      () => tarGz([...tarEntries(), longName('../evil'), { name: 'fine', data: evil }]),
    ],
    'unpacks to too much': [
      'adapter_too_large',
      () => tarGz([tarEntries()[0]!, { name: WEIGHTS, data: Buffer.alloc(BOMB_BYTES) }]),
    ],
    'goes on for ever after its end': [
      'archive_limit_exceeded',
      () => tarGz(tarEntries(), (2 * BOMB_BYTES) / 512),
    ],
    'breaks off': ['archive_invalid', () => tarGz(tarEntries()).subarray(0, -30)],
    'has a million entries': ['archive_limit_exceeded', () => millionTarGz()],
    'is gzip of something else': ['archive_invalid', () => gzipSync(Buffer.alloc(4096, 'x'))],
    'is a zip': ['archive_invalid', () => zip(good())],
  };
  it.each(Object.entries(tars))('as a tar.gz that %s', async (_what, [code, bytes]) => {
    const body = await bytes();
    await refused(open, code, (name) => putTarGz(name, body));
  });

  it('in a form and behind a URL as well', async () => {
    const bytes = zip([...good(), { name: '../evil', data: evil }]);
    await refused(open, 'archive_unsafe', (name) =>
      send(open, 'PUT', route(name), { body: form({ 'a.zip': bytes }) }),
    );
    web.files.set('/evil.zip', bytes);
    await refused(open, 'archive_unsafe', (name) =>
      putFrom(open, name, { url: `${web.url}/evil.zip` }),
    );
    web.files.set(
      '/bomb.zip',
      zip([good()[0]!, { name: WEIGHTS, data: Buffer.alloc(BOMB_BYTES) }]),
    );
    await refused(open, 'adapter_too_large', (name) =>
      putFrom(open, name, { url: `${web.url}/bomb.zip` }),
    );
  });
});

describe('a form or a folder that is refused', () => {
  it('says what is wrong', async () => {
    const { [CONFIG]: config, [WEIGHTS]: weights } = files as Record<string, Uint8Array>;
    const forms: [code: string, parts: Record<string, Uint8Array>][] = [
      ['adapter_upload_incomplete', { [CONFIG]: config! }],
      ['adapter_pickle_refused', { [CONFIG]: config!, 'adapter_model.bin': weights! }],
      ['invalid_request', { 'notes.txt': config! }],
      ['invalid_request', { 'a.zip': zip(zipEntries()), [CONFIG]: config! }],
      ['adapter_config_invalid', { [CONFIG]: Buffer.from('{'), [WEIGHTS]: weights! }],
      ['safetensors_invalid', { [CONFIG]: config!, [WEIGHTS]: weights!.subarray(0, -8) }],
      ['adapter_too_large', { [CONFIG]: config!, [WEIGHTS]: Buffer.alloc(3 * 2 ** 20) }],
    ];
    for (const [code, parts] of forms) {
      await refused(open, code, (name) => send(open, 'PUT', route(name), { body: form(parts) }));
    }
  });

  it.each(['application/zip', 'multipart/form-data; boundary=x'])(
    'as %s leaves nothing when its sender goes away',
    async (type) => {
      const before = folderTree(base);
      const head = '--x\r\ncontent-disposition: form-data; name="a"; filename="a.zip"\r\n\r\n';
      const request = httpRequest(`${open.url}${route('broken')}`, {
        method: 'PUT',
        headers: { 'content-type': type, 'content-length': 100_000 },
      });
      request.on('error', () => undefined);
      request.write((type === 'application/zip' ? '' : head) + 'PK'.repeat(10_000));
      await until(
        'the upload begins',
        () => folderTree(base),
        (tree) => Object.keys(tree).length > Object.keys(before).length,
      );
      request.destroy();
      await until(
        'the upload is gone',
        () => folderTree(base),
        (tree) => JSON.stringify(tree) === JSON.stringify(before),
      );
    },
  );

  it('outside of the root, also through links', async () => {
    await cp(contents.list[1]!.dir, path.join(base, 'secret'), { recursive: true });
    await symlink(path.join(base, 'secret'), path.join(root, 'link-out'));
    await mkdir(path.join(root, 'half'));
    await symlink(path.join(base, 'secret', WEIGHTS), path.join(root, 'half', WEIGHTS));
    await writeFile(path.join(root, 'half', CONFIG), files[CONFIG]!);
    const paths = [
      '../secret',
      path.join(base, 'secret'),
      'link-out',
      'half',
      '/etc',
      'team/../../secret',
    ];
    for (const each of paths) {
      await refused(open, 'adapter_path_forbidden', (name) => putFrom(open, name, { path: each }));
    }
  });
});

describe('an address that is refused', () => {
  it.each([
    ['source_forbidden', (): object => ({ url: `${web.url}/one.zip` })],
    ['source_forbidden', () => ({ url: `${secureWeb.url}/one.tar.gz` })],
    ['source_forbidden', () => ({ url: secureWeb.url.replace('127.0.0.1', 'localhost') })],
    ['source_forbidden', () => ({ url: 'https://169.254.169.254/latest/meta-data' })],
    ['source_forbidden', () => ({ url: 'https://[::1]/a.zip' })],
    ['source_forbidden', () => ({ url: 'https://[::ffff:127.0.0.1]/a.zip' })],
    ['source_forbidden', () => ({ url: 'https://0x7f000001/a.zip' })],
    ['source_forbidden', () => ({ url: 'file:///etc/passwd' })],
    ['invalid_request', () => ({ url: 'not a url' })],
    ['invalid_request', () => ({ repo: '../team' })],
    ['invalid_request', () => ({ repo: 'team/one', subfolder: '../..' })],
    ['source_not_found', () => ({ repo: 'team/unknown' })],
    ['source_not_found', () => ({ repo: 'team/one', revision: 'unknown' })],
  ] as [string, () => object][])('with %s (%#)', async (code, source) => {
    const before = web.requests.length + secureWeb.requests.length;
    await refused(guarded, code, (name) => putFrom(guarded, name, source()));
    expect(web.requests.length + secureWeb.requests.length).toBe(before);
  });

  it('with the hub redirecting into the network, but not with the hub itself there', async () => {
    // The operator named the hub; where its large files are is the hub's word only.
    await refused(guarded, 'source_forbidden', (name) =>
      putFrom(guarded, name, { repo: 'team/one' }),
    );
  });

  it('with a hub that answers wrongly', async () => {
    hub.faults.set(WEIGHTS, 'wrong-bytes');
    await refused(open, 'source_unavailable', (name) => putFrom(open, name, { repo: 'team/one' }));
    hub.faults.set(WEIGHTS, 'cut');
    await refused(open, 'source_unavailable', (name) => putFrom(open, name, { repo: 'team/one' }));
    hub.faults.clear();
  });
});

const MILLION = 1_000_000;

/** A central directory of a million entries; none has a name of its own. */
function millionZip(): Uint8Array {
  const one = zip([{ name: 'x' }]);
  const start = one.readUInt32LE(one.length - 6);
  const record = one.subarray(start, one.length - 22);
  const records = Buffer.alloc(record.length * MILLION, record);
  const options = { entryCount: BigInt(MILLION), directoryOffset: BigInt(start) };
  const end64 = zip([], { zip64: { ...options, endOffset: BigInt(start + records.length) } });
  const bytes = Buffer.concat([one.subarray(0, start), records, end64]);
  bytes.writeBigUInt64LE(BigInt(records.length), start + records.length + 40);
  return bytes;
}

async function millionTarGz(): Promise<Uint8Array> {
  const gzip = createGzip({ level: 1 });
  const many = Buffer.concat(Array.from({ length: 1000 }, (_, i) => tarEntry({ name: `x${i}` })));
  const parts: Buffer[] = [];
  const done = (async () => {
    for await (const part of gzip) parts.push(part as Buffer);
  })();
  for (let i = 0; i < MILLION / 1000; i++) {
    if (!gzip.write(many)) await new Promise((resolve) => gzip.once('drain', resolve));
  }
  gzip.end();
  await done;
  return Buffer.concat(parts);
}
