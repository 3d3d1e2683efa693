import net from 'node:net';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { readMetric } from '../../../scripts/metrics.ts';
import { LoramuxError } from '../../../src/errors.ts';
import { type TestServer, testServer } from './support.ts';

let server: TestServer;
beforeEach(async () => {
  server = await testServer();
});
afterEach(() => server.close());

const get = (url: string) => server.app.inject({ method: 'GET', url });

describe('routes', () => {
  it('lists the base and its adapters', async () => {
    const { data } = (await get('/v1/models')).json();
    expect(data.map((m: { id: string }) => m.id)).toEqual(['base', 'mul', 'sub']);
    expect(data[0]).toMatchObject({ parent: null, generation: null, max_model_len: 4096 });
    expect(data[1]).toMatchObject({ parent: 'base', root: 'upload', owned_by: 'loramux' });
    expect(data[1].generation).toBe(server.adapters.resolve('mul').generation.digest);
  });

  it('shows one model', async () => {
    expect((await get('/v1/models/sub')).json()).toMatchObject({ id: 'sub', parent: 'base' });
    expect((await get('/v1/models/base')).json()).toMatchObject({ id: 'base' });
    for (const id of ['nobody', 'base:nobody', 'base:', 'base:base', 'other:sub', 'sub:sub']) {
      const missing = await get(`/v1/models/${id}`);
      expect([missing.statusCode, missing.json().error.code]).toEqual([404, 'model_not_found']);
    }
  });

  it('shows an adapter by the name that requests may also have for it', async () => {
    const bare = (await get('/v1/models/sub')).json();
    for (const id of ['base:sub', 'base%3Asub']) {
      expect((await get(`/v1/models/${id}`)).json()).toEqual(bare);
    }
    // A name that is known as it stands comes first.
    await server.adapters.put('base:sub', { kind: 'directory', path: 'other' });
    const whole = (await get('/v1/models/base:sub')).json();
    expect(whole.id).toBe('base:sub');
    expect(whole.generation).not.toBe(bare.generation);
  });

  it('tells its health', async () => {
    const response = await get('/health');
    expect(response.statusCode).toBe(200);
    expect(response.json()).toMatchObject({
      status: 'ok',
      model: 'base',
      engine: { kv_blocks: 64, kv_blocks_used: 0, error: null },
      adapters: { registered: 2, damaged: 1, resident: 1, slots: 4 },
    });
  });

  it('is unhealthy once the engine gave up', async () => {
    const failure = new LoramuxError('engine_failed', 'three steps failed');
    Object.assign(server.engine, { failure });
    const response = await get('/health');
    expect(response.statusCode).toBe(503);
    expect(response.json()).toMatchObject({
      status: 'failed',
      engine: { error: 'three steps failed' },
    });
  });

  it('counts requests by route pattern, not by path', async () => {
    await get('/v1/models/sub');
    await get('/v1/models/nobody');
    await get('/no/such/path');
    const text = (await get('/metrics')).body;
    const name = 'loramux_http_request_duration_seconds_count';
    expect(text).toContain(`${name}{route="/v1/models/:id",method="GET",status="200"} 1`);
    expect(text).toContain(`${name}{route="/v1/models/:id",method="GET",status="404"} 1`);
    expect(text).toContain(`${name}{route="none",method="GET",status="404"} 1`);
    expect(readMetric(text, 'loramux_adapters_registered')).toBe(2);
  });
});

