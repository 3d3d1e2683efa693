/** The client's WebSocket over sockets whose server the test plays. */
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { SocketGeneration } from '../../../src/client/generation.ts';
import { LoramuxClient } from '../../../src/client/index.ts';
import {
  GENERATIONS_MAX,
  StreamSocket,
  type StreamSocketOptions,
} from '../../../src/client/stream-socket.ts';
import { FakeSocket, fakeSockets } from '../../support/fake-socket.ts';

const request = { model: 'm', prompt: 'p' };
const again = { retry: 'before-first-token' } as const;

let sockets: FakeSocket[];
let socket: StreamSocket;

/** A client whose first socket is open. */
async function open(options: StreamSocketOptions = {}): Promise<FakeSocket> {
  const fakes = fakeSockets();
  sockets = fakes.sockets;
  socket = new StreamSocket('ws://server/v1/stream', fakes.WebSocket, options);
  const opened = socket.open();
  return accept(opened);
}

/** The next socket, opened. */
async function accept(then: Promise<unknown> = Promise.resolve()): Promise<FakeSocket> {
  await vi.runOnlyPendingTimersAsync();
  const last = sockets.at(-1)!;
  last.emit('open');
  await then;
  return last;
}

async function textOf(generation: SocketGeneration): Promise<string> {
  let text = '';
  for await (const token of generation) text += token.text;
  return text;
}

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(async () => {
  const closed = socket.close();
  sockets.at(-1)?.break(1000);
  await closed;
  expect(vi.getTimerCount()).toBe(0);
  vi.useRealTimers();
});

