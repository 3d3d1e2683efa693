import net from 'node:net';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { LoramuxError } from '../../../src/errors.ts';
import { sha256 } from '../../support/fake-adapters.ts';
import { type TestServer, testServer } from './support.ts';

const CURRENT = sha256('sub');
const OTHER = 'f'.repeat(64);

let server: TestServer;
beforeEach(async () => {
  server = await testServer();
});
afterEach(() => server.close());

type Method = 'GET' | 'PUT' | 'POST' | 'DELETE';

async function call(
  method: Method,
  url: string,
  headers: Record<string, string> = {},
  payload?: object,
) {
  const response = await server.app.inject({
    method,
    url,
    headers,
    ...(payload !== undefined && { payload }),
  });
  const body = response.json();
  return { status: response.statusCode, code: body.error?.code, etag: response.headers.etag, body };
}

const put = (name: string, headers: Record<string, string>, query = '') =>
  call('PUT', `/v1/adapters/${name}${query}`, headers, { path: 'folder' });

describe('If-Match and If-None-Match of PUT', () => {
  it('replace only what is current, and answer with the new tag', async () => {
    const answer = await put('sub', { 'if-match': `"${CURRENT}"` });
    expect(answer.status).toBe(200);
    expect(answer.body.generation).not.toBe(CURRENT);
    expect(answer.etag).toBe(`"${answer.body.generation}"`);
    const again = await put('sub', { 'if-match': `"${CURRENT}"` });
    expect(again).toMatchObject({
      status: 412,
      code: 'generation_mismatch',
      etag: answer.etag,
      body: { error: { type: 'conflict_error', current_generation: answer.body.generation } },
    });
  });

  it('tell that a name does not exist', async () => {
    const answer = await put('new', { 'if-match': '*' });
    expect(answer).toMatchObject({ status: 412, body: { error: { current_generation: null } } });
    expect(answer.etag).toBeUndefined();
    expect((await put('sub', { 'if-match': '*' })).status).toBe(200);
  });

  it('create only what does not exist', async () => {
    expect((await put('new', { 'if-none-match': '*' })).status).toBe(201);
    expect(await put('new', { 'if-none-match': '*' })).toMatchObject({ status: 412 });
  });

  it.each([
    ['unquoted', { 'if-match': CURRENT }],
    ['weak', { 'if-match': `W/"${CURRENT}"` }],
    ['a list', { 'if-match': `"${CURRENT}", "${OTHER}"` }],
    ['empty', { 'if-match': '' }],
    ['half quoted', { 'if-match': `"${CURRENT}` }],
    ['a quote within', { 'if-match': '"a"b"' }],
    ['a space within', { 'if-match': '"a b"' }],
    ['any and one', { 'if-match': `*, "${CURRENT}"` }],
    ['If-None-Match of a tag', { 'if-none-match': `"${CURRENT}"` }],
    ['both', { 'if-match': `"${CURRENT}"`, 'if-none-match': '*' }],
  ])('are refused when malformed: %s', async (_what, headers) => {
    expect(await put('sub', headers)).toMatchObject({ status: 400, code: 'invalid_request' });
    expect(server.adapters.puts).toHaveLength(0);
  });

  it('take a well-formed tag that is no generation as one that is not current', async () => {
    expect(await put('sub', { 'if-match': '"abc"' })).toMatchObject({ status: 412 });
    expect(await put('sub', { 'if-match': '""' })).toMatchObject({ status: 412 });
  });
});