describe('refusals', () => {
  it('answers unknown paths with 404 in the shape of OpenAI', async () => {
    const response = await get('/v1/nowhere');
    expect(response.statusCode).toBe(404);
    expect(response.json().error).toMatchObject({ code: 'not_found', type: 'not_found_error' });
  });

  it('answers other methods with 405 and the allowed ones', async () => {
    const response = await get('/v1/completions');
    expect(response.statusCode).toBe(405);
    expect(response.headers.allow).toBe('POST');
    expect(response.json().error.code).toBe('method_not_allowed');
    const other = await server.app.inject({ method: 'POST', url: '/v1/adapters/x' });
    expect(other.headers.allow).toBe('DELETE, GET, HEAD, PUT');
    const headers = { 'content-type': 'text/xml' };
    const body = { method: 'POST', url: '/v1/models', headers, payload: '<a/>' } as const;
    expect((await server.app.inject(body)).statusCode, 'before its body').toBe(405);
  });

  it.each([
    ['no body', undefined, { 'content-type': 'application/json' }, 400, 'invalid_request'],
    ['broken JSON', '{"model":', { 'content-type': 'application/json' }, 400, 'invalid_request'],
    [
      'a prototype',
      '{"__proto__":{}}',
      { 'content-type': 'application/json' },
      400,
      'invalid_request',
    ],
    ['a text', 'hello', { 'content-type': 'text/csv' }, 415, 'unsupported_media_type'],
    ['plain text', 'hello', { 'content-type': 'text/plain' }, 415, 'unsupported_media_type'],
    ['no type', '{}', {}, 415, 'unsupported_media_type'],
    [
      'a form',
      '--x--\r\n',
      { 'content-type': 'multipart/form-data; boundary=x' },
      415,
      'unsupported_media_type',
    ],
  ] as const)('%s', async (_what, payload, headers, status, code) => {
    const response = await server.app.inject({
      method: 'POST',
      url: '/v1/completions',
      headers,
      ...(payload !== undefined && { payload }),
    });
    expect([response.statusCode, response.json().error.code]).toEqual([status, code]);
  });

  it('refuses a body above the limit', async () => {
    const payload = { model: 'base', prompt: 'x'.repeat(70_000) };
    const response = await server.app.inject({ method: 'POST', url: '/v1/completions', payload });
    expect([response.statusCode, response.json().error.code]).toEqual([413, 'payload_too_large']);
  });

  it('refuses a broken URL and an endless name', async () => {
    const broken = await get('/v1/models/%E0%A4%A');
    expect([broken.statusCode, broken.json().error.code]).toEqual([400, 'invalid_request']);
    const endless = await get(`/v1/models/${'x'.repeat(900)}`);
    expect([endless.statusCode, endless.json().error.code]).toEqual([400, 'invalid_request']);
  });

  it('refuses new work while draining, but not health and metrics', async () => {
    server.lifecycle.draining = true;
    const refused = await get('/v1/models');
    expect([refused.statusCode, refused.json().error.code]).toEqual([503, 'shutting_down']);
    expect(refused.headers.connection).toBe('close');
    const health = await get('/health');
    expect([health.statusCode, health.json().status]).toEqual([503, 'draining']);
    expect((await get('/metrics')).statusCode).toBe(200);
  });
});

/** Sends raw bytes and returns all that comes back until the server closes the connection. */
async function raw(url: string, text: string): Promise<string> {
  const { hostname, port } = new URL(url);
  const socket = net.connect(Number(port), hostname);
  socket.write(text);
  let answer = '';
  for await (const chunk of socket) answer += String(chunk);
  return answer;
}

describe('raw HTTP', () => {
  it('answers malformed HTTP and oversized headers in the same shape', async () => {
    const url = await server.listen();
    const garbage = await raw(url, 'NONSENSE\r\n\r\n');
    expect(garbage).toMatch(/^HTTP\/1.1 400 Bad Request/);
    expect(garbage).toContain('"code":"invalid_request"');
    const big = `GET /health HTTP/1.1\r\nhost: x\r\nx-big: ${'y'.repeat(9000)}\r\n\r\n`;
    const large = await raw(url, big);
    expect(large).toMatch(/^HTTP\/1.1 431/);
    expect(large).toContain('"code":"headers_too_large"');
  });

  it('ignores an upgrade it does not support', async () => {
    const url = await server.listen();
    const body = JSON.stringify({ model: 'base', prompt: 'Q' });
    const answer = await raw(
      url,
      'POST /v1/completions HTTP/1.1\r\nhost: x\r\nupgrade: h2c\r\n' +
        'connection: Upgrade, HTTP2-Settings, close\r\nhttp2-settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n' +
        `content-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`,
    );
    expect(answer).toMatch(/^HTTP\/1.1 200 OK/);
    expect(answer).toContain('"text":"hello"');
  });

  it('closes connections above the limit', async () => {
    server.app.server.maxConnections = 1;
    const url = await server.listen();
    const { hostname, port } = new URL(url);
    const first = net.connect(Number(port), hostname);
    await new Promise((resolve) => first.once('connect', resolve));
    const second = net.connect(Number(port), hostname);
    await new Promise((resolve) => second.once('close', resolve));
    first.destroy();
    expect(second.destroyed).toBe(true);
  });

  it('answers 408 to headers that never end', async () => {
    await server.close();
    server = await testServer({ config: { headersTimeoutMs: 50 } });
    const url = await server.listen();
    const { hostname, port } = new URL(url);
    const socket = net.connect(Number(port), hostname);
    socket.write('GET /health HTTP/1.1\r\n');
    let answer = '';
    for await (const chunk of socket) answer += String(chunk);
    expect(answer).toMatch(/^HTTP\/1.1 408/);
    expect(answer).toContain('"code":"request_timeout"');
  });
});
