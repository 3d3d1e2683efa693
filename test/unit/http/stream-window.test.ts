/** Flow control of the WebSocket: windows and credit, turns, and who loses what. */
import { afterEach, describe, expect, it } from 'vitest';
import type WebSocket from 'ws';
import { SocketWriter, type Speaker } from '../../../src/http/wire/socket-writer.ts';
import { repeating } from '../../support/fake-engine.ts';
import { codes } from '../generation/support.ts';
import { type Client, connectTo } from './socket-client.ts';
import { type TestServer, type TestServerOptions, testServer, until } from './support.ts';

let server: TestServer;
let url: string;
const sockets: WebSocket[] = [];
afterEach(async () => {
  for (const socket of sockets.splice(0)) socket.terminate();
  await server?.close();
});

const start = async (options: TestServerOptions = {}) => {
  server = await testServer(options);
  url = `${(await server.listen()).replace('http', 'ws')}/v1/stream`;
  return connectTo(url, sockets);
};

const generate = (id: string, fields: Record<string, unknown> = {}) => ({
  type: 'generate',
  id,
  model: 'base',
  prompt: 'Q',
  ...fields,
});

/** Frames are answered in order, so that what came before a pong is all there is. */
async function settled(client: Client): Promise<void> {
  await until(() => server.engine.numLive === 0);
  for (let round = 0; round < 2; round++) {
    const pongs = client.frames.filter(({ type }) => type === 'pong').length;
    client.send({ type: 'ping' });
    await until(() => client.frames.filter(({ type }) => type === 'pong').length > pongs);
  }
}

describe('a window', () => {
  it('lets as many token frames through as there is credit for', async () => {
    const client = await start();
    client.send(generate('a', { window: 2, max_tokens: 5 }));
    await settled(client);
    expect(client.of('a')).toHaveLength(2);
    client.send({ type: 'credit', id: 'a', frames: 2 });
    await settled(client);
    expect(client.of('a')).toHaveLength(4);
    client.send({ type: 'credit', id: 'a', frames: 1 });
    expect(await client.ended('a')).toMatchObject({ type: 'done', finish_reasons: ['length'] });
    const texts = client.of('a').map(({ text }) => text ?? '');
    expect(texts.join('')).toBe('hello');
  });

  it('is not needed by the end', async () => {
    const client = await start();
    client.send(generate('a', { window: 5, max_tokens: 5 }));
    expect(await client.ended('a')).toMatchObject({ finish_reasons: ['length'] });
    client.send(generate('b', { window: 1, max_tokens: 0 }));
    expect(await client.ended('b')).toMatchObject({ finish_reasons: ['length'] });
  });

  it('holds up nobody else on the socket', async () => {
    const client = await start();
    client.send(generate('slow', { window: 1, max_tokens: 5 }));
    for (const id of ['x', 'y', 'z']) client.send(generate(id, { max_tokens: 5 }));
    for (const id of ['x', 'y', 'z']) await client.ended(id);
    expect(client.of('slow')).toHaveLength(1);
    client.send({ type: 'cancel', id: 'slow' });
    expect(await client.ended('slow')).toMatchObject({ finish_reasons: ['cancelled'] });
    expect(client.of('slow')).toHaveLength(2);
    // The id is free again.
    client.send(generate('slow', { max_tokens: 1 }));
    await until(() => client.of('slow').filter(({ type }) => type === 'done').length === 2);
  });

  it('that nobody opens ends its generation at the buffer limit, with an error at once', async () => {
    const client = await start({
      engine: { script: repeating(codes('a')), maxModelLen: 1_000_000 },
      streamBufferBytes: 20_000,
    });
    client.send(generate('a', { window: 3, max_tokens: 100_000 }));
    client.send(generate('b', { max_tokens: 2 }));
    expect(await client.ended('a')).toMatchObject({ error: { code: 'slow_reader' } });
    expect(client.of('a')).toHaveLength(4);
    expect(await client.ended('b')).toMatchObject({ type: 'done' });
    await until(() => server.engine.numLive === 0);
  });

  it.each([
    [{ type: 'credit', id: 'open', frames: 1 }, { refused: { type: 'credit', id: 'open' } }],
    [{ type: 'credit', id: 'shut', frames: 2 ** 31 - 1 }, { refused: { id: 'shut' } }],
    [{ type: 'credit', id: 'shut', frames: 0 }, { refused: { id: 'shut' } }],
    [{ type: 'credit', id: 'shut' }, { error: { param: 'frames' } }],
    [{ type: 'credit', id: 'other', frames: 0 }, { id: 'other' }],
    [{ type: 'credit', id: 'shut', frames: 1, more: 1 }, { error: { code: 'unknown_field' } }],
  ])('refuses %j', async (frame, error) => {
    const client = await start({ engine: { script: () => undefined } });
    client.send(generate('open'));
    client.send(generate('shut', { window: 1 }));
    await until(() => server.engine.numLive === 2);
    client.send(frame);
    await until(() => client.frames.length === 1);
    expect(client.frames[0]).toMatchObject({ type: 'error', ...error });
    expect(server.engine.numLive).toBe(2);
  });

  it('may be credited after the end', async () => {
    const client = await start();
    client.send(generate('a', { window: 9 }));
    await client.ended('a');
    client.send({ type: 'credit', id: 'a', frames: 1 });
    await settled(client);
    expect(client.frames.filter(({ type }) => type === 'error')).toEqual([]);
  });

  it('is refused when it is no number of frames', async () => {
    const client = await start();
    client.send(generate('a', { window: 0 }));
    expect(await client.ended('a')).toMatchObject({ error: { param: 'window' } });
    client.send(generate('b', { window: null, max_tokens: 1 }));
    expect(await client.ended('b')).toMatchObject({ type: 'done' });
  });
});

