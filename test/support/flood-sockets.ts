/** WebSockets of the flood, each with several generations at once. */
import { once } from 'node:events';
import { setTimeout as pause } from 'node:timers/promises';
import { WebSocket } from 'ws';
import { type Flood, RETRY_MS, SLOW_WINDOW, Stream, stopReading } from './flood-stream.ts';

export interface FloodFrame {
  readonly type: 'token' | 'done' | 'error' | 'pong';
  readonly id: string;
  readonly text: string;
  readonly token_id?: number;
  readonly finish_reasons?: readonly string[];
  readonly error?: { code: string };
}

type Listener = (frame: FloodFrame) => void;

/** How a generation ended; undefined: the socket was closed. */
type End = FloodFrame | undefined;

/** One in so many streams of a vanishing reader takes the whole socket with it. */
const SOCKET_VANISHES = 0.1;

export class FloodSocket {
  readonly #socket: WebSocket;
  readonly #listeners = new Map<string, { onFrame: Listener; resolve: (end: End) => void }>();
  #count = 0;
  /** Frames for ids that do not run. */
  #stray = 0;
  /** Closed by this side, with everything that ran on it. */
  #left = false;

  private constructor(socket: WebSocket) {
    this.#socket = socket;
    socket.on('error', () => undefined);
    socket.on('message', (data) => this.#onFrame(JSON.parse(String(data)) as FloodFrame));
    socket.on('close', () => {
      for (const { resolve } of this.#listeners.values()) resolve(undefined);
      this.#listeners.clear();
    });
  }

  static async open(url: string): Promise<FloodSocket> {
    const socket = new WebSocket(`${url.replace('http', 'ws')}/v1/stream`, {
      perMessageDeflate: false,
    });
    await once(socket, 'open');
    return new FloodSocket(socket);
  }

  get closed(): boolean {
    return this.#socket.readyState !== WebSocket.OPEN;
  }

  #onFrame(frame: FloodFrame): void {
    const listener = this.#listeners.get(frame.id);
    if (listener === undefined) {
      this.#stray += 1;
      return;
    }
    listener.onFrame(frame);
    if (frame.type === 'token') return;
    this.#listeners.delete(frame.id);
    listener.resolve(frame);
  }

  /** Runs one generation to its end. @param onId told the id before anything is sent */
  generate(
    body: object,
    onId: ((id: string) => void) | undefined,
    onFrame: Listener,
  ): Promise<End> {
    const id = `g${this.#count++}`;
    onId?.(id);
    return new Promise((resolve) => {
      if (this.closed) {
        resolve(undefined);
        return;
      }
      this.#listeners.set(id, { onFrame, resolve });
      this.#socket.send(JSON.stringify({ type: 'generate', id, ...body }));
    });
  }

  /** One stream of the flood, asked again while the server is full. */
  async stream(flood: Flood): Promise<void> {
    const { report, random, options } = flood;
    const reader = flood.reader();
    const question = flood.question(reader === 'stops');
    // Half of those that stop hold back one generation for good: it alone must be lost.
    const forgets = reader === 'stops' && random.chance(0.5);
    const window = reader === 'slow' || forgets ? { window: SLOW_WINDOW } : {};
    for (;;) {
      const stream = new Stream(flood, question);
      const leaveAt = reader === 'vanishes' ? random.int(1, options.tokens) : -1;
      let stopsAt = reader === 'stops' && !forgets ? random.int(1, 20) : -1;
      let left = false;
      let id = '';
      const end = await this.generate(
        { ...question.body, ...window },
        (own) => {
          id = own;
        },
        (frame) => {
          if (frame.type !== 'token' || frame.token_id === undefined) return;
          stream.token(frame.text, frame.token_id);
          if (stream.count === leaveAt) {
            left = true;
            this.#leave(id, random.chance(SOCKET_VANISHES / options.perSocket));
          }
          if (stream.count === stopsAt) {
            stopsAt = -1;
            // The whole socket stops: every generation on it waits, each within its own buffer.
            this.#socket.pause();
            void stopReading(flood).then(() => this.#socket.resume());
          }
          if (reader === 'slow' && stream.count % SLOW_WINDOW === 0) {
            void pause(random.int(1, 20)).then(() => this.#credit(id));
          }
        },
      );
      if (end === undefined) {
        if (left || this.#left) report.vanished += 1;
        else report.cut += 1;
        return;
      }
      if (end.type === 'done') {
        const [reason] = end.finish_reasons!;
        if (reason === 'length') stream.finished();
        else if (left) report.vanished += 1;
        else report.cut += 1;
        return;
      }
      const { code } = end.error!;
      if (left && code === 'slow_reader') report.vanished += 1;
      else stream.failed(code);
      if (code !== 'queue_full') return;
      report.started -= 1;
      await pause(RETRY_MS * (1 + random.next()));
    }
  }

  #leave(id: string, withSocket: boolean): void {
    if (withSocket) {
      this.#left = true;
      this.#socket.terminate();
    } else {
      this.#socket.send(JSON.stringify({ type: 'cancel', id }));
    }
  }

  #credit(id: string): void {
    if (this.closed) return;
    this.#socket.send(JSON.stringify({ type: 'credit', id, frames: SLOW_WINDOW }));
  }

  /** @throws Error when a frame came that belongs to no generation */
  async close(): Promise<void> {
    if (!this.closed) {
      const closed = once(this.#socket, 'close');
      this.#socket.close();
      await closed;
    }
    if (this.#stray > 0) throw new Error(`${this.#stray} frames of generations that had ended`);
  }
}
