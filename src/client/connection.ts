/** One WebSocket from its handshake to its end: opening in time, signs of life, frames as objects. */
import { LoramuxError } from './errors.ts';
import type { DoneFrame, ErrorFrame, PongFrame, TokenFrame } from './openapi.ts';

/** What is needed of a WebSocket: a browser's, Node's from 22 on, or that of the package `ws`. */
export interface WebSocketLike {
  send(data: string): void;
  close(code?: number, reason?: string): void;
  /** Of `ws`: ends at once, without waiting for a peer that may be gone. */
  terminate?(): void;
  // biome-ignore lint/suspicious/noExplicitAny: browsers, Node and `ws` type their events apart.
  addEventListener(type: any, listener: (event: any) => void): void;
}

export type WebSocketConstructor = new (url: string) => WebSocketLike;

export type ServerFrame = TokenFrame | DoneFrame | ErrorFrame | PongFrame;

/** Milliseconds until a handshake must have been answered. */
const OPEN_MS_MAX = 15_000;
/** Milliseconds that a closed socket may take to say that it is. */
const CLOSE_MS_MAX = 2_000;
/** The server refused a frame for its length. */
const CLOSE_TOO_LARGE = 1009;

export interface ConnectionEvents {
  onOpen(): void;
  onFrame(frame: ServerFrame): void;
  /** Called once, and nothing after it. */
  onLost(reason: LoramuxError): void;
}

type Timer = ReturnType<typeof setTimeout>;

/** In Node a timer keeps the process alive unless it is told not to. */
const unref = (timer: Timer) => (timer as { unref?: () => void }).unref?.();

export class Connection {
  readonly #socket: WebSocketLike;
  readonly #events: ConnectionEvents;
  readonly #closed: Promise<void>;
  #onClosed: () => void = () => {};
  #opening: Timer | undefined;
  #heartbeat: Timer | undefined;
  /** A frame came since the last ping. */
  #alive = true;
  #ended = false;
  open = false;

  /** @throws what the WebSocket's constructor throws */
  constructor(
    url: string,
    WebSocket: WebSocketConstructor,
    pingMs: number,
    events: ConnectionEvents,
  ) {
    this.#events = events;
    this.#closed = new Promise((resolve) => {
      this.#onClosed = resolve;
    });
    const socket = new WebSocket(url);
    this.#socket = socket;
    this.#opening = setTimeout(
      () => this.#lose('connection_failed', `no WebSocket within ${OPEN_MS_MAX} ms`),
      OPEN_MS_MAX,
    );
    socket.addEventListener('open', () => this.#onOpen(pingMs));
    socket.addEventListener('message', (event: { readonly data: unknown }) =>
      this.#onMessage(event.data),
    );
    // The close that follows ends it; it says no more than this.
    socket.addEventListener('error', (event: { readonly message?: string }) => {
      this.#lose('connection_failed', event.message || 'the WebSocket failed');
    });
    socket.addEventListener(
      'close',
      ({ code, reason }: { readonly code: number; readonly reason: string }) => {
        this.#onClosed();
        const why = reason === '' ? `code ${code}` : `code ${code}, ${reason}`;
        const kind = code === CLOSE_TOO_LARGE ? 'payload_too_large' : 'connection_failed';
        this.#lose(kind, `the WebSocket was closed (${why})`);
      },
    );
  }

  /** Sends a frame; what is sent on a broken connection is lost with it. */
  send(frame: object): void {
    if (this.open) this.#socket.send(JSON.stringify(frame));
  }

  /** Resolves when the peer knows, or after a bounded time. */
  async close(): Promise<void> {
    this.#end();
    this.#socket.close(1000);
    let timer: Timer | undefined;
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, CLOSE_MS_MAX);
    });
    await Promise.race([this.#closed, late]);
    clearTimeout(timer);
    this.#socket.terminate?.();
  }

  #onOpen(pingMs: number): void {
    if (this.#ended) return;
    clearTimeout(this.#opening);
    this.open = true;
    this.#heartbeat = setInterval(() => this.#beat(), pingMs);
    unref(this.#heartbeat);
    this.#events.onOpen();
  }

  #beat(): void {
    if (!this.#alive) {
      this.#lose('connection_failed', 'the server gave no sign of life');
      return;
    }
    this.#alive = false;
    this.send({ type: 'ping' });
  }

  #onMessage(data: unknown): void {
    if (this.#ended) return;
    this.#alive = true;
    let frame: ServerFrame | undefined;
    try {
      if (typeof data === 'string') frame = JSON.parse(data) as ServerFrame;
    } catch {
      // Said below, as for anything else that is no frame.
    }
    if (typeof frame !== 'object' || frame === null || typeof frame.type !== 'string') {
      this.#lose('answer_malformed', 'the server sent what is not a frame');
      return;
    }
    this.#events.onFrame(frame);
  }

  /** Gives the connection up from this side. */
  fail(code: string, message: string): void {
    this.#lose(code, message);
  }

  #lose(code: string, message: string): void {
    if (this.#ended) return;
    this.#end();
    if (this.#socket.terminate === undefined) this.#socket.close();
    else this.#socket.terminate();
    this.#events.onLost(new LoramuxError(code, message));
  }

  #end(): void {
    this.#ended = true;
    this.open = false;
    clearTimeout(this.#opening);
    clearInterval(this.#heartbeat);
  }
}