describe('generations', () => {
  it('run side by side, each with its own events and result', async () => {
    const server = await open();
    const [a, b] = [socket.generate(request), socket.generate({ ...request, max_tokens: 2 })];
    expect(server.sent).toEqual([
      { type: 'generate', id: 'g1', window: 256, ...request },
      { type: 'generate', id: 'g2', window: 256, ...request, max_tokens: 2 },
    ]);
    const texts = Promise.all([textOf(a), textOf(b)]);
    for (const [id, text] of [
      ['g1', 'x'],
      ['g2', '1'],
      ['g2', '2'],
      ['g1', 'y'],
    ]) {
      server.token(id!, text!);
    }
    server.done('g2');
    server.token('g1', 'z');
    server.done('g1', 'stop');
    expect(await texts).toEqual(['xyz', '12']);
    expect((await a.result).finish_reasons).toEqual(['stop']);
    expect((await b.result).finish_reasons).toEqual(['length']);
    expect(socket.size).toBe(0);
  });

  it('keep events for a loop that begins late', async () => {
    const server = await open();
    const generation = socket.generate(request);
    server.token('g1', 'a');
    server.token('g1', 'b');
    server.done('g1');
    expect(await textOf(generation)).toBe('ab');
    expect(() => generation[Symbol.asyncIterator]()).toThrow('can be read once');
  });

  it('fail with what the server says, after the events before it', async () => {
    const server = await open();
    const generation = socket.generate(request);
    server.token('g1', 'a');
    const error = { code: 'slow_reader', message: 'slow', type: 'x', param: null };
    server.frame({ type: 'error', id: 'g1', error });
    const iterator = generation[Symbol.asyncIterator]();
    expect((await iterator.next()).value).toMatchObject({ text: 'a' });
    await expect(iterator.next()).rejects.toMatchObject({ code: 'slow_reader', tokens: 1 });
    await expect(generation.result).rejects.toMatchObject({ code: 'slow_reader' });
  });

  it('fail alone when the server refuses one of their frames', async () => {
    const server = await open();
    const [a, b] = [socket.generate(request), socket.generate(request)];
    const error = { code: 'invalid_request', message: 'no', type: 'x', param: null };
    server.frame({ type: 'error', refused: { type: 'credit', id: 'g1' }, error });
    await expect(a.result).rejects.toMatchObject({ code: 'invalid_request' });
    expect(server.sent.at(-1)).toEqual({ type: 'cancel', id: 'g1' });
    server.done('g2');
    await b.result;
  });

  it('give credit by the half window, for events that were taken', async () => {
    const server = await open({ window: 4 });
    const iterator = socket.generate(request)[Symbol.asyncIterator]();
    for (const text of 'abcd') server.token('g1', text);
    expect(server.sent.length).toBe(1);
    await iterator.next();
    expect(server.sent.length).toBe(1);
    await iterator.next();
    expect(server.sent[1]).toEqual({ type: 'credit', id: 'g1', frames: 2 });
    await iterator.next();
    await iterator.next();
    // A loop that waits takes an event as it comes.
    const [e, f] = [iterator.next(), vi.fn()];
    server.token('g1', 'e');
    expect((await e).value).toMatchObject({ text: 'e' });
    void iterator.next().then(f);
    server.token('g1', 'f');
    await vi.waitFor(() => expect(f).toHaveBeenCalled());
    expect(server.sent.slice(2)).toEqual(Array(2).fill({ type: 'credit', id: 'g1', frames: 2 }));
    for (const text of 'ghij') server.token('g1', text);
    server.token('g1', 'one too many');
    for (const _ of 'ghij') await iterator.next();
    await expect(iterator.next()).rejects.toMatchObject({ code: 'answer_malformed' });
    expect(server.sent.at(-1)).toEqual({ type: 'cancel', id: 'g1' });
  });

  it('end on the server when the loop is left', async () => {
    const server = await open();
    const generation = socket.generate(request);
    server.token('g1', 'a');
    server.token('g1', 'b');
    for await (const _ of generation) break;
    expect(server.sent.at(-1)).toEqual({ type: 'cancel', id: 'g1' });
    for (let i = 0; i < 500; i++) server.token('g1', 'still on its way');
    server.done('g1', 'cancelled');
    expect((await generation.result).finish_reasons).toEqual(['cancelled']);
    expect(socket.size).toBe(0);
  });

  it('end with their signal, and what still comes is not heard', async () => {
    const server = await open();
    const controller = new AbortController();
    const { signal } = controller;
    const generation = socket.generate(request, { signal });
    const text = textOf(generation);
    text.catch(() => {});
    server.token('g1', 'a');
    controller.abort(new Error('enough'));
    await expect(text).rejects.toThrow('enough');
    await expect(generation.result).rejects.toThrow('enough');
    expect(server.sent.at(-1)).toEqual({ type: 'cancel', id: 'g1' });
    server.token('g1', 'b');
    server.done('g1', 'cancelled');
    expect(socket.size).toBe(0);
    expect(() => socket.generate(request, { signal })).toThrow('enough');
  });

  it('are bounded in number', async () => {
    await open();
    for (let i = 0; i < GENERATIONS_MAX; i++) socket.generate(request);
    expect(() => socket.generate(request)).toThrow(
      expect.objectContaining({ code: 'too_many_generations' }),
    );
  });
});

