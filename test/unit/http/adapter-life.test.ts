import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { LoramuxError } from '../../../src/errors.ts';
import { sha256 } from '../../support/fake-adapters.ts';
import { type TestServer, testServer } from './support.ts';

const [A, B, C] = ['a', 'b', 'c'].map(sha256) as [string, string, string];

let server: TestServer;
beforeEach(async () => {
  server = await testServer();
  server.adapters.seed('name', [A, B, C]);
});
afterEach(() => server.close());

async function call(method: 'GET' | 'PUT' | 'POST' | 'DELETE', action: string, payload?: object) {
  const response = await server.app.inject({
    method,
    url: `/v1/adapters/name${action}`,
    ...(payload !== undefined && { payload }),
  });
  return { status: response.statusCode, etag: response.headers.etag, body: response.json() };
}
const codeOf = ({ status, body }: { status: number; body: { error?: { code: string } } }) => [
  status,
  body.error?.code,
];

describe('GET /v1/adapters/{name}/generations', () => {
  it('shows what a name keeps, and where each is', async () => {
    await call('PUT', '/split', { generation: A, weight: 0.1 });
    server.residency.views.set(A, { level: 'host', pinned: false, references: 0, evicting: false });
    const { body, etag } = await call('GET', '/generations');
    expect(etag).toBe(`"${C}"`);
    expect(body).toMatchObject({
      object: 'list',
      name: 'name',
      split: { generation: A, weight: 0.1 },
      pinned: false,
      data: [
        { generation: C, current: true, canary: false, residency: { level: 'disk' } },
        { generation: B, current: false, canary: false, residency: { level: 'disk' } },
        { generation: A, current: false, canary: true, residency: { level: 'host' } },
      ],
    });
    expect(body.data[0]).toMatchObject({ rank: 8, file_bytes: 2048, source: 'upload' });
  });
});

describe('rollback', () => {
  it('takes no body, an empty one, or a generation', async () => {
    expect(await call('POST', '/rollback')).toMatchObject({ status: 200, etag: `"${B}"` });
    const chosen = await call('POST', '/rollback', { generation: A });
    expect(chosen.body).toMatchObject({ object: 'adapter', generation: A, generations: 3 });
    const last = await call('POST', '/rollback', { generation: null });
    expect(last).toMatchObject({ status: 200 });
  });

  it('refuses what it cannot go back to', async () => {
    const unknown = await call('POST', '/rollback', { generation: 'f'.repeat(64) });
    expect(codeOf(unknown)).toEqual([404, 'generation_not_found']);
    const short = await call('POST', '/rollback', { generation: A.slice(0, 12) });
    expect(codeOf(short)).toEqual([400, 'invalid_request']);
    expect(codeOf(await call('POST', '/rollback', { to: A }))).toEqual([400, 'unknown_field']);
    expect(codeOf(await call('POST', '/rollback', []))).toEqual([400, 'invalid_request']);
  });
});

describe('split', () => {
  it('is set, shown and ended', async () => {
    const set = await call('PUT', '/split', { generation: B, weight: 0.25 });
    expect(set).toMatchObject({
      etag: `"${C}"`,
      body: { generation: C, split: { generation: B, weight: 0.25 } },
    });
    // Shown is the current generation, whatever a request would get.
    for (let i = 0; i < 20; i++) expect((await call('GET', '')).body.generation).toBe(C);
    expect((await call('DELETE', '/split')).body.split).toBeNull();
  });

  it.each([
    [{ generation: A }, 'invalid_request'],
    [{ weight: 0.5 }, 'invalid_request'],
    [{ generation: A, weight: 0 }, 'invalid_request'],
    [{ generation: A, weight: 1 }, 'invalid_request'],
    [{ generation: A, weight: '0.5' }, 'invalid_request'],
    [{ generation: A.toUpperCase(), weight: 0.5 }, 'invalid_request'],
    [{ generation: A, weight: 0.5, sticky: true }, 'unknown_field'],
  ])('refuses %j', async (body, code) => {
    expect(codeOf(await call('PUT', '/split', body))).toEqual([400, code]);
  });

  it('needs another generation than the current one', async () => {
    const current = await call('PUT', '/split', { generation: C, weight: 0.5 });
    expect(codeOf(current)).toEqual([409, 'generation_current']);
  });
});

