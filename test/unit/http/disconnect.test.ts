import http from 'node:http';
import net from 'node:net';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { repeating } from '../../support/fake-engine.ts';
import { until as untilRead } from '../../support/until.ts';
import { codes } from '../generation/support.ts';
import { parseSse, type TestServer, type TestServerOptions, testServer, until } from './support.ts';

let server: TestServer;
let url: string;
afterEach(() => server.close());

const start = async (options: TestServerOptions) => {
  server = await testServer(options);
  url = await server.listen();
};

/** Never says anything, never ends. */
const silent = { script: () => undefined };
/** Says `a` for ever. */
const endless = { script: repeating(codes('a')), maxModelLen: 1_000_000 };

function post(body: Record<string, unknown>, path = '/v1/completions'): http.ClientRequest {
  const request = http.request(`${url}${path}`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    agent: false,
  });
  request.on('error', () => {});
  request.end(JSON.stringify({ model: 'sub', prompt: 'Q', ...body }));
  return request;
}

const response = (request: http.ClientRequest) =>
  new Promise<http.IncomingMessage>((resolve) => request.once('response', resolve));

const nothingLeft = () => server.engine.numLive === 0 && server.adapters.holds === 0;

/** Every chat waits to be rendered until its client leaves. */
function waitingTemplate() {
  const render = vi.fn(
    (_input: unknown, signal?: AbortSignal) =>
      new Promise<string>((_resolve, reject) => {
        signal?.addEventListener('abort', () => reject(signal.reason));
      }),
  );
  const template = { source: () => 'tools', render };
  vi.spyOn(server.services.chat, 'templateFor').mockResolvedValue(template);
  return render;
}

describe('a client that leaves', () => {
  it.each([{ stream: false }, { stream: true }])('frees its request: %j', async (body) => {
    await start({ engine: silent });
    const request = post(body);
    await until(() => server.engine.numLive === 1);
    expect(server.adapters.holds).toBe(1);
    request.destroy();
    await until(nothingLeft);
    expect(server.engine.cancellations).toBe(1);
    const text = await server.metrics.scrape();
    expect(text).toContain('loramux_requests_total{outcome="cancelled"} 1');
  });

  it.each([{ stream: false }, { stream: true }])(
    'is not waited for by its chat: %j',
    async (body) => {
      await start({ engine: silent });
      const render = waitingTemplate();
      const tools = [{ type: 'function', function: { name: 'f' } }];
      const messages = [{ role: 'user', content: 'Q' }];
      const request = post({ prompt: undefined, messages, tools, ...body }, '/v1/chat/completions');
      await until(() => render.mock.calls.length === 1);
      request.destroy();
      const cancelled = 'loramux_requests_total{outcome="cancelled"} 1';
      await untilRead(
        'the metrics',
        () => server.metrics.scrape(),
        (text) => text.includes(cancelled),
      );
      expect(nothingLeft()).toBe(true);
      expect(server.engine.submitted).toEqual([]);
    },
  );

  it('is not waited for by a chat whose tokens it asked for', async () => {
    await start({});
    const render = waitingTemplate();
    const encode = vi.spyOn(server.services.tokens, 'encode');
    const messages = [{ role: 'user', content: 'Q' }];
    const request = post({ prompt: undefined, messages }, '/tokenize');
    await until(() => render.mock.calls.length === 1);
    request.destroy();
    await until(() => encode.mock.settledResults[0]?.type !== 'incomplete');
    expect(encode.mock.settledResults).toEqual([{ type: 'fulfilled', value: undefined }]);
  });

  it('frees its request in the middle of a stream', async () => {
    await start({ engine: endless });
    const request = post({ stream: true, max_tokens: 900_000 });
    const answer = await response(request);
    await new Promise((resolve) => answer.once('data', resolve));
    request.destroy();
    await until(nothingLeft);
  });

  it('leaves no file of an upload that breaks off', async () => {
    await start({});
    const { hostname, port } = new URL(url);
    const socket = net.connect(Number(port), hostname);
    socket.write(
      'PUT /v1/adapters/new HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n' +
        'content-type: multipart/form-data; boundary=xx\r\n\r\n--xx\r\ncontent-disposition: ' +
        `form-data; name="f"; filename="adapter_model.safetensors"\r\n\r\n${'x'.repeat(3000)}`,
    );
    let files: string[] = [];
    while (files.length === 0) files = await server.uploads();
    socket.destroy();
    while (files.length > 0) files = await server.uploads();
    expect(server.adapters.puts).toHaveLength(0);
  });
});

describe('a stream', () => {
  it('sends a comment when nothing happens for a while, and stays open', async () => {
    let say: number | undefined;
    await start({ engine: { script: () => say, manual: true }, config: { sseKeepAliveMs: 5 } });
    const answer = await response(post({ stream: true, max_tokens: 1 }));
    let text = '';
    answer.setEncoding('utf8').on('data', (chunk: string) => {
      text += chunk;
    });
    await until(() => text.includes(': keep-alive\n\n: keep-alive\n\n'));
    say = codes('x')[0];
    server.engine.step();
    await new Promise((resolve) => answer.once('end', resolve));
    const events = parseSse(text).filter((event) => event !== ': keep-alive');
    expect(events).toMatchObject([
      { choices: [{ text: 'x' }] },
      { choices: [{ finish_reason: 'length' }] },
      '[DONE]',
    ]);
  });

  it('reports an error in the middle as an event, then ends', async () => {
    await start({ engine: { ...endless, manual: true } });
    const answer = await response(
      await (async () => {
        const request = post({ stream: true, max_tokens: 100 });
        await until(() => server.engine.numLive === 1);
        server.engine.step();
        return request;
      })(),
    );
    let text = '';
    answer.setEncoding('utf8').on('data', (chunk: string) => {
      text += chunk;
    });
    await until(() => text !== '');
    await server.engine.close();
    await new Promise((resolve) => answer.once('end', resolve));
    expect(parseSse(text)).toMatchObject([
      { choices: [{ text: 'a' }] },
      { error: { code: 'shutting_down', type: 'overloaded_error', param: null } },
      '[DONE]',
    ]);
  });

  it('cancels a reader that does not read, within the buffer limit', async () => {
    await start({ engine: { ...endless, manual: true }, streamBufferBytes: 20_000 });
    const request = post({ stream: true, max_tokens: 900_000, stop: [] });
    await until(() => server.engine.numLive === 1);
    server.engine.step();
    const answer = await response(request);
    answer.pause();
    let steps = 0;
    // Sockets take a few megabytes before the server sees back-pressure.
    while (server.engine.numLive > 0 && steps < 500_000) {
      server.engine.step();
      steps += 1;
      if (steps % 50 === 0) await new Promise(setImmediate);
    }
    expect(server.engine.numLive).toBe(0);
    let text = '';
    for await (const chunk of answer.setEncoding('utf8')) text += chunk;
    expect(parseSse(text).slice(-2)).toMatchObject([{ error: { code: 'slow_reader' } }, '[DONE]']);
    expect(server.adapters.holds).toBe(0);
  });
});