/** A socket that sends nothing until it is drained. */
class HeldSocket {
  readonly OPEN = 1;
  readyState = 1;
  readonly sent: string[] = [];
  bufferedAmount = 0;
  readonly #callbacks: (() => void)[] = [];

  send(text: string, callback?: () => void): void {
    this.sent.push(text);
    this.bufferedAmount += text.length;
    if (callback !== undefined) this.#callbacks.push(callback);
  }

  drain(): void {
    this.bufferedAmount = 0;
    for (const callback of this.#callbacks.splice(0)) callback();
  }
}

describe('turns', () => {
  const opened = (onOverflow: () => void = () => undefined) => {
    const socket = new HeldSocket();
    const writer = new SocketWriter(socket as unknown as WebSocket, onOverflow);
    /** Has `frames` of `length` characters to say. */
    const speaker = (name: string, frames: number, length: number): Speaker => ({
      speak(bytesMax) {
        for (let bytes = 0; frames > 0; frames -= 1) {
          if (bytes >= bytesMax) return true;
          bytes += writer.send(name.repeat(length));
        }
        return false;
      },
    });
    return { socket, writer, speaker };
  };

  it('go round, however much one has to say', () => {
    const { socket, writer, speaker } = opened();
    writer.admit(speaker('f', 1000, 10_000));
    for (const name of ['x', 'y']) writer.admit(speaker(name, 3, 100));
    while (!socket.sent.some((text) => text.includes('y'))) {
      const before = socket.sent.length;
      socket.drain();
      expect(socket.sent.length).toBeGreaterThan(before);
    }
    // The first drain lets the fat one finish its turn, then it is the turn of the others.
    expect(socket.sent.filter((text) => text.includes('f')).length).toBeLessThan(20);
    for (const name of ['x', 'y']) {
      expect(socket.sent.filter((text) => text.includes(name))).toHaveLength(3);
    }
  });

  it('keep the send buffer within its bound and one turn', () => {
    const { socket, writer, speaker } = opened();
    for (const name of 'abcdefgh') writer.admit(speaker(name, 1000, 1000));
    for (let i = 0; i < 100; i++) {
      expect(socket.bufferedAmount).toBeLessThan(64 * 1024 + 16 * 1024 + 3000);
      socket.drain();
    }
  });

  it('do not hold up answers to frames, which have a bound of their own', () => {
    let overflows = 0;
    const { socket, writer, speaker } = opened(() => {
      overflows += 1;
    });
    writer.admit(speaker('f', 1000, 10_000));
    const before = socket.sent.length;
    while (overflows === 0) writer.reply('r'.repeat(1000));
    const replies = socket.sent.length - before;
    expect(replies).toBeGreaterThan(1000);
    expect(replies).toBeLessThan(1100);
  });
});