describe('load', () => {
  it('waits until all that answer are resident, and holds them meanwhile', async () => {
    await call('PUT', '/split', { generation: B, weight: 0.5 });
    let held = 0;
    const { load } = server.residency;
    server.residency.load = async (generation, timeoutMs) => {
      held = Math.max(held, server.adapters.holds);
      await load.call(server.residency, generation, timeoutMs);
    };
    const { status, body } = await call('POST', '/load');
    expect([status, body.residency.level, body.pinned]).toEqual([200, 'device', false]);
    expect(server.residency.loads).toEqual([
      { digest: C, timeoutMs: 1000 },
      { digest: B, timeoutMs: 1000 },
    ]);
    expect([held, server.adapters.holds]).toEqual([2, 0]);
  });

  it('loads a kept generation that answers no request', async () => {
    expect((await call('POST', '/load', { generation: A })).status).toBe(200);
    expect(server.residency.loads.map(({ digest }) => digest)).toEqual([A]);
    const unknown = await call('POST', '/load', { generation: 'f'.repeat(64) });
    expect(codeOf(unknown)).toEqual([404, 'generation_not_found']);
  });

  it('pins and unpins', async () => {
    expect((await call('POST', '/load', { pinned: true })).body.pinned).toBe(true);
    expect((await call('POST', '/load', { pinned: null })).body.pinned).toBe(true);
    expect((await call('POST', '/load', { pinned: false })).body.pinned).toBe(false);
    const both = await call('POST', '/load', { pinned: true, generation: A });
    expect(codeOf(both)).toEqual([400, 'invalid_request']);
  });

  it('loads nothing that cannot be pinned, and pins nothing that cannot be loaded', async () => {
    server.residency.pinsMax = 0;
    const refused = await call('POST', '/load', { pinned: true });
    expect(codeOf(refused)).toEqual([409, 'pin_limit_exceeded']);
    expect(server.residency.loads).toHaveLength(0);
    server.residency.pinsMax = 3;
    server.residency.failure = new LoramuxError('adapter_load_timeout', 'no room');
    const failed = await call('POST', '/load', { pinned: true });
    expect(codeOf(failed)).toEqual([503, 'adapter_load_timeout']);
    expect(server.adapters.get('name')?.pinned).toBe(false);
    expect(server.adapters.holds).toBe(0);
  });
});

describe('evict', () => {
  const resident = { level: 'device', pinned: false, references: 0, evicting: false } as const;

  it('drops what answers, at once or with the last request', async () => {
    server.residency.views.set(C, resident);
    expect((await call('POST', '/evict')).body.residency).toMatchObject({ level: 'disk' });
    server.residency.views.set(C, { ...resident, references: 2 });
    const later = await call('POST', '/evict', {});
    expect(later.body.residency).toEqual({ ...resident, references: 2, evicting: true });
  });

  it('drops a retired generation', async () => {
    server.residency.views.set(A, resident);
    server.residency.views.set(C, resident);
    await call('POST', '/evict', { generation: A });
    expect([...server.residency.views.keys()]).toEqual([C]);
  });

  it('refuses what is pinned, by this name or another', async () => {
    await call('POST', '/pin');
    expect(codeOf(await call('POST', '/evict'))).toEqual([409, 'adapter_pinned']);
    // A retired generation of a pinned name is not pinned.
    expect((await call('POST', '/evict', { generation: A })).status).toBe(200);
    await call('POST', '/unpin');
    server.adapters.seed('other', [C]);
    await server.adapters.setPinned('other', true);
    expect(codeOf(await call('POST', '/evict'))).toEqual([409, 'adapter_pinned']);
    await server.adapters.setPinned('other', false);
    expect((await call('POST', '/evict')).status).toBe(200);
  });
});

describe('pin', () => {
  it('says so at once and counts all pins', async () => {
    expect((await call('POST', '/pin')).body).toMatchObject({ pinned: true, generation: C });
    expect((await call('POST', '/pin')).status).toBe(200);
    server.residency.pinsMax = 1;
    const more = await server.app.inject({ method: 'POST', url: '/v1/adapters/sub/pin' });
    expect([more.statusCode, more.json().error.code]).toEqual([409, 'pin_limit_exceeded']);
    expect(server.adapters.get('sub')?.pinned).toBe(false);
    expect((await call('POST', '/unpin')).body.pinned).toBe(false);
  });

  it('fails with 503 when the registry does', async () => {
    server.adapters.failure = new LoramuxError('registry_lost', 'another registry');
    const answer = await server.app.inject({ method: 'POST', url: '/v1/adapters/name/pin' });
    expect([answer.statusCode, answer.headers['retry-after']]).toEqual([503, '1']);
  });
});
