/** Connections that clients keep: a request on one of them is answered, or never looked safe to send. */
import { once } from 'node:events';
import net from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import { type TestServer, type TestServerOptions, testServer, until } from './support.ts';

let server: TestServer;
const accepted: net.Socket[] = [];
const sockets: net.Socket[] = [];
afterEach(async () => {
  for (const socket of sockets.splice(0)) socket.destroy();
  accepted.length = 0;
  await server.close();
});

interface Peer {
  readonly socket: net.Socket;
  text: string;
  closed: boolean;
}

async function connect(options: TestServerOptions = {}): Promise<Peer> {
  server = await testServer(options);
  server.app.server.on('connection', (socket: net.Socket) => accepted.push(socket));
  const socket = net.connect(Number(new URL(await server.listen()).port), '127.0.0.1');
  sockets.push(socket);
  const peer: Peer = { socket, text: '', closed: false };
  socket.setEncoding('utf8').on('data', (text: string) => {
    peer.text += text;
  });
  socket.on('error', () => {});
  socket.on('close', () => {
    peer.closed = true;
  });
  await once(socket, 'connect');
  return peer;
}

const QUESTION = { model: 'base', prompt: 'Q', max_tokens: 2 };
const GET = 'GET /v1/models/base HTTP/1.1\r\nhost: test\r\n\r\n';
const post = (fields: object) => {
  const body = JSON.stringify(fields);
  return (
    'POST /v1/completions HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\n' +
    `content-length: ${body.length}\r\n\r\n${body}`
  );
};

const answers = ({ text }: Peer) => text.split('HTTP/1.1 200').length - 1;

/** This thread, server and all, gets no processor for so long. */
const stall = (ms: number) => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);

describe('an idle connection', () => {
  it('is closed later than its client was told', async () => {
    const peer = await connect();
    const { keepAliveTimeoutMs } = server.services.config;
    peer.socket.write(GET);
    await until(() => answers(peer) === 1);
    expect(peer.text).toContain(`Keep-Alive: timeout=${keepAliveTimeoutMs / 1000}\r\n`);
    await until(() => accepted[0]!.timeout! > keepAliveTimeoutMs);
  });

  it('is closed when nothing came', async () => {
    const peer = await connect({ config: { keepAliveTimeoutMs: 1 } });
    peer.socket.write(GET);
    await until(() => peer.closed);
    expect(answers(peer)).toBe(1);
  });

  it('is not closed over a request that came while the server was kept from reading it', async () => {
    const peer = await connect({ config: { keepAliveTimeoutMs: 1 } });
    peer.socket.write(GET);
    await until(() => answers(peer) === 1 && accepted[0]!.timeout! > 0);
    accepted[0]!.setTimeout(1);
    // Written at once to a socket with room; both ends are this thread's.
    peer.socket.write(post(QUESTION));
    stall(20);
    await until(() => answers(peer) === 2 || peer.closed);
    expect(answers(peer)).toBe(2);
  });
});

describe('while the server drains', () => {
  it.each([
    ['answers to requests that came before', {}, '"usage"'],
    ['streams that begin then', { stream: true }, '[DONE]'],
  ])('%s say that the connection ends', async (_, fields, end) => {
    const peer = await connect({ engine: { manual: true } });
    peer.socket.write(post({ ...QUESTION, ...fields }));
    await until(() => server.engine.numLive === 1);
    server.lifecycle.draining = true;
    server.engine.step();
    server.engine.step();
    await until(() => answers(peer) === 1);
    expect(peer.text).toMatch(/connection: close/i);
    await until(() => peer.closed);
    expect(peer.text).toContain(end);
  });
});
