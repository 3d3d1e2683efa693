import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { LoramuxError } from '../../../src/errors.ts';
import { sha256 } from '../../support/fake-adapters.ts';
import { type TestServer, testServer } from './support.ts';

let server: TestServer;
beforeEach(async () => {
  server = await testServer();
});
afterEach(() => server.close());

const post = (url: string, payload: object) => server.app.inject({ method: 'POST', url, payload });
const load = (body: object) => post('/v1/load_lora_adapter', body);
const unload = (body: object) => post('/v1/unload_lora_adapter', body);

const NEW = { lora_name: 'new', lora_path: 'some/folder/below' };
const HUB = { kind: 'hub', revision: undefined, subfolder: undefined };

describe("vLLM's routes", () => {
  it('answer as vLLM does', async () => {
    const loaded = await load(NEW);
    expect(loaded.body).toBe("Success: LoRA adapter 'new' added successfully.");
    expect([loaded.statusCode, loaded.headers['content-type']]).toEqual([
      200,
      'text/plain; charset=utf-8',
    ]);
    expect(server.adapters.puts[0]?.source).toEqual({
      kind: 'directory',
      path: 'some/folder/below',
    });
    const removed = await unload({ lora_name: 'new', lora_int_id: 2 ** 62 });
    expect(removed.body).toBe("Success: LoRA adapter 'new' removed successfully.");
    expect(server.adapters.get('new')).toBeUndefined();
  });

  it('refuse a loaded name in the words that clients look for', async () => {
    const { statusCode, body } = await load({ ...NEW, lora_name: 'sub' });
    expect(statusCode).toBe(400);
    expect(JSON.parse(body).error).toMatchObject({
      code: 'adapter_already_loaded',
      type: 'invalid_request_error',
      param: 'lora_name',
      message: expect.stringContaining("The lora adapter 'sub' has already been loaded."),
    });
  });

  it('replace in place, if the expected generation is current', async () => {
    const body = { ...NEW, lora_name: 'sub', load_inplace: true };
    const stale = await load({ ...body, expected_generation: 'f'.repeat(64) });
    expect(stale.statusCode).toBe(412);
    expect(stale.json().error).toMatchObject({
      code: 'generation_mismatch',
      current_generation: sha256('sub'),
    });
    const replaced = await load({ ...body, expected_generation: sha256('sub') });
    expect(replaced.statusCode).toBe(200);
    expect((await load({ ...body, expected_generation: null })).statusCode).toBe(200);
  });

  it('take what clients send along', async () => {
    const { body } = await load({ ...NEW, base_model_name: 'base', is_3d_lora_weight: false });
    expect(body).toMatch(/^Success/);
  });

  it.each([
    [{ lora_name: 'x' }, 400, 'invalid_request', 'lora_path'],
    [{ lora_path: 'x' }, 400, 'invalid_request', 'lora_name'],
    [{ lora_name: '', lora_path: 'x' }, 400, 'invalid_request', 'lora_name'],
    [{ lora_name: 'x', lora_path: '' }, 400, 'invalid_request', 'lora_path'],
    [{ ...NEW, lora_path: '/etc' }, 403, 'adapter_path_forbidden', 'path'],
    [{ ...NEW, lora_name: 'a b' }, 400, 'adapter_name_invalid', null],
    [{ ...NEW, load_inplace: 'yes' }, 400, 'invalid_request', 'load_inplace'],
    [{ ...NEW, base_model_name: 'llama' }, 404, 'model_not_found', 'base_model_name'],
    [{ ...NEW, is_3d_lora_weight: true }, 400, 'unsupported_field', 'is_3d_lora_weight'],
    [{ ...NEW, lora_module: 'x' }, 400, 'unknown_field', 'lora_module'],
    [
      { ...NEW, expected_generation: 'f'.repeat(64) },
      400,
      'invalid_request',
      'expected_generation',
    ],
    [
      { ...NEW, load_inplace: true, expected_generation: 'F' },
      400,
      'invalid_request',
      'expected_generation',
    ],
  ])('refuse to load %j', async (body, status, code, param) => {
    const response = await load(body);
    expect(response.statusCode).toBe(status);
    expect(response.json().error).toMatchObject({ code, param });
    expect(server.adapters.puts).toHaveLength(0);
  });

  it.each([
    [{ lora_name: 'nobody' }, 404, 'adapter_not_found'],
    [{ lora_name: '' }, 400, 'invalid_request'],
    [{}, 400, 'invalid_request'],
    [{ lora_name: 'sub', expected_generation: 'f'.repeat(64) }, 412, 'generation_mismatch'],
  ])('refuse to unload %j', async (body, status, code) => {
    const response = await unload(body);
    expect([response.statusCode, response.json().error.code]).toEqual([status, code]);
    expect(server.adapters.get('sub')).toBeDefined();
  });

  it('say retry when the registry cannot be reached', async () => {
    server.adapters.failure = new LoramuxError('registry_unavailable', 'away');
    const response = await load(NEW);
    expect([response.statusCode, response.headers['retry-after']]).toEqual([503, '1']);
  });
});