describe('a socket that breaks', () => {
  it('fails what ran on it, and says whether tokens had come', async () => {
    const server = await open();
    const [early, late] = [socket.generate(request), socket.generate(request)];
    server.token('g2', 'a');
    server.break();
    await expect(early.result).rejects.toMatchObject({ code: 'connection_lost', tokens: 0 });
    await expect(late.result).rejects.toMatchObject({
      code: 'connection_lost',
      tokens: 1,
      message: 'the WebSocket was closed (code 1006), after 1 token events',
    });
    await vi.runAllTimersAsync();
    expect(sockets.length).toBe(1);
  });

  it('is replaced for new generations, which wait for it', async () => {
    const first = await open();
    first.break();
    const generation = socket.generate(request);
    expect(first.sent).toEqual([]);
    const second = await accept();
    expect(sockets.length).toBe(2);
    second.token('g1', 'a');
    second.done('g1');
    expect(await textOf(generation)).toBe('a');
  });

  it('has what had no token sent again, if that is wanted', async () => {
    const first = await open();
    const all = [1, 2, 3].map((i) => socket.generate(request, i === 1 ? {} : again));
    first.token('g3', 'a');
    first.break();
    await expect(all[0]!.result).rejects.toMatchObject({ code: 'connection_lost' });
    await expect(all[2]!.result).rejects.toMatchObject({ code: 'connection_lost', tokens: 1 });
    const second = await accept();
    expect(second.sent).toEqual([{ type: 'generate', id: 'g2', window: 256, ...request }]);
    second.token('g2', 'a');
    second.done('g2');
    expect(await textOf(all[1]!)).toBe('a');
  });

  it('does not have a frame sent for ever that breaks every socket', async () => {
    let server = await open({ reconnects: 9 });
    const generation = socket.generate(request, again);
    for (let i = 0; i < 2; i++) {
      server.break();
      server = await accept();
      expect(server.sent.length).toBe(1);
    }
    server.break();
    await expect(generation.result).rejects.toMatchObject({ code: 'connection_lost' });
    const large = socket.generate(request, again);
    server = await accept();
    server.break(1009, 'too large');
    await expect(large.result).rejects.toMatchObject({ code: 'connection_lost', tokens: 0 });
  });

  it('is given up after handshakes that failed in a row; the next generation tries anew', async () => {
    const server = await open({ reconnects: 2 });
    server.break();
    const generation = socket.generate(request);
    for (let i = 0; i < 2; i++) {
      await vi.runOnlyPendingTimersAsync();
      sockets.at(-1)!.emit('error', { message: 'connect ECONNREFUSED' });
      sockets.at(-1)!.break();
    }
    await expect(generation.result).rejects.toMatchObject({
      code: 'connection_failed',
      message: 'connect ECONNREFUSED',
    });
    await vi.runAllTimersAsync();
    expect(sockets.length).toBe(3);
    const next = socket.generate(request);
    (await accept()).done('g2');
    await next.result;
  });

  it('is noticed by the silence after a ping', async () => {
    const server = await open({ pingMs: 1000 });
    const generation = socket.generate(request);
    await vi.advanceTimersByTimeAsync(1000);
    expect(server.sent.at(-1)).toEqual({ type: 'ping' });
    server.frame({ type: 'pong' });
    await vi.advanceTimersByTimeAsync(1000);
    server.token('g1', 'a');
    await vi.advanceTimersByTimeAsync(1000);
    expect(server.closed).toBe(false);
    await vi.advanceTimersByTimeAsync(1000);
    expect(server.closed).toBe(true);
    await expect(generation.result).rejects.toMatchObject({
      message: 'the server gave no sign of life, after 1 token events',
    });
  });

  it.each([
    ['what is no JSON', { data: '{"a' }],
    ['bytes', { data: new ArrayBuffer(2) }],
    ['no frame', { data: '[1]' }],
    ['an error about no generation', { data: '{"type":"error","error":{"code":"x"}}' }],
  ])('is given up when the server sends %s', async (_what, event) => {
    const server = await open();
    const generation = socket.generate(request);
    server.emit('message', event);
    expect(server.closed).toBe(true);
    await expect(generation.result).rejects.toMatchObject({
      code: 'connection_lost',
      cause: { code: 'answer_malformed' },
    });
  });
});

