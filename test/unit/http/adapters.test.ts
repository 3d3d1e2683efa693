import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type TestServer, testServer } from './support.ts';

let server: TestServer;
let url: string;
beforeEach(async () => {
  server = await testServer();
  url = await server.listen();
});
afterEach(() => server.close());

const CONFIG = ['adapter_config.json', '{"r":8}'] as const;
const WEIGHTS = ['adapter_model.safetensors', 'tensors'] as const;

async function upload(name: string, files: readonly (readonly [string, string])[], field?: string) {
  const form = new FormData();
  for (const [file, content] of files) {
    if (field === 'name') form.append(file, new Blob([content]), 'blob');
    else form.append('files', new Blob([content]), file);
  }
  const response = await fetch(`${url}/v1/adapters/${name}`, { method: 'PUT', body: form });
  return { status: response.status, body: (await response.json()) as Record<string, unknown> };
}

describe('PUT /v1/adapters/{name}, upload', () => {
  it('hands the two files over and answers 201, then 200', async () => {
    const created = await upload('new', [CONFIG, WEIGHTS]);
    expect(created).toMatchObject({
      status: 201,
      body: { name: 'new', object: 'adapter', rank: 8 },
    });
    expect(server.adapters.puts[0]?.files).toEqual({ config: '{"r":8}', weights: 'tensors' });
    expect((await upload('new', [WEIGHTS, CONFIG])).status).toBe(200);
    expect(await server.uploads()).toEqual([]);
  });

  it('takes the files that may have a chat template with them', async () => {
    const chat: [string, string][] = [
      ['chat_template.jinja', '{{ 1 }}'],
      ['tokenizer_config.json', '{}'],
    ];
    expect((await upload('new', [CONFIG, WEIGHTS, ...chat])).status).toBe(201);
    expect(server.adapters.puts[0]?.files).toMatchObject({ template: '{{ 1 }}', tokenizer: '{}' });
    const long: [string, string] = ['chat_template.jinja', 'x'.repeat(1025)];
    expect(await upload('new', [CONFIG, long, WEIGHTS])).toMatchObject({
      status: 413,
      body: { error: { code: 'adapter_too_large', param: 'chat_template.jinja' } },
    });
    expect(await server.uploads()).toEqual([]);
  });

  it('knows the files by their field names too', async () => {
    expect((await upload('new', [CONFIG, WEIGHTS], 'name')).status).toBe(201);
  });

  it('takes names with slashes and colons when they are encoded', async () => {
    const { status, body } = await upload(encodeURIComponent('org/base:one'), [CONFIG, WEIGHTS]);
    expect([status, body.name]).toEqual([201, 'org/base:one']);
    const shown = await fetch(`${url}/v1/adapters/${encodeURIComponent('org/base:one')}`);
    expect(shown.status).toBe(200);
  });

  it.each([
    ['a missing file', [CONFIG], 400, 'adapter_upload_incomplete'],
    ['nothing', [], 400, 'adapter_upload_incomplete'],
    ['a file twice', [CONFIG, CONFIG, WEIGHTS], 400, 'invalid_request'],
    ['another file', [CONFIG, ['README.md', '#']], 400, 'invalid_request'],
    ['a pickle', [CONFIG, ['adapter_model.bin', 'x']], 422, 'adapter_pickle_refused'],
    [
      'too many files',
      [CONFIG, ['a.json', '{}'], ['b.json', '{}'], ['c.json', '{}'], WEIGHTS],
      400,
      'invalid_request',
    ],
    [
      'a large config',
      [['adapter_config.json', 'x'.repeat(1025)], WEIGHTS],
      413,
      'adapter_too_large',
    ],
    [
      'large weights',
      [CONFIG, ['adapter_model.safetensors', 'x'.repeat(4097)]],
      413,
      'adapter_too_large',
    ],
    [
      'weights beyond all buffers',
      [CONFIG, ['adapter_model.safetensors', 'x'.repeat(3_000_000)]],
      413,
      'adapter_too_large',
    ],
  ] as const)('refuses %s and leaves nothing', async (_what, files, status, code) => {
    const answer = await upload('new', files);
    expect([answer.status, (answer.body.error as { code: string }).code]).toEqual([status, code]);
    expect(server.adapters.puts).toHaveLength(0);
    expect(await server.uploads()).toEqual([]);
  });

  it('takes the largest files that are allowed', async () => {
    const files = [
      ['adapter_config.json', 'x'.repeat(1024)],
      ['adapter_model.safetensors', 'x'.repeat(4096)],
    ] as const;
    expect((await upload('new', files)).status).toBe(201);
  });

  it('refuses a form that breaks off', async () => {
    const response = await fetch(`${url}/v1/adapters/new`, {
      method: 'PUT',
      headers: { 'content-type': 'multipart/form-data; boundary=xx' },
      body: '--xx\r\ncontent-disposition: form-data; name="f"; filename="adapter_config.json"\r\n\r\n{',
    });
    expect(response.status).toBe(400);
    expect(await server.uploads()).toEqual([]);
  });
});

