/** WebSockets without a network: a test plays the server. */
import type { WebSocketConstructor } from '../../src/client/connection.ts';

// biome-ignore lint/suspicious/noExplicitAny: frames and events are looked at field by field.
type Any = any;

export class FakeSocket {
  readonly url: string;
  /** Frames that the client sent. */
  readonly sent: Any[] = [];
  closed = false;
  readonly #listeners = new Map<string, ((event: Any) => void)[]>();

  constructor(url: string) {
    this.url = url;
  }

  addEventListener(type: string, listener: (event: Any) => void): void {
    this.#listeners.set(type, [...(this.#listeners.get(type) ?? []), listener]);
  }

  send(data: string): void {
    this.sent.push(JSON.parse(data));
  }

  /** The client closes; the server agrees when the test says so. */
  close(): void {
    this.closed = true;
  }

  emit(type: string, event: object = {}): void {
    for (const listener of this.#listeners.get(type) ?? []) listener(event);
  }

  frame(frame: object): void {
    this.emit('message', { data: JSON.stringify(frame) });
  }

  token(id: string, text: string): void {
    this.frame({ type: 'token', id, index: 0, text, token_id: 1 });
  }

  done(id: string, reason = 'length'): void {
    this.frame({ type: 'done', id, finish_reasons: [reason], stop_reasons: [null], usage: {} });
  }

  /** The connection breaks, or the server closes it. */
  break(code = 1006, reason = ''): void {
    this.emit('close', { code, reason });
  }
}

/** A constructor, and the sockets it made. */
export function fakeSockets(): { WebSocket: WebSocketConstructor; sockets: FakeSocket[] } {
  const sockets: FakeSocket[] = [];
  const WebSocket = class extends FakeSocket {
    constructor(url: string) {
      super(url);
      sockets.push(this);
    }
  };
  return { WebSocket, sockets };
}
