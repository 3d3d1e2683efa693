import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { RegistryState } from '../../../src/adapters/registry/types.ts';
import { LoramuxError } from '../../../src/errors.ts';
import { sha256 } from '../../support/fake-adapters.ts';
import { replica, type TestServer, testServer } from './support.ts';

let server: TestServer;
beforeEach(async () => {
  server = await testServer();
});
afterEach(() => server.close());

const get = (url: string) => server.app.inject({ method: 'GET', url });

function setState(state: RegistryState, reason?: string): void {
  server.adapters.status = { ...server.adapters.status, kind: 'redis', state, reason };
}

describe('GET /v1/replicas', () => {
  it('lists the fleet and says which one answers', async () => {
    server.adapters.fleet.push(replica('replica-1'), replica('replica-2'));
    const { data } = (await get('/v1/replicas')).json();
    expect(data).toHaveLength(2);
    expect(data[0]).toEqual({
      id: 'replica-1',
      object: 'replica',
      self: true,
      url: 'http://10.0.0.7:8000',
      version: '0.0.0-test',
      model: 'base',
      started: 1_700_000_000,
      updated: 1_700_000_001,
      slots: 4,
      revision: 2,
      running: 1,
      waiting: 0,
      adapters: [{ generation: sha256('sub'), names: ['sub'], level: 'device', pinned: false }],
    });
    expect(data[1]).toMatchObject({ id: 'replica-2', self: false });
  });

  it('is 503 when the registry cannot be asked', async () => {
    server.adapters.failure = new LoramuxError('registry_unavailable', 'away');
    const response = await get('/v1/replicas');
    expect([response.statusCode, response.headers['retry-after']]).toEqual([503, '1']);
  });
});

describe('GET /health', () => {
  it('shows the registry', async () => {
    server.adapters.status = { ...server.adapters.status, kind: 'redis', lagMs: 12.6 };
    expect((await get('/health')).json().registry).toEqual({
      kind: 'redis',
      state: 'ok',
      reason: null,
      since: 1_700_000_000,
      lag_ms: 13,
    });
  });

  it.each([
    ['ok', 200, 'ok'],
    ['degraded', 200, 'degraded'],
    ['lost', 200, 'degraded'],
    ['connecting', 503, 'connecting'],
    ['lost', 503, 'connecting'],
  ] as const)('a registry that is %s is %i %s', async (state, code, status) => {
    server.adapters.isKnown = status !== 'connecting';
    setState(state, 'why');
    const response = await get('/health');
    expect([response.statusCode, response.json().status]).toEqual([code, status]);
    expect(response.json().registry).toMatchObject({ state, reason: 'why' });
  });

  it('answers while it serves its disk cache in place of the registry', async () => {
    setState('degraded');
    const response = await get('/health');
    expect([response.statusCode, response.json().status]).toEqual([200, 'degraded']);
    expect((await get('/v1/adapters')).statusCode).toBe(200);
  });

  it('says failed and draining first', async () => {
    setState('connecting');
    server.adapters.isKnown = false;
    server.lifecycle.draining = true;
    expect((await get('/health')).json().status).toBe('draining');
    Object.assign(server.engine, { failure: new LoramuxError('engine_failed', 'x') });
    expect((await get('/health')).json().status).toBe('failed');
  });
});

describe('a registry that was never read', () => {
  it.each(['/v1/adapters', '/v1/models', '/v1/adapters/other', '/v1/models/other'])(
    'makes %s say retry instead of telling that there is nothing',
    async (url) => {
      setState('connecting');
      server.adapters.isKnown = false;
      const response = await get(url);
      expect([response.statusCode, response.json().error.code]).toEqual([
        503,
        'registry_unavailable',
      ]);
      expect(response.headers['retry-after']).toBe('1');
    },
  );

  it('lets the base answer, and no adapter', async () => {
    setState('connecting');
    server.adapters.isKnown = false;
    const post = (model: string) =>
      server.app.inject({
        method: 'POST',
        url: '/v1/completions',
        payload: { model, prompt: 'Q' },
      });
    expect((await post('base')).statusCode).toBe(200);
    expect((await get('/v1/models/base')).statusCode).toBe(200);
    const adapted = await post('other');
    expect([adapted.statusCode, adapted.headers['retry-after']]).toEqual([503, '1']);
  });
});