describe('the query of PUT', () => {
  it.each([
    ['?canary_weight=0.25', 0.25],
    ['?canary_weight=.5', 0.5],
    ['?canary_weight=1e-7', 1e-7],
    ['?canary_weight=0.00010000000000000002', 0.00010000000000000002],
  ])('gives the new generation a share: %s', async (query, weight) => {
    const answer = await put('sub', {}, query);
    expect(answer).toMatchObject({ status: 200, body: { generation: CURRENT, split: { weight } } });
    expect(answer.etag).toBe(`"${CURRENT}"`);
    expect(server.adapters.puts[0]?.options).toEqual({ canaryWeight: weight });
  });

  it.each([
    ['?canary_weight=0', 'invalid_request', 'canary_weight'],
    ['?canary_weight=1', 'invalid_request', 'canary_weight'],
    ['?canary_weight=', 'invalid_request', 'canary_weight'],
    ['?canary_weight=-0.5', 'invalid_request', 'canary_weight'],
    ['?canary_weight=1e9', 'invalid_request', 'canary_weight'],
    ['?canary_weight=e-1', 'invalid_request', 'canary_weight'],
    ['?canary_weight=1e-999', 'invalid_request', 'canary_weight'],
    ['?canary_weight=0x0.8', 'invalid_request', 'canary_weight'],
    ['?canary_weight=NaN', 'invalid_request', 'canary_weight'],
    ['?canary_weight=0.1&canary_weight=0.2', 'invalid_request', 'canary_weight'],
    ['?canary=0.1', 'unknown_field', 'canary'],
    ['?canary_weight=0.1&force', 'unknown_field', 'force'],
  ])('is refused: %s', async (query, code, param) => {
    const answer = await put('sub', {}, query);
    expect(answer).toMatchObject({ status: 400, body: { error: { code, param } } });
    expect(server.adapters.puts).toHaveLength(0);
  });
});

describe('what is refused before the upload', () => {
  /** Sends only the head of an upload and returns the answer's status line and code. */
  async function headOnly(path: string, header = ''): Promise<string> {
    const url = new URL(await server.listen());
    const socket = net.connect(Number(url.port), url.hostname);
    socket.write(
      `PUT ${path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/zip\r\n${header}` +
        'content-length: 4000\r\n\r\n',
    );
    let answer = '';
    for await (const chunk of socket) {
      answer += String(chunk);
      if (answer.includes('"code":')) break;
    }
    socket.destroy();
    return answer;
  }

  it.each([
    ['a bad name', '/v1/adapters/a%20b', '', '400', 'adapter_name_invalid'],
    ['an unknown parameter', '/v1/adapters/new?x=1', '', '400', 'unknown_field'],
    ['a malformed tag', '/v1/adapters/sub', 'if-match: x\r\n', '400', 'invalid_request'],
    ['a stale tag', '/v1/adapters/sub', `if-match: "${OTHER}"\r\n`, '412', 'generation_mismatch'],
  ])('%s', async (_what, path, header, status, code) => {
    const answer = await headOnly(path, header);
    expect(answer).toMatch(new RegExp(`^HTTP/1.1 ${status} `));
    expect(answer).toContain(`"code":"${code}"`);
    expect(await server.uploads()).toEqual([]);
  });

  it('a full registry, and one that cannot be reached', async () => {
    for (let i = 0; server.adapters.entries.size < 10; i++) server.adapters.seed(`a${i}`, [OTHER]);
    expect(await put('new', {})).toMatchObject({ status: 409, code: 'adapter_limit_exceeded' });
    server.adapters.failure = new LoramuxError('registry_unavailable', 'away');
    expect(await headOnly('/v1/adapters/sub')).toMatch(/^HTTP\/1.1 503 [\s\S]*retry-after: 1/i);
  });
});

