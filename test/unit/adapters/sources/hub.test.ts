/** Adapters from a hub look-alike, which the hub's own clients can read too. */
import { mkdirSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { downloadFile, listFiles, modelInfo } from '@huggingface/hub';
import { afterAll, afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  createSourceOpener,
  type SourceOpenerOptions,
} from '../../../../src/adapters/sources/opener.ts';
import type { ErrorCode, LoramuxError } from '../../../../src/errors.ts';
import { FIXTURES, TempDir } from '../../../support/adapter-files.ts';
import { HubServer } from '../../../support/hub-server.ts';

const CONFIG = 'adapter_config.json';
const WEIGHTS = 'adapter_model.safetensors';
const TOKEN = 'hf_secretsecretsecret';
const source = path.join(FIXTURES, 'adapters/llama2/qv-r4');
const config = readFileSync(path.join(source, CONFIG));
const weights = readFileSync(path.join(source, WEIGHTS));
const files = { [CONFIG]: config, [WEIGHTS]: weights, 'README.md': 'hello' };

const temp = new TempDir();
const workDir = temp.join('work');
mkdirSync(workDir);
let hub: HubServer;
beforeEach(async () => {
  hub = await HubServer.start(TOKEN);
});
afterEach(async () => {
  await hub.close();
  expect(readdirSync(workDir)).toEqual([]);
});
afterAll(() => temp.remove());

function opener(options: Partial<SourceOpenerOptions> = {}) {
  return createSourceOpener({
    workDir,
    adapterRoot: undefined,
    limits: { maxAdapterBytes: 1e6, maxConfigBytes: 1e5, maxArchiveEntries: 16 },
    hub: { endpoint: hub.url },
    remote: true,
    // The second server of the look-alike is private as well.
    allowPrivate: true,
    timeoutMs: 30_000,
    onWarning: (message, error) => {
      throw new Error(message, { cause: error });
    },
    ...options,
  });
}

interface Asked {
  repo?: string;
  revision?: string;
  subfolder?: string;
}

const open = (asked: Asked = {}, options?: Partial<SourceOpenerOptions>, signal?: AbortSignal) =>
  opener(options).open(
    {
      kind: 'hub',
      repo: asked.repo ?? 'ada/lora',
      revision: asked.revision,
      subfolder: asked.subfolder,
    },
    signal ?? new AbortController().signal,
  );

async function refused(
  code: ErrorCode,
  message: RegExp,
  asked: Asked = {},
  options?: Partial<SourceOpenerOptions>,
) {
  const error = (await open(asked, options).catch((e) => e)) as LoramuxError;
  expect({ code: error.code, message: error.message }).toEqual({
    code,
    message: expect.stringMatching(message),
  });
  expect(`${error.message} ${error.stack}`).not.toContain(TOKEN);
  expect(error.message).not.toContain('secret');
  expect(readdirSync(workDir)).toEqual([]);
}

const withToken = () => ({ hub: { endpoint: hub.url, token: TOKEN } });

describe('the look-alike', () => {
  it('is read by the client of the hub', async () => {
    const first = hub.commit('ada/lora', files);
    hub.commit('ada/lora', { ...files, 'sub/x.txt': 'x' });
    const info = await modelInfo({ name: 'ada/lora', hubUrl: hub.url, additionalFields: ['sha'] });
    expect(info).toMatchObject({ name: 'ada/lora' });
    const repo = 'ada/lora';
    const listed = [];
    for await (const file of listFiles({ repo, hubUrl: hub.url, recursive: true })) {
      listed.push(`${file.type} ${file.path} ${file.lfs === undefined ? 'git' : 'lfs'}`);
    }
    expect(listed.sort()).toEqual([
      'directory sub git',
      'file README.md git',
      `file ${CONFIG} git`,
      `file ${WEIGHTS} lfs`,
      'file sub/x.txt git',
    ]);
    for (const revision of ['main', first]) {
      const blob = await downloadFile({ repo, revision, path: WEIGHTS, hubUrl: hub.url });
      expect(Buffer.from(await blob!.arrayBuffer()).equals(weights)).toBe(true);
    }
    const missing = await downloadFile({ repo, path: 'sub/none', hubUrl: hub.url });
    expect(missing).toBeNull();
  });
});

describe('a repository', () => {
  it('is read at the commit that its branch has now', async () => {
    const first = hub.commit('ada/lora', { ...files, [CONFIG]: '{}' });
    const second = hub.commit('ada/lora', files);
    hub.commit('ada/lora', { ...files, [CONFIG]: '[]' }, 'v1.0');
    for (const [revision, commit, expected] of [
      [undefined, second, config],
      ['main', second, config],
      [first, first, Buffer.from('{}')],
      ['v1.0', undefined, Buffer.from('[]')],
    ] as const) {
      const opened = await open(revision === undefined ? {} : { revision });
      if (commit !== undefined) expect(opened.label).toBe(`hf:ada/lora@${commit}`);
      expect(opened.label).toMatch(/^hf:ada\/lora@[0-9a-f]{40}$/);
      expect(opened.root).toBeUndefined();
      expect(readFileSync(opened.configPath).equals(expected)).toBe(true);
      expect(readFileSync(opened.weightsPath).equals(weights)).toBe(true);
      await opened.cleanup();
    }
    const files1 = hub.requests.filter(({ target }) => target.includes('/resolve/'));
    expect(files1.every(({ target }) => /\/resolve\/[0-9a-f]{40}\//.test(target))).toBe(true);
    expect(hub.requests.some(({ target }) => target.includes('README'))).toBe(false);
  });

  it('is read from a subfolder', async () => {
    const commit = hub.commit('ada/lora', {
      'checkpoints/5 %/adapter_config.json': config,
      'checkpoints/5 %/adapter_model.safetensors': weights,
    });
    for (const subfolder of ['checkpoints/5 %', '/checkpoints/5 %/']) {
      const opened = await open({ subfolder });
      expect(opened.label).toBe(`hf:ada/lora@${commit}/checkpoints/5 %`);
      expect(readFileSync(opened.weightsPath).equals(weights)).toBe(true);
      await opened.cleanup();
    }
    await refused('source_not_found', /adapter_config.json.*subfolder/);
    await refused('source_not_found', /"none\/adapter_config/, { subfolder: 'none' });
  });

  it('is read with the token, which goes nowhere else', async () => {
    hub.commit('ada/lora', files, 'main', { private: true });
    await refused('source_not_found', /no hub token/);
    const opened = await open({}, withToken());
    expect(readFileSync(opened.weightsPath).equals(weights)).toBe(true);
    expect(opened.label).not.toContain('secret');
    await opened.cleanup();
    const toCdn = hub.requests.filter(({ server }) => server === 'cdn');
    expect(toCdn.length).toBe(1);
    expect(toCdn[0]!.authorization).toBeUndefined();
    const toHub = hub.requests.filter(({ server }) => server === 'hub').slice(-3);
    expect(toHub.every(({ authorization }) => authorization === `Bearer ${TOKEN}`)).toBe(true);
  });

  it('is read with a token of another form than the public hub has', async () => {
    hub.token = 'corporate-token';
    hub.commit('ada/lora', files, 'main', { private: true });
    const opened = await open({}, { hub: { endpoint: `${hub.url}/`, token: 'corporate-token' } });
    await opened.cleanup();
  });

  it('is refused when it is missing, gated or not ours', async () => {
    hub.commit('ada/lora', files);
    await refused('source_not_found', /no revision "v9"/, { revision: 'v9' });
    await refused('source_not_found', /does not exist on the hub, or is private/, { repo: 'a/b' });
    await refused('source_not_found', /token may not read/, { repo: 'a/b' }, withToken());
    const wrong = { hub: { endpoint: hub.url, token: 'hf_secretwrong' } };
    await refused('source_forbidden', /401.*token is not valid/, {}, wrong);
    hub.commit('ada/gated', files, 'main', { gated: true });
    await refused('source_forbidden', /gated/, { repo: 'ada/gated' });
    await refused('source_forbidden', /gated/, { repo: 'ada/gated' }, withToken());
    await refused('source_forbidden', /turned off/, {}, { remote: false });
  });

  it('is refused without safetensors, or with files too large', async () => {
    hub.commit('ada/lora', { [CONFIG]: config, 'adapter_model.bin': 'pickle' });
    await refused('adapter_pickle_refused', /adapter_model\.bin/);
    hub.commit('ada/lora', { [CONFIG]: config });
    await refused('source_not_found', /safetensors/);
    hub.commit('ada/lora', files);
    const limits = { maxAdapterBytes: 100, maxConfigBytes: 1e5, maxArchiveEntries: 9 };
    await refused('adapter_too_large', /100 bytes/, {}, { limits });
    const small = { maxAdapterBytes: 1e6, maxConfigBytes: 100, maxArchiveEntries: 9 };
    await refused('adapter_too_large', /adapter_config/, {}, { limits: small });
    expect(hub.requests.some(({ target }) => target.includes('/resolve/'))).toBe(false);
  });

  it.each([
    [{ repo: 'lora' }],
    [{ repo: 'a/b/c' }],
    [{ repo: '../b' }],
    [{ repo: 'a/..' }],
    [{ repo: 'a/b?x' }],
    [{ repo: 'a/b%2f..' }],
    [{ repo: `${'a'.repeat(200)}/b` }],
    [{ revision: '../x' }],
    [{ revision: '' }],
    [{ revision: 'a b' }],
    [{ revision: 'r'.repeat(300) }],
    [{ subfolder: '../x' }],
    [{ subfolder: 'a//b' }],
    [{ subfolder: 'a\\b' }],
    [{ subfolder: 'a\0' }],
    [{ subfolder: 'a/./b' }],
  ])('%j is no request', async (asked) => {
    await refused('invalid_request', /must be/, asked);
    expect(hub.requests).toEqual([]);
  });
});

describe('a hub that misbehaves', () => {
  beforeEach(() => {
    hub.commit('ada/lora', files);
  });

  it.each([
    ['cut', /failed/],
    ['wrong-bytes', /wrong SHA-256/],
    ['endless', /more than the \d+ bytes/],
    ['gzip', /content encoding "gzip"/],
    [{ status: 503 }, /503/],
    [{ status: 404 }, /does not exist/],
    [{ redirect: 'http://[' }, /malformed/],
    [{ redirect: '/ada/lora/resolve/main/adapter_model.safetensors' }, /5 redirects/],
  ] as const)('weights: %j', async (fault, message) => {
    hub.faults.set(WEIGHTS, fault);
    const isMissing = typeof fault === 'object' && 'status' in fault && fault.status === 404;
    await refused(isMissing ? 'source_not_found' : 'source_unavailable', message);
  });

  it('a SHA-256 that is not that of the bytes', async () => {
    hub.statedSha256 = '0'.repeat(64);
    await refused('source_unavailable', /wrong SHA-256/);
  });

  it('answers that are none', async () => {
    const bodies = ['', 'no json', '[]', '{}', '{"sha":"main"}', '{"sha":7}', 'null', '7'];
    for (const body of bodies) {
      hub.answers.set('/revision/', (response) => void response.end(body));
      await refused('source_unavailable', /The hub answered/);
    }
    hub.answers.clear();
    const file = (size: unknown) => JSON.stringify([{ type: 'file', path: CONFIG, size }]);
    for (const body of ['', '{}', 'null', '[null]', file('7'), file(-1), file(0.5)]) {
      hub.answers.set('/paths-info/', (response) => void response.end(body));
      await refused('source_unavailable', /The hub answered/);
    }
    hub.answers.set('/paths-info/', (response) => void response.end(Buffer.alloc(6e6, ' ')));
    await refused('source_unavailable', /more than 4194304 bytes/);
    hub.answers.set('/paths-info/', (response) => void response.writeHead(500).end('secret'));
    await refused('source_unavailable', /answered 500/);
  });

  it('silence ends with the time limit, or when the caller gives up', async () => {
    hub.faults.set(WEIGHTS, 'stalled');
    await refused('source_unavailable', /within 300 ms/, {}, { timeoutMs: 300 });
    hub.answers.set('/revision/', () => undefined);
    await refused('source_unavailable', /within 300 ms/, {}, { timeoutMs: 300 });
    const controller = new AbortController();
    const before = hub.requests.length;
    const opening = open({}, {}, controller.signal).catch((e) => e);
    while (hub.requests.length === before) await new Promise((resolve) => setTimeout(resolve, 5));
    const reason = new Error('left');
    controller.abort(reason);
    expect(await opening).toBe(reason);
  });

  it('a server that is gone', async () => {
    const endpoint = hub.url;
    await hub.close();
    await refused('source_unavailable', /ECONNREFUSED/, {}, { hub: { endpoint } });
    hub = await HubServer.start();
  });
});

describe('addresses', () => {
  it('the configured endpoint may be private, what it redirects to may not', async () => {
    hub.commit('ada/lora', files);
    const before = hub.requests.length;
    await refused('source_forbidden', /not an https address/, {}, { allowPrivate: false });
    const asked = hub.requests.slice(before);
    expect(asked.length).toBeGreaterThan(0);
    expect(asked.every(({ server }) => server === 'hub')).toBe(true);

    const port = new URL(hub.cdnUrl).port;
    for (const [redirect, message] of [
      [`https://127.0.0.1:${port}/x`, /not a public address/],
      [`https://localhost:${port}/x`, /not a public address/],
      [`https://[::ffff:127.0.0.1]:${port}/x`, /not a public address/],
      [`https://private.test:${port}/x`, /an address that is not public/],
      [`https://user:secret@example.com/x`, /credentials/],
      ['file:///etc/passwd', /not an https address/],
    ] as const) {
      hub.faults.set(WEIGHTS, { redirect });
      const resolve = async () => [{ address: '10.0.0.7', family: 4 }];
      await refused('source_forbidden', message, {}, { allowPrivate: false, resolve });
    }
    expect(hub.requests.every(({ server }) => server === 'hub')).toBe(true);
  });

  it('small files of a private endpoint come without any other host', async () => {
    hub.faults.set(WEIGHTS, { redirect: `${hub.url}/ada/lora/resolve/main/copy.txt` });
    hub.commit('ada/lora', { ...files, 'copy.txt': weights.subarray(0, 9000) });
    await refused('source_unavailable', /9000 of/, {}, { allowPrivate: false });
  });

  it.each(['ftp://x', 'nothing', 'https://u:p@x', 'https://x?y=z', 'https://x#y'])(
    'the endpoint %s is refused at start',
    (endpoint) => {
      expect(() => opener({ hub: { endpoint } })).toThrow(/endpoint/);
    },
  );
});
