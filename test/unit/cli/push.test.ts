/** `loramux adapters push`: every source, and what is sent for it. */
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import { parseSource } from '../../../src/cli/source.ts';
import { adapter, digest, type FakeServer, fakeServer, loramux, refusal } from './support.ts';

const A = digest('aaaaaaaa');
const WEIGHTS = Buffer.alloc(300_000, 'w');

let dir: string;
let folder: string;
let server: FakeServer;
beforeAll(async () => {
  dir = await mkdtemp(path.join(tmpdir(), 'loramux-push-'));
  folder = path.join(dir, 'adapter');
  await mkdir(folder);
  await writeFile(path.join(folder, 'adapter_config.json'), '{"r":4}');
  await writeFile(path.join(folder, 'adapter_model.safetensors'), WEIGHTS);
  await writeFile(path.join(folder, 'README.md'), 'not sent');
  server = await fakeServer();
});
afterAll(async () => {
  await server.close();
  await rm(dir, { recursive: true, force: true });
});
beforeEach(() => {
  vi.stubEnv('LORAMUX_URL', server.url);
  server.received.length = 0;
  server.replies.length = 0;
});
afterEach(() => {
  vi.unstubAllEnvs();
});

const push = (...args: string[]) => loramux('adapters', 'push', ...args);
const ok = (fields: Record<string, unknown> = {}) =>
  server.replies.push({ status: 201, body: adapter('a', fields) });

describe('a folder', () => {
  it('is sent as its two files', async () => {
    ok();
    const { code, stdout, stderr } = await push('a', folder);
    expect([code, stdout, stderr]).toEqual([0, `a: generation ${A}, rank 8\n`, '']);
    const { method, url, headers, body } = server.received[0]!;
    expect([method, url]).toEqual(['PUT', '/v1/adapters/a']);
    expect(Number(headers['content-length'])).toBe(body.length);
    const form = await new Response(body, {
      headers: { 'content-type': headers['content-type']! },
    }).formData();
    const files = await Promise.all(
      form.getAll('files').map(async (file) => {
        const { name, size } = file as File;
        return [name, size, (await (file as File).text()).slice(0, 7)];
      }),
    );
    expect(files).toEqual([
      ['adapter_config.json', 7, '{"r":4}'],
      ['adapter_model.safetensors', WEIGHTS.length, 'wwwwwww'],
    ]);
  });

  it('without one of them is not sent', async () => {
    const missing = path.join(dir, 'missing');
    await mkdir(missing);
    await writeFile(path.join(missing, 'adapter_config.json'), '{}');
    const run = await push('a', missing);
    expect(run.code).toBe(1);
    expect(run.stderr).toMatch(/adapter_upload_incomplete: .* has no adapter_model\.safetensors/);
    await writeFile(path.join(missing, 'adapter_model.bin'), 'pickle');
    expect((await push('a', missing)).stderr).toMatch(/adapter_pickle_refused: /);
    expect(server.received).toEqual([]);
  });

  it('hears of a refusal before all of it is sent', async () => {
    const big = path.join(dir, 'big');
    await mkdir(big);
    await writeFile(path.join(big, 'adapter_config.json'), '{}');
    await writeFile(path.join(big, 'adapter_model.safetensors'), Buffer.alloc(30_000_000));
    server.answerEarly = true;
    server.replies.push({ status: 412, body: refusal('generation_mismatch', 'it exists') });
    const { code, stderr } = await push('a', big, '--create-only');
    server.answerEarly = false;
    expect([code, stderr]).toEqual([1, 'loramux: generation_mismatch: it exists\n']);
    expect(server.received[0]!.headers['if-none-match']).toBe('*');
  });
});