describe('lora_path', () => {
  const sourceOf = async (loraPath: string) => {
    const { statusCode, body } = await load({ lora_name: 'new', lora_path: loraPath });
    expect(statusCode, body).toBe(200);
    return server.adapters.puts.at(-1)?.source;
  };

  it('is a repository when it looks like one and there is no such folder', async () => {
    expect(await sourceOf('org/adapter-1.0')).toEqual({ ...HUB, repo: 'org/adapter-1.0' });
  });

  it.each(['folder', './org', 'a/b/c', '../up', 'org/..', './x', 'org/', 'a b/c'])(
    'is a folder when it cannot be a repository: %s',
    async (loraPath) => {
      expect(await sourceOf(loraPath)).toEqual({ kind: 'directory', path: loraPath });
    },
  );

  it('is a folder below the adapter root first', async () => {
    const adapterRoot = await mkdtemp(path.join(tmpdir(), 'loramux-root-'));
    await mkdir(path.join(adapterRoot, 'team/one'), { recursive: true });
    await server.close();
    server = await testServer({ config: { adapterRoot } });
    expect(await sourceOf('team/one')).toEqual({ kind: 'directory', path: 'team/one' });
    await server.adapters.remove('new');
    expect(await sourceOf('team/two')).toEqual({ ...HUB, repo: 'team/two' });
    await server.adapters.remove('new');
    expect(await sourceOf('.')).toEqual({ kind: 'directory', path: '.' });
    for (const loraPath of ['nothing', `${adapterRoot}/nothing`, 'team/one/\u0000']) {
      const response = await load({ lora_name: 'other', lora_path: loraPath });
      expect(response.statusCode, loraPath).toBe(404);
      expect(response.json().error.message).toContain('No adapter found for');
    }
    await rm(adapterRoot, { recursive: true });
  });

  it('is never a repository when the server fetches nothing', async () => {
    await server.close();
    server = await testServer({ config: { remoteSources: false } });
    expect(await sourceOf('org/name')).toEqual({ kind: 'directory', path: 'org/name' });
  });
});

describe("SGLang's routes", () => {
  it('load, pin and unload in its shape', async () => {
    const loaded = await post('/load_lora_adapter', { ...NEW, pinned: true });
    expect([loaded.statusCode, loaded.json()]).toEqual([
      200,
      {
        success: true,
        error_message: '',
        loaded_adapters: { mul: 'upload', new: 'some/folder/below', sub: 'upload' },
      },
    ]);
    expect(server.adapters.get('new')?.pinned).toBe(true);
    const removed = await post('/unload_lora_adapter', { lora_name: 'new', lora_id: null });
    expect(removed.json()).toMatchObject({ success: true, loaded_adapters: { sub: 'upload' } });
    expect(server.adapters.get('new')).toBeUndefined();
  });

  it.each([
    ['/load_lora_adapter', { ...NEW, lora_name: 'sub' }, 'generation_mismatch'],
    ['/load_lora_adapter', { ...NEW, lora_path: '/etc' }, 'adapter_path_forbidden'],
    ['/load_lora_adapter', { ...NEW, lora_name: 'a b' }, 'adapter_name_invalid'],
    ['/load_lora_adapter', { lora_name: 'x' }, 'invalid_request'],
    ['/load_lora_adapter', { ...NEW, load_inplace: true }, 'unknown_field'],
    ['/unload_lora_adapter', { lora_name: 'nobody' }, 'adapter_not_found'],
  ])('refuse %s %j with 400', async (url, body, code) => {
    const response = await post(url, body);
    expect(response.statusCode).toBe(400);
    expect(response.json()).toEqual({
      success: false,
      error_message: expect.stringMatching(new RegExp(`^${code}: `)),
      loaded_adapters: { mul: 'upload', sub: 'upload' },
    });
  });

  it('leave nothing registered that could not be pinned', async () => {
    server.residency.pinsMax = 0;
    const response = await post('/load_lora_adapter', { ...NEW, pinned: true });
    expect(response.json()).toMatchObject({
      success: false,
      error_message: expect.stringContaining('pin_limit_exceeded'),
    });
    expect(server.adapters.get('new')).toBeUndefined();
  });

  it('keep the errors that mean to try again', async () => {
    server.adapters.failure = new LoramuxError('registry_unavailable', 'away');
    const response = await post('/unload_lora_adapter', { lora_name: 'sub' });
    expect([response.statusCode, response.json().error.code]).toEqual([
      503,
      'registry_unavailable',
    ]);
  });
});
