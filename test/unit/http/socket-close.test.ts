/** How sockets begin and end: refused handshakes, close codes, broken frames. */
import net from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import WebSocket from 'ws';
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
  url = await server.listen();
};
const connect = () => connectTo(`${url.replace('http', 'ws')}/v1/stream`, sockets);

const HANDSHAKE = {
  host: 'x',
  connection: 'Upgrade',
  upgrade: 'websocket',
  'sec-websocket-key': 'dGhlIHNhbXBsZSBub25jZQ==',
  'sec-websocket-version': '13',
};

/** Sends bytes and gives all that comes back until the connection ends. */
async function exchange(text: string): Promise<string> {
  const { hostname, port } = new URL(url);
  const socket = net.connect(Number(port), hostname);
  socket.on('error', () => undefined);
  socket.write(text, 'latin1');
  let answer = '';
  for await (const bytes of socket.setEncoding('latin1')) answer += bytes;
  return answer;
}

const handshake = (headers: Record<string, string | undefined>, path = '/v1/stream') =>
  `GET ${path} HTTP/1.1\r\n${Object.entries({ ...HANDSHAKE, ...headers })
    .flatMap(([name, value]) => (value === undefined ? [] : [`${name}: ${value}\r\n`]))
    .join('')}\r\n`;

describe('a handshake', () => {
  it.each([
    [{ 'sec-websocket-key': undefined }, 400, 'invalid_request'],
    [{ 'sec-websocket-key': 'short' }, 400, 'invalid_request'],
    [{ 'sec-websocket-version': '7' }, 426, 'upgrade_required'],
    [{ 'sec-websocket-protocol': ',' }, 400, 'invalid_request'],
  ])('that has %j is refused like any request', async (headers, status, code) => {
    await start();
    const [head, body] = (await exchange(handshake(headers))).split('\r\n\r\n') as [string, string];
    expect(head).toMatch(new RegExp(`^HTTP/1.1 ${status} `));
    expect(JSON.parse(body)).toMatchObject({ error: { code, param: null } });
    if (status === 426) expect(head).toContain('sec-websocket-version: 13');
  });

  it('is ignored by other routes', async () => {
    await start();
    const answer = await exchange(handshake({ connection: 'Upgrade, close' }, '/v1/models'));
    expect(answer).toMatch(/^HTTP\/1\.1 200 /);
    expect(answer.match(/HTTP\/1\.1/g)).toHaveLength(1);
  });

  it('offers no extensions', async () => {
    await start();
    const { socket } = await connect();
    expect(socket.extensions).toBe('');
  });
});

describe('a socket', () => {
  it('is closed with 1001 when the server ends', async () => {
    await start();
    const { socket } = await connect();
    const closed = new Promise((resolve) => socket.once('close', resolve));
    await server.app.close();
    expect(await closed).toBe(1001);
  });

  it.each([
    ['reserved bits', [0xf1, 0x80, 1, 2, 3, 4], 1002],
    ['a frame without mask', [0x81, 0x02, 0x7b, 0x7d], 1002],
    ['an unknown opcode', [0x83, 0x80, 1, 2, 3, 4], 1002],
    ['a text that is not UTF-8', [0x81, 0x82, 0, 0, 0, 0, 0xc3, 0x28], 1007],
    ['a close frame of one byte', [0x88, 0x81, 0, 0, 0, 0, 3], 1002],
    ['a ping that is too long', [0x89, 0xfe, 0, 126, 0, 0, 0, 0], 1002],
  ])('is closed after %s', async (_what, bytes, code) => {
    await start({ engine: { script: () => undefined } });
    const client = await connect();
    client.send({ type: 'generate', id: 'a', model: 'sub', prompt: 'Q' });
    await until(() => server.engine.numLive === 1);
    const closed = new Promise((resolve) => client.socket.once('close', resolve));
    const { _socket: raw } = client.socket as unknown as { _socket: net.Socket };
    raw.write(Buffer.from(bytes));
    expect(await closed).toBe(code);
    await until(() => server.engine.numLive === 0 && server.adapters.holds === 0);
  });

  it('is closed with 1008 when answers wait to be read', async () => {
    await start();
    const client = await connect();
    const closed = new Promise((resolve) => client.socket.once('close', resolve));
    client.socket.pause();
    const peer = [...server.app.websocketServer.clients][0]!;
    const frame = JSON.stringify({ type: 'ping', ['x'.repeat(120)]: 1 });
    for (let sent = 0; sent < 200_000 && peer.readyState === WebSocket.OPEN; sent++) {
      client.send(frame);
      if (sent % 50 === 0) await new Promise(setImmediate);
    }
    client.socket.resume();
    expect(await closed).toBe(1008);
  });

  it('answers pings of its peer and takes frames in fragments', async () => {
    await start();
    const client = await connect();
    const pong = new Promise((resolve) => client.socket.once('pong', (data) => resolve(`${data}`)));
    client.socket.ping('are you there');
    expect(await pong).toBe('are you there');
    const frame = '{"type":"ping"}';
    for (const char of frame.slice(0, -1)) client.socket.send(char, { fin: false });
    client.socket.send(frame.at(-1)!, { fin: true });
    await until(() => client.frames.length === 1);
    expect(client.frames).toEqual([{ type: 'pong' }]);
  });
});