describe('an archive', () => {
  it.each([
    ['a.zip', 'application/zip'],
    ['a.tar.gz', 'application/gzip'],
    ['A.TGZ', 'application/gzip'],
  ])('%s is sent as %s', async (name, contentType) => {
    const file = path.join(dir, name);
    await writeFile(file, WEIGHTS);
    ok();
    expect((await push('a', file)).code).toBe(0);
    const { headers, body } = server.received[0]!;
    expect(headers['content-type']).toBe(contentType);
    expect(body.equals(WEIGHTS)).toBe(true);
  });

  it('may be empty; the server says what it thinks of that', async () => {
    const file = path.join(dir, 'empty.zip');
    await writeFile(file, '');
    server.replies.push({ status: 422, body: refusal('archive_invalid', 'no archive') });
    expect((await push('a', file)).stderr).toBe('loramux: archive_invalid: no archive\n');
    expect(server.received[0]!.headers['content-length']).toBe('0');
  });
});

describe('what the server fetches', () => {
  it.each([
    ['hf://org/repo', { repo: 'org/repo' }],
    ['hf://org/repo/', { repo: 'org/repo' }],
    ['hf://org/repo@v1.0', { repo: 'org/repo', revision: 'v1.0' }],
    ['hf://org/repo@refs/pr/3', { repo: 'org/repo', revision: 'refs/pr/3' }],
    ['hf://org/repo@a%2Fb/x/y', { repo: 'org/repo', revision: 'a/b', subfolder: 'x/y' }],
    ['hf://org/repo/x', { repo: 'org/repo', subfolder: 'x' }],
    ['https://h/a.zip?k=1', { url: 'https://h/a.zip?k=1' }],
    ['http://h/a.zip', { url: 'http://h/a.zip' }],
    ['server:team/a', { path: 'team/a' }],
  ])('%s', async (source, body) => {
    ok();
    expect((await push('a', source)).code).toBe(0);
    const { headers, body: received } = server.received[0]!;
    expect(headers['content-type']).toBe('application/json');
    expect(JSON.parse(received.toString())).toEqual(body);
  });

  it.each(['hf://repo', 'hf://org/repo@', 'hf://org/repo@%zz', 's3://b/k', 'server:'])(
    '%s is a usage error',
    async (source) => {
      const { code, stderr } = await push('a', source);
      expect([code, stderr]).toEqual([2, expect.stringMatching(/^loramux: config_invalid: /)]);
      expect(server.received).toEqual([]);
    },
  );

  it('is told from local files', async () => {
    await expect(parseSource(path.join(dir, 'nothing'))).rejects.toThrow('does not exist');
    const file = path.join(folder, 'adapter_model.safetensors');
    await expect(parseSource(file)).rejects.toThrow('is not an adapter; the source must be');
    expect(await parseSource(folder)).toEqual({ kind: 'folder', path: folder });
  });
});

describe('options', () => {
  it('send conditions and a canary weight', async () => {
    ok({ split: { generation: digest('b'), weight: 0.1 } });
    const { stdout } = await push('a', folder, '--if-match', `"${A}"`, '--canary', '0.1');
    expect(server.received[0]!.url).toBe('/v1/adapters/a?canary_weight=0.1');
    expect(server.received[0]!.headers['if-match']).toBe(`"${A}"`);
    expect(stdout).toContain(`10 % of the requests get ${digest('b')}`);
  });

  it('pin afterwards, and say when that failed', async () => {
    ok();
    ok({ pinned: true });
    const run = await push('a', folder, '--pin');
    expect([run.code, run.stdout]).toEqual([0, `a: generation ${A}, rank 8, pinned\n`]);
    expect(server.received.map(({ method, url }) => `${method} ${url}`)).toEqual([
      'PUT /v1/adapters/a',
      'POST /v1/adapters/a/pin',
    ]);
    ok();
    server.replies.push({ status: 409, body: refusal('pin_limit_exceeded', 'too many pins') });
    expect(await push('a', folder, '--pin')).toEqual({
      code: 1,
      stdout: '',
      stderr: 'loramux: pin_limit_exceeded: a was pushed, but not pinned: too many pins\n',
    });
  });

  it('print the answer as it came', async () => {
    server.replies.push({ status: 201, body: '{"name": "a"}' });
    expect((await push('a', folder, '--json')).stdout).toBe('{"name": "a"}\n');
  });
});