describe('PUT /v1/adapters/{name}, JSON', () => {
  const put = (body: unknown) =>
    server.app.inject({ method: 'PUT', url: '/v1/adapters/new', payload: body as object });

  it('registers a folder', async () => {
    const response = await put({ path: 'some/folder' });
    expect(response.statusCode).toBe(201);
    expect(server.adapters.puts[0]?.source).toEqual({ kind: 'directory', path: 'some/folder' });
  });

  it.each([
    [
      { repo: 'org/name', revision: 'v1', subfolder: 'a/b' },
      { kind: 'hub', repo: 'org/name', revision: 'v1', subfolder: 'a/b' },
    ],
    [
      { repo: 'org/name', revision: null },
      { kind: 'hub', repo: 'org/name', revision: undefined, subfolder: undefined },
    ],
    [{ url: 'https://example.com/a.tar.gz' }, { kind: 'url', url: 'https://example.com/a.tar.gz' }],
    [
      { path: 'a', revision: null, subfolder: null },
      { kind: 'directory', path: 'a' },
    ],
  ])('hands over %j', async (body, source) => {
    expect((await put(body)).statusCode).toBe(201);
    expect(server.adapters.puts[0]?.source).toEqual(source);
  });

  it.each([
    [{ path: '/etc' }, 403, 'adapter_path_forbidden'],
    [{ path: '' }, 400, 'invalid_request'],
    [{}, 400, 'invalid_request'],
    [{ path: 'a', url: 'b' }, 400, 'invalid_request'],
    [{ path: 'a', repo: 'a/b' }, 400, 'invalid_request'],
    [{ repo: 'a/b', url: 'c' }, 400, 'invalid_request'],
    [{ revision: 'main' }, 400, 'invalid_request'],
    [{ path: 'a', revision: 'main' }, 400, 'invalid_request'],
    [{ url: 'a', subfolder: 'b' }, 400, 'invalid_request'],
    [{ repo: null }, 400, 'invalid_request'],
    [{ repo: 'a/b', revision: '' }, 400, 'invalid_request'],
    [{ repo: 'a/b', token: 'x' }, 400, 'unknown_field'],
  ])('refuses %j', async (body, status, code) => {
    const response = await put(body);
    expect([response.statusCode, response.json().error.code]).toEqual([status, code]);
  });

  it('refuses a request without a body', async () => {
    const response = await server.app.inject({ method: 'PUT', url: '/v1/adapters/new' });
    expect([response.statusCode, response.json().error.code]).toEqual([400, 'invalid_request']);
  });
});

describe('GET and DELETE', () => {
  const inject = (method: 'GET' | 'DELETE', path: string) =>
    server.app.inject({ method, url: path });

  it('shows where adapters are now, not where they were', async () => {
    const residencyOf = async () =>
      (await inject('GET', '/v1/adapters'))
        .json()
        .data.map((one: { residency: object }) => one.residency);
    const cold = { level: 'disk', pinned: false, references: 0, evicting: false };
    expect(await residencyOf()).toEqual([cold, cold]);
    const warm = { level: 'device', pinned: true, references: 3, evicting: false } as const;
    server.residency.views.set(server.adapters.resolve('sub').generation.digest, warm);
    expect(await residencyOf()).toEqual([cold, warm]);
    const shown = await inject('GET', '/v1/adapters/sub');
    expect(shown.json()).toMatchObject({
      residency: warm,
      pinned: false,
      split: null,
      generations: 1,
      revision: 1,
      updated: 1_700_000_000,
    });
    expect(shown.headers.etag).toBe(`"${shown.json().generation}"`);
  });

  it('lists, shows and removes', async () => {
    const list = (await inject('GET', '/v1/adapters')).json();
    expect(list.data.map((a: { name: string }) => a.name)).toEqual(['mul', 'sub']);
    expect(list.damaged).toEqual([{ name: 'broken', reason: 'digest mismatch' }]);
    expect((await inject('GET', '/v1/adapters/sub')).json()).toMatchObject({
      name: 'sub',
      target_modules: ['q_proj', 'v_proj'],
      resident_bytes: 1024,
      file_bytes: 2048,
      source: 'upload',
    });
    const removed = await inject('DELETE', '/v1/adapters/sub');
    expect(removed.json()).toEqual({ name: 'sub', object: 'adapter', deleted: true });
    const gone = await inject('GET', '/v1/adapters/sub');
    expect([gone.statusCode, gone.json().error.code]).toEqual([404, 'adapter_not_found']);
    expect((await inject('DELETE', '/v1/adapters/sub')).statusCode).toBe(404);
  });
});
