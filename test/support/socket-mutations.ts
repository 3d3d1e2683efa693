/** WebSockets with malformed frames: damaged JSON, and bytes that are no frames at all. */
import { once } from 'node:events';
import type { Socket } from 'node:net';
import { WebSocket } from 'ws';
import { anyJson, damagedFields, damagedText, type MutationContext } from './http-mutations.ts';

/** Frames of one socket; the last may end it. */
export const FRAMES_PER_SOCKET = 50;

type Frame = Record<string, unknown> & { type: string };

/** Bytes that a server must not take for a frame. Masks are zero, so that payloads stand as they are. */
const BROKEN: readonly (readonly number[])[] = [
  [0xf1, 0x80, 0, 0, 0, 0],
  [0xc1, 0x80, 0, 0, 0, 0],
  [0x83, 0x80, 0, 0, 0, 0],
  [0x81, 0x02, 0x7b, 0x7d],
  [0x80, 0x80, 0, 0, 0, 0],
  [0x81, 0x82, 0, 0, 0, 0, 0xc3, 0x28],
  [0x88, 0x81, 0, 0, 0, 0, 3],
  [0x88, 0x82, 0, 0, 0, 0, 0, 1],
  [0x09, 0x80, 0, 0, 0, 0],
  // Lengths of 64 bits: too large, and larger than any number.
  [0x81, 0xff, 0, 0, 0, 0, 0, 0xff, 0, 0, 0, 0, 0, 0],
  [0x81, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0],
];

function jsonFrame(context: MutationContext, index: number): string {
  const { random } = context;
  const id = random.pick([`g${index}`, `g${index}`, 'same', '', 'x'.repeat(200)]);
  const type = random.pick(['generate', 'generate', 'generate', 'cancel', 'credit', 'ping', 'fly']);
  const model = random.pick(['flood', 'a', 'b', 'nobody']);
  const valid =
    type === 'generate'
      ? { type, id, model, prompt: [5, 6], max_tokens: random.int(0, 8) }
      : { type, ...(type !== 'ping' && { id }), ...(type === 'credit' && { frames: 1 }) };
  const draw = random.next();
  if (draw < 0.3) return JSON.stringify({ ...valid, ...(type === 'generate' && { window: 2 }) });
  return draw < 0.9 ? damagedFields(context, valid) : anyJson(context);
}

async function send(socket: WebSocket, context: MutationContext, index: number): Promise<void> {
  const { random } = context;
  const text = jsonFrame(context, index);
  const draw = random.next();
  if (draw < 0.8) socket.send(text);
  else if (draw < 0.88) socket.send(damagedText(context, text).toString());
  else if (draw < 0.92) socket.send(damagedText(context, text), { binary: true });
  else if (draw < 0.96) {
    const at = random.int(0, text.length);
    socket.send(text.slice(0, at), { fin: false });
    socket.ping();
    socket.send(text.slice(at), { fin: true });
  } else {
    // Ids that never ran, by the dozen.
    for (let i = 0; i < 30; i++) socket.send(JSON.stringify({ type: 'cancel', id: `g${i}` }));
  }
  // Frames come one by one or many at a time.
  if (random.chance(0.3)) await new Promise(setImmediate);
}

/** An open socket; the handshake is made again when it was not sent within the server's short limit. */
async function openSocket(url: string): Promise<WebSocket> {
  for (;;) {
    const socket = new WebSocket(`${url.replace('http', 'ws')}/v1/stream`, {
      perMessageDeflate: false,
    });
    socket.on('error', () => undefined);
    const status = await new Promise<number | undefined>((resolve) => {
      socket.once('open', () => resolve(101));
      socket.once('unexpected-response', (_request, { statusCode }) => resolve(statusCode));
      socket.once('close', () => resolve(undefined));
    });
    if (status === 101) return socket;
    socket.terminate();
    if (status !== 408) throw new Error(`the handshake was answered with ${status}`);
  }
}

/** One socket from its handshake to its close: what the server sent, and the code it closed with. */
export async function socketOfFrames(
  url: string,
  context: MutationContext,
): Promise<{ frames: Frame[]; closeCode: number }> {
  const { random } = context;
  const socket = await openSocket(url);
  const frames: Frame[] = [];
  socket.on('message', (data) => frames.push(JSON.parse(String(data)) as Frame));
  const closed = once(socket, 'close') as Promise<[number]>;
  for (let i = 0; i < FRAMES_PER_SOCKET - 1 && socket.readyState === WebSocket.OPEN; i++) {
    await send(socket, context, i);
  }
  if (socket.readyState === WebSocket.OPEN) {
    if (random.chance(0.5)) {
      const { _socket: raw } = socket as unknown as { _socket: Socket };
      raw.write(Buffer.from(random.pick(BROKEN)));
    } else if (random.chance(0.2)) {
      socket.send('x'.repeat(100_000));
    } else {
      // Answered after everything before it.
      const pong = once(socket, 'pong');
      socket.ping();
      await Promise.race([pong, closed]);
      socket.close(1000);
    }
  }
  const [closeCode] = await closed;
  return { frames, closeCode };
}
