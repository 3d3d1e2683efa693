/** Every way in which a request names the adapter that answers. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { sha256 } from '../../support/fake-adapters.ts';
import { parseSse, type TestServer, testServer } from './support.ts';

let server: TestServer;
beforeEach(async () => {
  server = await testServer();
});
afterEach(() => server.close());

const post = (body: object) =>
  server.app.inject({ method: 'POST', url: '/v1/completions', payload: { prompt: 'Q', ...body } });

async function generationOf(body: object): Promise<string> {
  const response = await post(body);
  expect(response.statusCode, response.body).toBe(200);
  return response.json().adapter_generation;
}

async function errorOf(body: object) {
  const response = await post(body);
  const { code, param } = response.json().error;
  return [response.statusCode, code, param];
}

describe('an adapter by name', () => {
  it.each([
    { model: 'sub' },
    { model: 'base:sub' },
    { model: 'base', adapter: 'sub' },
    { model: 'sub', adapter: 'sub' },
    { model: 'base:sub', adapter: 'sub' },
    { model: 'base', adapter: { name: 'sub' } },
  ])('%j', async (body) => {
    expect(await generationOf(body)).toBe(sha256('sub'));
    expect(server.adapters.holds).toBe(0);
  });

  it('takes a name that is known as it stands before it looks for the base in it', async () => {
    server.adapters.seed('team:one', [sha256('colon')]);
    server.adapters.seed('base:sub', [sha256('prefixed')]);
    expect(await generationOf({ model: 'team:one' })).toBe(sha256('colon'));
    expect(await generationOf({ model: 'base:team:one' })).toBe(sha256('colon'));
    expect(await generationOf({ model: 'base:sub' })).toBe(sha256('prefixed'));
    expect(await generationOf({ model: 'base:base:sub' })).toBe(sha256('prefixed'));
    expect(await generationOf({ model: 'base', adapter: 'base:sub' })).toBe(sha256('prefixed'));
  });

  it.each([
    [{ model: 'nobody' }, 'model_not_found', 'model'],
    [{ model: 'base:nobody' }, 'model_not_found', 'model'],
    [{ model: 'base:' }, 'model_not_found', 'model'],
    [{ model: 'sub:mul' }, 'model_not_found', 'model'],
    [{ model: 'base:mul', adapter: 'sub' }, 'model_not_found', 'model'],
    [{ model: 'base', adapter: 'nobody' }, 'adapter_not_found', 'adapter'],
    [{ model: 'base', adapter: { name: 'nobody' } }, 'adapter_not_found', 'adapter'],
  ])('refuses %j', async (body, code, param) => {
    expect(await errorOf(body)).toEqual([404, code, param]);
  });

  it('serves what is known while the registry cannot be asked for the rest', async () => {
    server.adapters.status = { ...server.adapters.status, state: 'connecting' };
    expect(await generationOf({ model: 'base:sub' })).toBe(sha256('sub'));
    expect((await errorOf({ model: 'base:nobody' }))[1]).toBe('registry_unavailable');
  });
});

describe('an adapter by generation', () => {
  const [kept, current] = [sha256('kept'), sha256('current')];
  beforeEach(() => void server.adapters.seed('support', [kept, current]));

  it.each([
    { model: 'base', adapter: { generation: kept } },
    { model: 'support', adapter: { generation: kept } },
    { model: 'base:support', adapter: { generation: kept } },
  ])('%j', async (body) => {
    expect(await generationOf(body)).toBe(kept);
    expect(server.engine.submitted[0]).toMatchObject({
      adapters: [{ generation: { digest: kept }, weight: 1 }],
    });
  });

  it('is not the split of its name', async () => {
    await server.adapters.setSplit('support', { digest: kept, weight: 0.9 });
    for (let i = 0; i < 16; i++) {
      const body = { model: 'base', adapter: { generation: current }, split_key: `key ${i}` };
      expect(await generationOf(body)).toBe(current);
    }
  });

  it.each([
    [{ model: 'base', adapter: { generation: sha256('no') } }, 'generation_not_found', 'adapter'],
    [{ model: 'sub', adapter: { generation: kept } }, 'generation_not_found', 'adapter'],
    [{ model: 'nobody', adapter: { generation: kept } }, 'model_not_found', 'model'],
  ])('refuses %j', async (body, code, param) => {
    expect(await errorOf(body)).toEqual([404, code, param]);
  });
});

describe('several adapters', () => {
  const [kept, current] = [sha256('kept'), sha256('current')];
  beforeEach(() => void server.adapters.seed('support', [kept, current]));
  const ADAPTERS = [
    { name: 'sub', weight: 0.5 },
    { generation: kept, weight: -2 },
    { name: 'mul' },
  ];
  const answered = [
    { name: 'sub', generation: sha256('sub'), weight: 0.5 },
    { name: 'support', generation: kept, weight: -2 },
    { name: 'mul', generation: sha256('mul'), weight: 1 },
  ];

  it('are resolved, held and handed to the engine, and named in the order of the request', async () => {
    const response = await post({ model: 'base', adapters: ADAPTERS });
    expect(response.json()).toMatchObject({ model: 'base', adapter_generations: answered });
    expect(response.json()).not.toHaveProperty('adapter_generation');
    expect(server.engine.submitted[0]!.adapters).toEqual(
      answered.map(({ generation, weight }) => ({
        generation: expect.objectContaining({ digest: generation }),
        weight,
      })),
    );
    expect(server.adapters.holds).toBe(0);
  });

  it('are named in every chunk of a stream', async () => {
    const response = await post({ model: 'base', adapters: ADAPTERS, stream: true });
    const chunks = parseSse(response.body);
    expect(chunks.length).toBeGreaterThan(2);
    expect(chunks.pop()).toBe('[DONE]');
    for (const chunk of chunks) expect(chunk).toMatchObject({ adapter_generations: answered });
  });

  it('are answered like one when there is one', async () => {
    const response = await post({ model: 'base', adapters: [{ name: 'sub', weight: 0.5 }] });
    expect(response.json()).toMatchObject({ adapter_generation: sha256('sub') });
    expect(response.json()).not.toHaveProperty('adapter_generations');
  });

  it('take the side of the key, each name for itself', async () => {
    await server.adapters.setSplit('support', { digest: kept, weight: 0.5 });
    const seen = new Set<string>();
    for (let i = 0; i < 32; i++) {
      const body = { model: 'base', adapters: [{ name: 'sub' }, { name: 'support' }] };
      const key = `key ${i}`;
      const alone = await generationOf({ model: 'support', split_key: key });
      const response = await post({ ...body, split_key: key });
      expect(response.json().adapter_generations[1].generation).toBe(alone);
      seen.add(alone);
    }
    expect(seen).toEqual(new Set([kept, current]));
  });

  it('are none when null', async () => {
    const response = await post({ model: 'sub', adapters: null });
    expect(response.json()).toMatchObject({ adapter_generation: sha256('sub') });
  });

  it.each([
    [{ model: 'sub', adapters: ADAPTERS }, 'model_not_found', 'model'],
    [{ adapters: [{ name: 'sub' }, { name: 'nobody' }] }, 'adapter_not_found', 'adapters.1.name'],
    [
      { adapters: [{ generation: sha256('nothing') }, { name: 'sub' }] },
      'generation_not_found',
      'adapters.0.generation',
    ],
  ])('refuse %j', async (body, code, param) => {
    expect(await errorOf({ model: 'base', ...body })).toEqual([404, code, param]);
    expect(server.adapters.holds).toBe(0);
  });

  it.each([
    [{ adapters: [] }, 'invalid_request', 'adapters'],
    [{ adapters: Array(9).fill({ name: 'sub' }) }, 'invalid_request', 'adapters'],
    [{ adapters: [{ name: 'sub', weight: 101 }] }, 'invalid_request', 'adapters'],
    [{ adapters: [{ name: 'sub', weight: '1' }] }, 'invalid_request', 'adapters'],
    [{ adapters: [{ weight: 1 }] }, 'invalid_request', 'adapters.0.name'],
    [{ adapters: [{ name: 'sub', generation: kept }] }, 'invalid_request', 'adapters'],
    [{ adapters: [{ name: 'sub', scale: 1 }] }, 'unknown_field', 'adapters.0.scale'],
    [{ adapters: ['sub'] }, 'invalid_request', 'adapters'],
    [{ adapter: 'sub', adapters: ADAPTERS }, 'invalid_request', 'adapters'],
    [{ adapter_scale: 1, adapters: ADAPTERS }, 'invalid_request', 'adapter_scale'],
  ])('refuse %j', async (body, code, param) => {
    expect(await errorOf({ model: 'base', ...body })).toEqual([400, code, param]);
  });
});

describe('a malformed choice', () => {
  it.each([
    [{ adapter: 7 }, 'invalid_request', 'adapter'],
    [{ adapter: {} }, 'invalid_request', 'adapter'],
    [{ adapter: { generation: 'xyz' } }, 'invalid_request', 'adapter'],
    [{ adapter: { name: 'sub', generation: sha256('sub') } }, 'invalid_request', 'adapter'],
    [{ adapter: { digest: 'x' } }, 'unknown_field', 'adapter.digest'],
    [{ adapter: null, adapter_scale: 2 }, 'invalid_request', 'adapter_scale'],
  ])('%j', async (body, code, param) => {
    expect(await errorOf({ model: 'base', ...body })).toEqual([400, code, param]);
  });
});