describe('open and close', () => {
  it('has a bounded handshake', async () => {
    const fakes = fakeSockets();
    sockets = fakes.sockets;
    socket = new StreamSocket('ws://server', fakes.WebSocket, { reconnects: 1 });
    const opened = socket.open();
    opened.catch(() => {});
    await vi.runAllTimersAsync();
    await expect(opened).rejects.toMatchObject({ message: 'no WebSocket within 15000 ms' });
    expect(sockets.map(({ closed }) => closed)).toEqual([true, true]);
  });

  it('fails when no WebSocket can be made', async () => {
    sockets = [];
    const WebSocket = class extends FakeSocket {
      constructor(url: string) {
        super(url);
        throw new Error('not here');
      }
    };
    socket = new StreamSocket('ws://server', WebSocket, { reconnects: 2 });
    const opened = socket.open();
    opened.catch(() => {});
    await vi.runAllTimersAsync();
    await expect(opened).rejects.toMatchObject({
      code: 'connection_failed',
      message: 'no WebSocket could be made: not here',
    });
  });

  it('may be opened by several at once', async () => {
    const fakes = fakeSockets();
    sockets = fakes.sockets;
    socket = new StreamSocket('ws://server', fakes.WebSocket);
    await accept(Promise.all([socket.open(), socket.open()]));
    expect(sockets.length).toBe(1);
    await socket.open();
  });

  it('fails for all who open it, for each with its own reason', async () => {
    const fakes = fakeSockets();
    sockets = fakes.sockets;
    socket = new StreamSocket('ws://server', fakes.WebSocket);
    const controller = new AbortController();
    const settled = Promise.allSettled([socket.open(), socket.open(controller.signal)]);
    await vi.advanceTimersByTimeAsync(1);
    controller.abort(new Error('enough'));
    sockets[0]!.break();
    expect(await settled).toMatchObject([
      { reason: { code: 'socket_closed' } },
      { reason: { message: 'enough' } },
    ]);
  });

  it('gives up opening with the signal', async () => {
    const fakes = fakeSockets();
    sockets = fakes.sockets;
    socket = new StreamSocket('ws://server', fakes.WebSocket);
    const controller = new AbortController();
    const opened = socket.open(controller.signal);
    await vi.advanceTimersByTimeAsync(1);
    controller.abort(new Error('enough'));
    sockets[0]!.break();
    await expect(opened).rejects.toThrow('enough');
  });

  it('ends what runs and what waits, and nothing is started any more', async () => {
    const server = await open();
    const running = socket.generate(request);
    const closed = socket.close();
    server.break(1000);
    await closed;
    await expect(running.result).rejects.toMatchObject({ code: 'socket_closed' });
    expect(() => socket.generate(request)).toThrow('was closed by close()');
    await expect(socket.open()).rejects.toMatchObject({ code: 'socket_closed' });
  });

  it('does not wait for ever for the peer', async () => {
    await open();
    const closed = socket.close();
    await vi.runAllTimersAsync();
    await closed;
  });

  it('cancels what was not sent yet without a word to anybody', async () => {
    const server = await open();
    server.break();
    const generation = socket.generate(request);
    generation.cancel();
    await expect(generation.result).rejects.toMatchObject({ code: 'cancelled' });
    expect((await accept()).sent).toEqual([]);
  });

  it.each([{ window: 0 }, { window: 65_537 }, { pingMs: -1 }, { reconnects: 0.5 }])(
    'refuses %j',
    (options) => {
      const { WebSocket } = fakeSockets();
      expect(() => new StreamSocket('ws://server', WebSocket, options)).toThrow(
        expect.objectContaining({ code: 'invalid_option' }),
      );
    },
  );
});

describe('LoramuxClient.connect', () => {
  it('goes to the same place by WebSocket', async () => {
    const fakes = fakeSockets();
    sockets = fakes.sockets;
    const client = new LoramuxClient({
      baseUrl: 'https://server/below/',
      WebSocket: fakes.WebSocket,
    });
    const connected = client.connect();
    await accept(connected);
    socket = await connected;
    expect(sockets[0]!.url).toBe('wss://server/below/v1/stream');
  });

  it('says so where there is no WebSocket, or none that sends the headers', async () => {
    await open();
    const { WebSocket } = globalThis as { WebSocket?: unknown };
    vi.stubGlobal('WebSocket', undefined);
    const baseUrl = 'http://server';
    await expect(new LoramuxClient({ baseUrl }).connect()).rejects.toMatchObject({
      code: 'no_websocket',
    });
    vi.stubGlobal('WebSocket', fakeSockets().WebSocket);
    const client = new LoramuxClient({ baseUrl, headers: { authorization: 'x' } });
    await expect(client.connect()).rejects.toThrow('sends no headers');
    vi.unstubAllGlobals();
    expect((globalThis as { WebSocket?: unknown }).WebSocket).toBe(WebSocket);
  });
});
