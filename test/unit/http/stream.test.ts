import { afterEach, describe, expect, it } from 'vitest';
import WebSocket from 'ws';
import { repeating, type Script } from '../../support/fake-engine.ts';
import { codes, EOS } from '../generation/support.ts';
import { connectTo } from './socket-client.ts';
import { type TestServer, type TestServerOptions, testServer, until } from './support.ts';

let server: TestServer;
let url: string;
const sockets: WebSocket[] = [];
afterEach(async () => {
  for (const socket of sockets.splice(0)) socket.terminate();
  await server.close();
});

const start = async (options: TestServerOptions = {}) => {
  server = await testServer(options);
  url = `${(await server.listen()).replace('http', 'ws')}/v1/stream`;
};

const connect = () => connectTo(url, sockets);

const generate = (id: string, fields: Record<string, unknown> = {}) => ({
  type: 'generate',
  id,
  model: 'base',
  prompt: 'Q',
  ...fields,
});

const silent = { script: () => undefined };

describe('WebSocket /v1/stream', () => {
  it('streams tokens and ends with done', async () => {
    await start();
    const client = await connect();
    client.send(generate('a', { model: 'sub', logprobs: 1, n: 2 }));
    const done = await client.ended('a');
    const { digest } = server.adapters.resolve('sub').generation;
    expect(done).toEqual({
      type: 'done',
      id: 'a',
      finish_reasons: ['stop', 'stop'],
      stop_reasons: [EOS, EOS],
      usage: {
        prompt_tokens: 1,
        completion_tokens: 12,
        total_tokens: 13,
        prompt_tokens_details: { cached_tokens: 0 },
      },
      adapter_generation: digest,
    });
    for (const frame of client.of('a')) expect(frame.adapter_generation).toBe(digest);
    const tokens = client.of('a').filter(({ type, index }) => type === 'token' && index === 1);
    expect(tokens.map(({ text }) => text).join('')).toBe('hello');
    expect(tokens.map(({ token_id }) => token_id)).toEqual([...codes('hello'), EOS]);
    expect(tokens[0]).toMatchObject({ logprobs: { tokens: ['h'], token_logprobs: [-0.5] } });
  });

  it('runs several generations at once and keeps them apart', async () => {
    const script: Script = (r, _index, position) => (position < 9 ? r.promptTokenIds[0] : EOS);
    await start({ engine: { script } });
    const client = await connect();
    for (const id of ['x', 'y', 'z']) client.send(generate(id, { prompt: id }));
    for (const id of ['x', 'y', 'z']) {
      await client.ended(id);
      const text = client.of(id).map((frame) => frame.text ?? '');
      expect(text.join('')).toBe(id.repeat(9));
    }
  });

  it('cancels one generation and leaves the others', async () => {
    await start({ engine: { script: (r) => (r.cacheSalt === 'mute' ? undefined : 97) } });
    const client = await connect();
    client.send(generate('mute', { cache_salt: 'mute', n: 2 }));
    client.send(generate('talk', { max_tokens: 50 }));
    client.send({ type: 'cancel', id: 'mute' });
    expect(await client.ended('mute')).toMatchObject({
      type: 'done',
      finish_reasons: ['cancelled', 'cancelled'],
    });
    expect(await client.ended('talk')).toMatchObject({ finish_reasons: ['length'] });
    await until(() => server.engine.numLive === 0);
  });

  it('cancels everything when the socket closes', async () => {
    await start({ engine: silent });
    const client = await connect();
    for (const id of ['a', 'b']) client.send(generate(id, { model: 'sub' }));
    await until(() => server.engine.numLive === 2);
    client.socket.terminate();
    await until(() => server.engine.numLive === 0 && server.adapters.holds === 0);
  });

  it('answers ping and ignores the cancelling of what already ended', async () => {
    await start();
    const client = await connect();
    client.send({ type: 'cancel', id: 'never' });
    client.send({ type: 'ping' });
    await until(() => client.frames.length > 0);
    expect(client.frames).toEqual([{ type: 'pong' }]);
  });

  it.each([
    ['nonsense', 'invalid_request', undefined],
    ['[1]', 'invalid_request', undefined],
    [{ type: 'fly' }, 'invalid_request', undefined],
    [{ type: 'ping', extra: 1 }, 'unknown_field', undefined],
    [{ type: 'cancel' }, 'invalid_request', undefined],
    [generate('a', { colour: 'red' }), 'unknown_field', 'a'],
    [generate('a', { stream: true }), 'unknown_field', 'a'],
    [generate('a', { suffix: 'x' }), 'unsupported_field', 'a'],
    [generate('a', { model: 'nobody' }), 'model_not_found', 'a'],
    [generate('a', { prompt: '' }), 'prompt_empty', 'a'],
    [generate('a', { temperature: 'hot' }), 'invalid_request', 'a'],
    [generate(''), 'invalid_request', ''],
  ])('refuses %j and stays usable', async (frame, code, id) => {
    await start();
    const client = await connect();
    client.send(frame);
    await until(() => client.frames.length > 0);
    expect(client.frames[0]).toMatchObject({ type: 'error', error: { code } });
    expect(client.frames[0]?.id).toBe(id);
    client.send(generate('next'));
    expect(await client.ended('next')).toMatchObject({ type: 'done' });
  });

  it('refuses binary frames', async () => {
    await start();
    const client = await connect();
    client.socket.send(Buffer.from('{"type":"ping"}'), { binary: true });
    await until(() => client.frames.length > 0);
    expect(client.frames[0]).toMatchObject({ error: { code: 'invalid_request' } });
  });

  it('refuses an id in use and more generations than allowed', async () => {
    await start({ engine: silent, config: { maxGenerationsPerSocket: 2 } });
    const client = await connect();
    client.send(generate('a'));
    client.send(generate('a'));
    client.send(generate('b'));
    client.send(generate('c'));
    expect(await client.ended('c')).toMatchObject({ error: { code: 'socket_limit_exceeded' } });
    // No frame says that "a" is over: it goes on.
    expect(client.of('a')).toEqual([]);
    expect(client.frames[0]).toMatchObject({
      type: 'error',
      refused: { type: 'generate', id: 'a' },
      error: { code: 'invalid_request', param: 'id' },
    });
    await until(() => server.engine.numLive === 2);
  });

  it('frees an id when its generation ends', async () => {
    await start();
    const client = await connect();
    for (let round = 1; round <= 3; round++) {
      client.send(generate('a'));
      await until(() => client.of('a').filter(({ type }) => type === 'done').length === round);
    }
  });

  it('closes a socket whose frame is too large', async () => {
    await start({ config: { bodyLimitKb: 1 } });
    const client = await connect();
    const closed = new Promise((resolve) => client.socket.once('close', resolve));
    client.send(generate('a', { prompt: 'x'.repeat(2000) }));
    expect(await closed).toBe(1009);
  });

  it('closes a socket whose peer is gone', async () => {
    // Long enough that a peer which is there answers, also on a machine that does other work.
    await start({ engine: silent, config: { wsPingMs: 1000 } });
    const client = await connect();
    client.send(generate('a'));
    await until(() => server.engine.numLive === 1);
    // A peer without a network answers no ping.
    client.socket.pause();
    await until(() => server.engine.numLive === 0);
  });

  it('cancels only the generation that a slow reader lets pile up', async () => {
    await start({
      engine: { script: repeating(codes('a')), manual: true, maxModelLen: 10_000_000 },
      streamBufferBytes: 20_000,
    });
    const client = await connect();
    client.send(generate('flood', { n: 8, max_tokens: 1_000_000 }));
    client.send(generate('other', { max_tokens: 1, cache_salt: 'x' }));
    await until(() => server.engine.numLive === 2);
    client.socket.pause();
    for (let steps = 1; server.engine.numLive > 0 && steps < 500_000; steps++) {
      server.engine.step();
      if (steps % 50 === 0) await new Promise(setImmediate);
    }
    client.socket.resume();
    expect(await client.ended('flood')).toMatchObject({ error: { code: 'slow_reader' } });
    expect(await client.ended('other')).toMatchObject({ type: 'done' });
    client.send({ type: 'ping' });
    await until(() => client.frames.at(-1)?.type === 'pong');
  });

  it('closes a socket that asks without reading the answers', async () => {
    await start();
    const client = await connect();
    client.socket.pause();
    let closed = false;
    const [peer] = server.app.websocketServer.clients;
    peer!.once('close', () => {
      closed = true;
    });
    // Each is refused with an error that names the field; the system's own buffers fill first.
    const frame = JSON.stringify({ type: 'ping', ['x'.repeat(120)]: 1 });
    for (let sent = 0; sent < 200_000 && !closed; sent++) {
      client.send(frame);
      if (sent % 50 === 0) await new Promise(setImmediate);
    }
    await until(() => closed);
  });

  it('does not repeat an id that no generation may have', async () => {
    await start();
    const client = await connect();
    client.send(generate('x'.repeat(1000)));
    await until(() => client.frames.length > 0);
    expect(client.frames[0]).toMatchObject({ type: 'error', error: { param: 'id' } });
    expect(client.frames[0]).not.toHaveProperty('id');
  });

  it('refuses plain HTTP with 426 and new generations while draining', async () => {
    await start();
    const plain = await fetch(url.replace('ws', 'http'));
    expect([plain.status, plain.headers.get('upgrade')]).toEqual([426, 'websocket']);
    const client = await connect();
    server.lifecycle.draining = true;
    client.send(generate('a'));
    expect(await client.ended('a')).toMatchObject({ error: { code: 'shutting_down' } });
    const late = new WebSocket(url);
    const refused = await new Promise<Error>((resolve) => late.once('error', resolve));
    expect(refused.message).toMatch('503');
  });
});
