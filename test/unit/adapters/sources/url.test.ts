/** Archives behind URLs: who is asked, what is believed, and when it ends. */
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { gzipSync } from 'node:zlib';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { maxArchiveBytes } from '../../../../src/adapters/sources/archive-contents.ts';
import {
  createSourceOpener,
  type SourceOpenerOptions,
} from '../../../../src/adapters/sources/opener.ts';
import type { ErrorCode, LoramuxError } from '../../../../src/errors.ts';
import { TempDir } from '../../../support/adapter-files.ts';
import { tarGz, zip } from '../../../support/archives.ts';
import { folderTree } from '../../../support/folder-tree.ts';

const entries = [
  { name: 'adapter_config.json', data: Buffer.from('{}') },
  { name: 'adapter_model.safetensors', data: Buffer.from('weights') },
];
const limits = { maxAdapterBytes: 1e5, maxConfigBytes: 1e4, maxArchiveEntries: 8 };

const temp = new TempDir();
const workDir = temp.join('work');
mkdirSync(workDir);
writeFileSync(temp.join('canary'), 'untouched');
let answer: (request: IncomingMessage, response: ServerResponse) => void;
let seen: IncomingMessage[] = [];
let server: Server;
let origin: string;
beforeAll(async () => {
  server = createServer((request, response) => {
    seen.push(request);
    answer(request, response);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});
beforeEach(() => {
  seen = [];
  answer = (_, response) => response.end(zip(entries));
});
afterEach(() => expect(readdirSync(workDir)).toEqual([]));
afterAll(async () => {
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
  temp.remove();
});

function opener(options: Partial<SourceOpenerOptions> = {}) {
  return createSourceOpener({
    workDir,
    adapterRoot: undefined,
    limits,
    hub: { endpoint: origin, token: 'hf_secret' },
    remote: true,
    allowPrivate: true,
    timeoutMs: 30_000,
    onWarning: (message, error) => {
      throw new Error(message, { cause: error });
    },
    ...options,
  });
}

const open = (
  url: string,
  options?: Partial<SourceOpenerOptions>,
  signal = new AbortController().signal,
) => opener(options).open({ kind: 'url', url }, signal);

async function refused(
  url: string,
  code: ErrorCode,
  message: RegExp,
  options?: Partial<SourceOpenerOptions>,
) {
  const before = folderTree(temp.path);
  const error = (await open(url, options).catch((e) => e)) as LoramuxError;
  expect({ code: error.code, message: error.message }).toEqual({
    code,
    message: expect.stringMatching(message),
  });
  expect(error.message).not.toContain('secret');
  expect(folderTree(temp.path)).toEqual(before);
}

async function accepted(url: string, label: string, options?: Partial<SourceOpenerOptions>) {
  const opened = await open(url, options);
  expect(opened).toMatchObject({ label, root: undefined });
  expect(readFileSync(opened.configPath, 'utf8')).toBe('{}');
  expect(readFileSync(opened.weightsPath, 'utf8')).toBe('weights');
  expect(readdirSync(workDir).length).toBe(2);
  await opened.cleanup();
}

describe('an archive by URL', () => {
  it('is told by its content, whatever name, type and encoding say', async () => {
    for (const bytes of [zip(entries), tarGz(entries)]) {
      for (const type of ['application/zip', 'application/gzip', 'text/html']) {
        for (const encoding of ['gzip', 'br', undefined]) {
          answer = (_, response) => {
            response.setHeader('content-type', type);
            if (encoding !== undefined) response.setHeader('content-encoding', encoding);
            response.end(bytes);
          };
          await accepted(`${origin}/x.rar?key=secret#secret`, `${origin}/x.rar`);
        }
      }
    }
    const { headers } = seen[0]!;
    expect(headers['accept-encoding']).toBe('identity');
    expect(headers.authorization).toBeUndefined();
    expect(headers.cookie).toBeUndefined();
    answer = (_, response) => response.end(gzipSync(zip(entries)));
    await refused(`${origin}/x`, 'archive_invalid', /cannot be read/);
    answer = (_, response) => response.end('<html>');
    await refused(`${origin}/x`, 'archive_invalid', /neither/);
    answer = (_, response) => response.end();
    await refused(`${origin}/x`, 'archive_invalid', /neither/);
  });

  it('without a length, in small pieces', async () => {
    answer = async (_, response) => {
      for (const byte of zip(entries)) {
        response.write(Buffer.from([byte]));
        await new Promise(setImmediate);
      }
      response.end();
    };
    await accepted(`${origin}/slow`, `${origin}/slow`);
  });

  it('comes over the name service that was given', async () => {
    const resolve = async () => [{ address: '127.0.0.1', family: 4 }];
    const { port } = new URL(origin);
    await accepted(`http://files.test:${port}/a`, `http://files.test:${port}/a`, { resolve });
    expect(seen[0]!.headers.host).toBe(`files.test:${port}`);
  });

  it('is not fetched through a proxy of the environment', async () => {
    const names = ['http_proxy', 'HTTP_PROXY', 'https_proxy', 'all_proxy', 'NODE_USE_ENV_PROXY'];
    const saved = names.map((name) => [name, process.env[name]] as const);
    for (const name of names) process.env[name] = 'http://127.0.0.1:1';
    try {
      await accepted(`${origin}/a`, `${origin}/a`);
    } finally {
      for (const [name, value] of saved) {
        if (value === undefined) delete process.env[name];
        else process.env[name] = value;
      }
    }
  });
});

describe('answers', () => {
  it.each([
    [404, 'source_not_found'],
    [410, 'source_not_found'],
    [401, 'source_forbidden'],
    [403, 'source_forbidden'],
    [500, 'source_unavailable'],
    [429, 'source_unavailable'],
    [206, 'source_unavailable'],
    [204, 'source_unavailable'],
    [304, 'source_unavailable'],
    [302, 'source_unavailable'],
  ] as const)('%d is %s', async (status, code) => {
    answer = (_, response) => response.writeHead(status).end();
    await refused(`${origin}/x?secret`, code, new RegExp(`${origin}/x answered ${status}`));
  });

  it('too large, as announced and as sent', async () => {
    const max = maxArchiveBytes(limits);
    answer = (_, response) => {
      response.writeHead(200, { 'content-length': max + 1 });
      response.write('x');
    };
    await refused(`${origin}/x`, 'archive_limit_exceeded', new RegExp(`${max} bytes`));
    answer = (_, response) => {
      const more = () => {
        while (response.write(Buffer.alloc(1 << 20)));
      };
      response.on('drain', more);
      more();
    };
    await refused(`${origin}/x`, 'archive_limit_exceeded', new RegExp(`${max} bytes`));
  });

  it('cut off', async () => {
    const bytes = zip(entries);
    answer = (_, response) => {
      response.writeHead(200, { 'content-length': bytes.length });
      response.write(bytes.subarray(0, 50), () => response.destroy());
    };
    await refused(`${origin}/x`, 'source_unavailable', /transfer .* failed/);
    answer = (_, response) => {
      response.write(bytes.subarray(0, 50), () => response.destroy());
    };
    await refused(`${origin}/x`, 'source_unavailable', /transfer .* failed/);
    answer = (_, response) => response.destroy();
    await refused(`${origin}/x`, 'source_unavailable', /transfer .* failed/);
    answer = (_, response) => {
      response.socket!.end(`HTTP/1.1 200 OK\r\nx: ${'y'.repeat(40_000)}\r\n\r\n`);
    };
    await refused(`${origin}/x`, 'source_unavailable', /HEADERS_OVERFLOW/);
  });

  it('silence, before and after the headers, until the time limit or an abort', async () => {
    for (const first of [
      () => undefined,
      (_: IncomingMessage, response: ServerResponse) => void response.write('PK'),
    ]) {
      answer = first;
      await refused(`${origin}/x`, 'source_unavailable', /within 200 ms/, { timeoutMs: 200 });
      seen = [];
      const controller = new AbortController();
      const opening = open(`${origin}/x`, {}, controller.signal).catch((e) => e);
      while (seen.length === 0) await new Promise((resolve) => setTimeout(resolve, 5));
      const reason = new Error('the client left');
      controller.abort(reason);
      expect(await opening).toBe(reason);
      expect(readdirSync(workDir)).toEqual([]);
    }
    const never = () => new Promise<never>(() => undefined);
    const options = { resolve: never, timeoutMs: 200 };
    await refused('http://silent.test/', 'source_unavailable', /within 200 ms/, options);
  });
});

describe('redirects', () => {
  it('are followed five times, with every kind of address', async () => {
    answer = (request, response) => {
      const n = Number(new URL(request.url!, origin).pathname.slice(1));
      if (n === 0) response.end(zip(entries));
      else response.writeHead([301, 302, 303, 307, 308][n % 5]!, { location: `./${n - 1}` }).end();
    };
    await accepted(`${origin}/5`, `${origin}/5`);
    expect(seen.length).toBe(6);
    await refused(`${origin}/6`, 'source_unavailable', /5 redirects/);
    answer = (_, response) => response.writeHead(302, { location: '/again' }).end();
    await refused(`${origin}/again`, 'source_unavailable', /5 redirects/);
  });

  it.each([
    ['file:///etc/passwd', 'source_forbidden', /not an https/],
    ['ftp://example.com/', 'source_forbidden', /not an https/],
    ['data:application/zip,PK', 'source_forbidden', /not an https/],
    ['http://user:secret@127.0.0.1/', 'source_forbidden', /credentials/],
    ['http://[', 'source_unavailable', /redirect .* malformed/],
    [`http://x.test/${'y'.repeat(5000)}`, 'invalid_request', /4096/],
  ] as const)('to %s are %s', async (location, code, message) => {
    answer = (_, response) => response.writeHead(302, { location }).end();
    await refused(`${origin}/x`, code, message);
    expect(seen.length).toBe(1);
  });
});

describe('addresses that are not fetched from', () => {
  const strict = { allowPrivate: false };
  it.each([
    'http://93.184.216.34/x.zip',
    'https://127.0.0.1/',
    'https://127.1/',
    'https://0x7f000001/',
    'https://0177.0.0.1/',
    'https://2130706433/',
    'https://127.0.0.1./',
    'https://①②⑦.0.0.1/',
    'https://%31%32%37.0.0.1/',
    'https://0/',
    'https://[::1]/',
    'https://[::]/',
    'https://[::ffff:127.0.0.1]/',
    'https://[::127.0.0.1]/',
    'https://[64:ff9b::7f00:1]/',
    'https://[2002:7f00:1::]/',
    'https://[fe80::1]/',
    'https://[fd00::1]/',
    'https://169.254.169.254/latest/meta-data/',
    'https://192.168.0.1:8443/',
    'https://localhost/',
    'https://LOCALHOST./',
    'https://localhost../',
    'https://db.localhost/',
    'file:///etc/passwd',
    'ftp://example.com/x.zip',
    'gopher://example.com/',
    'javascript:1',
    'https://user:secret@example.com/',
    'https://secret@example.com/',
  ])('%s', async (url) => {
    let lookups = 0;
    const resolve = async () => {
      lookups++;
      return [{ address: '127.0.0.1', family: 4 }];
    };
    await refused(url, 'source_forbidden', /./, { ...strict, resolve });
    expect(lookups).toBe(0);
  });

  it.each([
    ['127.0.0.1'],
    ['8.8.8.8', '10.0.0.1'],
    ['::1'],
    ['8.8.8.8', 'fd00::1'],
    ['::ffff:192.168.1.1'],
    ['64:ff9b::a00:1'],
    ['0.0.0.0'],
  ])('a name that leads to %j %j', async (...addresses) => {
    const resolve = async () =>
      addresses.map((address) => ({ address, family: address.includes(':') ? 6 : 4 }));
    const { port } = new URL(origin);
    const url = `https://innocent.test:${port}/x`;
    await refused(url, 'source_forbidden', /innocent\.test.*not public/, { ...strict, resolve });
    expect(seen).toEqual([]);
  });

  it('the hub endpoint is no exception for a URL', async () => {
    await refused(`${origin}/x`, 'source_forbidden', /https/, strict);
    expect(seen).toEqual([]);
  });

  it('any, when remote sources are off', async () => {
    await refused(`${origin}/x`, 'source_forbidden', /turned off/, { remote: false });
    expect(seen).toEqual([]);
  });

  it('what is no URL, or too long', async () => {
    for (const url of [
      '',
      'x',
      '//x',
      'https://',
      'http://a b/',
      'https://[::1',
      'https://1.1.1.1.1/',
    ]) {
      await refused(url, 'invalid_request', /malformed/);
    }
    await refused(`${origin}/${'x'.repeat(5000)}`, 'invalid_request', /4096 bytes/);
  });

  it('a name that nobody knows', async () => {
    const resolve = async () => {
      throw Object.assign(new Error('getaddrinfo ENOTFOUND'), { code: 'ENOTFOUND' });
    };
    await refused('https://gone.test/', 'source_unavailable', /ENOTFOUND/, { ...strict, resolve });
    const none = async () => [];
    await refused('https://gone.test/', 'source_unavailable', /no address/, { resolve: none });
  });
});