describe('Expect: 100-continue', () => {
  const BODY = 'x'.repeat(5000);

  /** Sends an upload as curl does: its body only when the server asks for it. */
  async function upload(condition: string): Promise<{ asked: boolean; answer: string }> {
    const url = new URL(await server.listen());
    const socket = net.connect(Number(url.port), url.hostname);
    socket.write(
      'PUT /v1/adapters/sub HTTP/1.1\r\nhost: x\r\ncontent-type: application/zip\r\n' +
        `if-match: ${condition}\r\nexpect: 100-continue\r\nconnection: close\r\n` +
        `content-length: ${BODY.length}\r\n\r\n`,
    );
    let asked = false;
    let answer = '';
    for await (const chunk of socket) {
      answer += String(chunk);
      if (asked || !answer.startsWith('HTTP/1.1 100 Continue\r\n\r\n')) continue;
      asked = true;
      answer = answer.slice('HTTP/1.1 100 Continue\r\n\r\n'.length);
      socket.write(BODY);
    }
    return { asked, answer };
  }

  it('asks for the body of an upload that may be taken', async () => {
    const { asked, answer } = await upload(`"${CURRENT}"`);
    expect([asked, answer.slice(0, 15)]).toEqual([true, 'HTTP/1.1 200 OK']);
    expect(server.adapters.puts[0]?.files).toEqual({ archive: BODY });
  });

  it('does not ask for one that is refused', async () => {
    const { asked, answer } = await upload(`"${OTHER}"`);
    expect(asked).toBe(false);
    expect(answer).toMatch(/^HTTP\/1.1 412 /);
    expect(answer).toMatch(/connection: close/i);
  });

  it('works for requests that are none', async () => {
    const url = await server.listen();
    const answer = await fetch(`${url}/v1/adapters/sub`);
    expect(answer.status).toBe(200);
  });
});

describe('conditions of other changes', () => {
  const changes: [Method, string, object | undefined][] = [
    ['POST', '/rollback', {}],
    ['PUT', '/split', { generation: OTHER, weight: 0.5 }],
    ['DELETE', '/split', undefined],
    ['DELETE', '', undefined],
  ];

  it.each(changes)('%s %s', async (method, action, payload) => {
    server.adapters.seed('name', [OTHER, CURRENT]);
    const url = `/v1/adapters/name${action}`;
    const change = (headers: Record<string, string>) => call(method, url, headers, payload);
    const refused = await change({ 'if-match': `"${OTHER}"` });
    expect(refused).toMatchObject({
      status: 412,
      etag: `"${CURRENT}"`,
      body: { error: { current_generation: CURRENT } },
    });
    expect(await change({ 'if-match': 'x' })).toMatchObject({ status: 400 });
    expect(await change({ 'if-none-match': '*' })).toMatchObject({ status: 400 });
    expect(await change({ 'if-match': '*', 'x-other': 'y' })).toMatchObject({ status: 200 });
    server.adapters.seed('name', [OTHER, CURRENT]);
    expect(await change({ 'if-match': `"${CURRENT}"` })).toMatchObject({ status: 200 });
    const missing = await call(
      method,
      `/v1/adapters/nobody${action}`,
      { 'if-match': '*' },
      payload,
    );
    expect(missing).toMatchObject({ status: 404, code: 'adapter_not_found' });
  });

  it.each(['load', 'evict', 'pin', 'unpin'])('are refused by %s', async (action) => {
    const answer = await call('POST', `/v1/adapters/sub/${action}`, { 'if-match': `"${CURRENT}"` });
    expect(answer).toMatchObject({ status: 400, body: { error: { param: 'If-Match' } } });
  });

  const routes: [Method, string][] = [
    ['GET', '/v1/adapters?x'],
    ['GET', '/v1/adapters/sub?x=1'],
    ['GET', '/v1/adapters/sub/generations?limit=1'],
    ['DELETE', '/v1/adapters/sub?force=true'],
    ['POST', '/v1/adapters/sub/rollback?x'],
    ['PUT', '/v1/adapters/sub/split?x'],
    ['DELETE', '/v1/adapters/sub/split?x'],
    ['POST', '/v1/adapters/sub/load?x'],
    ['POST', '/v1/adapters/sub/evict?x'],
    ['POST', '/v1/adapters/sub/pin?x'],
    ['POST', '/v1/adapters/sub/unpin?x'],
    ['GET', '/v1/replicas?x'],
  ];
  it.each(routes)('unknown query parameters are refused: %s %s', async (method, url) => {
    const payload = method === 'PUT' ? { generation: OTHER, weight: 0.5 } : undefined;
    expect(await call(method, url, {}, payload)).toMatchObject({
      status: 400,
      code: 'unknown_field',
    });
  });
});
