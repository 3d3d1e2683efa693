/** A client of the WebSocket that keeps every frame. */
import WebSocket from 'ws';
import { until } from './support.ts';

export type Frame = Record<string, unknown> & { type: string; id?: string };

export interface Client {
  readonly socket: WebSocket;
  readonly frames: Frame[];
  send(frame: unknown): void;
  of(id: string): Frame[];
  ended(id: string): Promise<Frame>;
}

/** @param sockets where the socket is noted, to be ended after the test */
export async function connectTo(url: string, sockets: WebSocket[]): Promise<Client> {
  const socket = new WebSocket(url);
  sockets.push(socket);
  const frames: Frame[] = [];
  socket.on('message', (data) => frames.push(JSON.parse(String(data)) as Frame));
  socket.on('error', () => {});
  await new Promise((resolve) => socket.once('open', resolve));
  const of = (id: string) => frames.filter((frame) => frame.id === id);
  const end = (id: string) => of(id).find(({ type }) => type === 'done' || type === 'error');
  return {
    socket,
    frames,
    of,
    send: (frame) => socket.send(typeof frame === 'string' ? frame : JSON.stringify(frame)),
    async ended(id) {
      await until(() => end(id) !== undefined);
      return end(id)!;
    },
  };
}
