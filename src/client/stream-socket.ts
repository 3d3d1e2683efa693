/** The WebSocket /v1/stream: many generations at once, and a new socket when one breaks. */
import { Connection, type ServerFrame, type WebSocketConstructor } from './connection.ts';
import { fromWire, LoramuxError } from './errors.ts';
import { type Carrier, SocketGeneration, type SocketRequest } from './generation.ts';
import type { ErrorFrame } from './openapi.ts';
import { backOffMs } from './retry.ts';

/** Generations that run or wait for a socket; one more is refused. */
export const GENERATIONS_MAX = 4_096;
/** How often a generation that has no token yet is sent in all. */
const SENDS_MAX = 3;
const RECONNECTS_DEFAULT = 5;
const PING_MS_DEFAULT = 20_000;
/** The longest wait a timer knows. */
const TIMER_MAX = 2 ** 31 - 1;
const WINDOW_DEFAULT = 256;
const WINDOW_MAX = 65_536;

export interface StreamSocketOptions {
  /** Milliseconds between pings; a server that is silent for one of them is given up. */
  readonly pingMs?: number | undefined;
  /** Failed handshakes in a row after which generations that wait for a socket fail. */
  readonly reconnects?: number | undefined;
  /** Token events of one generation that may wait to be taken, 1 to 65,536; default 256. */
  readonly window?: number | undefined;
}

export interface GenerateOptions {
  /** Cancels the generation; the iteration and `result` reject with its reason. */
  readonly signal?: AbortSignal | undefined;
  /**
   * What happens to a generation whose socket breaks: `never` (the default) fails it with
   * `connection_lost`; `before-first-token` sends it again while no token has come.
   */
  readonly retry?: 'never' | 'before-first-token' | undefined;
}

interface Live {
  readonly generation: SocketGeneration;
  readonly retry: boolean;
}

interface Pending {
  readonly promise: Promise<void>;
  readonly resolve: () => void;
  readonly reject: (error: LoramuxError) => void;
}

function pending(): Pending {
  let settle!: Omit<Pending, 'promise'>;
  const promise = new Promise<void>((resolve, reject) => {
    settle = { resolve, reject };
  });
  return { promise, ...settle };
}

/** @throws LoramuxError invalid_option */
function positive(
  name: string,
  value: number | undefined,
  whenAbsent: number,
  max = TIMER_MAX,
): number {
  if (value === undefined) return whenAbsent;
  if (Number.isInteger(value) && value > 0 && value <= max) return value;
  throw new LoramuxError('invalid_option', `${name} must be an integer of 1 to ${max}`);
}

export class StreamSocket {
  readonly #url: string;
  readonly #WebSocket: WebSocketConstructor;
  readonly #pingMs: number;
  readonly #reconnects: number;
  readonly #window: number;
  /** On the socket that is open, by id. */
  readonly #running = new Map<string, Live>();
  /** Not sent yet, or to be sent again, in order. */
  readonly #waiting = new Map<string, Live>();
  #connection: Connection | undefined;
  /** Handshakes and sockets in a row that brought no frame. */
  #failures = 0;
  #backOff: ReturnType<typeof setTimeout> | undefined;
  /** What every `open()` waits for until a socket is open. */
  #opened: Pending | undefined;
  #closed = false;
  #count = 0;

  constructor(url: string, WebSocket: WebSocketConstructor, options: StreamSocketOptions = {}) {
    this.#url = url;
    this.#WebSocket = WebSocket;
    this.#pingMs = positive('pingMs', options.pingMs, PING_MS_DEFAULT);
    this.#reconnects = positive('reconnects', options.reconnects, RECONNECTS_DEFAULT);
    this.#window = positive('window', options.window, WINDOW_DEFAULT, WINDOW_MAX);
  }

  /**
   * Resolves when a socket is open. The signal gives up and closes this one for good.
   * @throws LoramuxError connection_failed, socket_closed; the reason of an aborted signal
   */
  async open(signal?: AbortSignal): Promise<void> {
    signal?.throwIfAborted();
    if (this.#closed) throw this.#isClosed();
    if (this.#connection?.open === true) return;
    this.#opened ??= pending();
    const { promise } = this.#opened;
    const onAbort = () => void this.close();
    signal?.addEventListener('abort', onAbort, { once: true });
    this.#connect();
    try {
      await promise;
    } catch (error) {
      signal?.throwIfAborted();
      throw error;
    } finally {
      signal?.removeEventListener('abort', onAbort);
    }
  }

  /** Generations that run or wait for a socket. */
  get size(): number {
    return this.#running.size + this.#waiting.size;
  }

  /**
   * Starts a generation now, or as soon as a socket is open again.
   * @throws LoramuxError socket_closed, too_many_generations; the reason of an aborted signal
   */
  generate(request: SocketRequest, options: GenerateOptions = {}): SocketGeneration {
    const { signal, retry = 'never' } = options;
    signal?.throwIfAborted();
    if (this.#closed) throw this.#isClosed();
    if (this.size >= GENERATIONS_MAX) {
      throw new LoramuxError(
        'too_many_generations',
        `${GENERATIONS_MAX} generations run or wait on this socket, its limit`,
      );
    }
    const id = `g${++this.#count}`;
    const carrier: Carrier = {
      cancel: (generation) => this.#cancel(generation),
      credit: (_, frames) => this.#connection?.send({ type: 'credit', id, frames }),
    };
    const generation = new SocketGeneration(id, request, carrier, this.#window);
    const onAbort = () => {
      this.#forget(id);
      generation.fail(signal!.reason);
    };
    signal?.addEventListener('abort', onAbort, { once: true });
    generation.onEnd(() => signal?.removeEventListener('abort', onAbort));
    const live: Live = { generation, retry: retry === 'before-first-token' };
    if (this.#connection?.open === true) this.#send(live);
    else {
      this.#waiting.set(id, live);
      this.#connect();
    }
    return generation;
  }

  /** Closes the socket for good. What runs on it fails with `socket_closed`. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    clearTimeout(this.#backOff);
    const connection = this.#connection;
    this.#connection = undefined;
    this.#failAll(() => this.#isClosed());
    this.#opened?.reject(this.#isClosed());
    this.#opened = undefined;
    await connection?.close();
  }

  #isClosed(): LoramuxError {
    return new LoramuxError('socket_closed', 'this socket was closed by close()');
  }

  #failAll(errorFor: (generation: SocketGeneration) => LoramuxError): void {
    const all = [...this.#running.values(), ...this.#waiting.values()];
    this.#running.clear();
    this.#waiting.clear();
    for (const { generation } of all) generation.fail(errorFor(generation));
  }

  #send(live: Live): void {
    this.#running.set(live.generation.id, live);
    this.#connection!.send(live.generation.frame());
  }

  /** Ends a generation on the server, if it got there, and hears no more of it. */
  #forget(id: string): void {
    if (this.#waiting.delete(id)) return;
    if (this.#running.delete(id)) this.#connection?.send({ type: 'cancel', id });
  }

  #cancel(generation: SocketGeneration): void {
    const { id } = generation;
    if (this.#running.has(id)) {
      // The server's `done` ends it.
      this.#connection?.send({ type: 'cancel', id });
    } else if (this.#waiting.delete(id)) {
      generation.fail(new LoramuxError('cancelled', 'cancelled before it was sent'));
    }
  }

  #connect(): void {
    if (this.#connection !== undefined || this.#backOff !== undefined) return;
    const waitMs = this.#failures === 0 ? 0 : backOffMs(this.#failures - 1);
    this.#backOff = setTimeout(() => {
      this.#backOff = undefined;
      try {
        this.#connection = new Connection(this.#url, this.#WebSocket, this.#pingMs, {
          onOpen: () => this.#onOpen(),
          onFrame: (frame) => this.#onFrame(frame),
          onLost: (reason) => this.#onLost(reason),
        });
      } catch (cause) {
        const message = `no WebSocket could be made: ${(cause as Error).message}`;
        this.#onLost(new LoramuxError('connection_failed', message, { cause }));
      }
    }, waitMs);
  }

  #onOpen(): void {
    this.#opened?.resolve();
    this.#opened = undefined;
    const waiting = [...this.#waiting.values()];
    this.#waiting.clear();
    for (const live of waiting) this.#send(live);
  }

  #onFrame(frame: ServerFrame): void {
    this.#failures = 0;
    if (frame.type === 'pong') return;
    if (frame.id === undefined) {
      this.#onRefused(frame as ErrorFrame);
      return;
    }
    // What was cancelled from this side may still be spoken of.
    const live = this.#running.get(frame.id);
    if (live === undefined) return;
    const { generation } = live;
    if (frame.type === 'token') {
      generation.push(frame);
      return;
    }
    this.#running.delete(frame.id);
    if (frame.type === 'done') generation.done(frame);
    else generation.failFrame(frame);
  }

  /** A frame was refused without ending anything; this client sends none that should be. */
  #onRefused({ refused, error }: ErrorFrame): void {
    const live = refused === undefined ? undefined : this.#running.get(refused.id);
    if (live === undefined) {
      const message = `the server could not read a frame: ${error?.code}, ${error?.message}`;
      this.#connection?.fail('answer_malformed', message);
      return;
    }
    this.#forget(live.generation.id);
    live.generation.fail(fromWire(error));
  }

  #onLost(reason: LoramuxError): void {
    this.#connection = undefined;
    this.#failures += 1;
    const lost = [...this.#running.values()];
    this.#running.clear();
    for (const live of lost) {
      const { generation, retry } = live;
      const again = retry && generation.tokens === 0 && generation.sent < SENDS_MAX;
      // A frame that was too large would close the next socket as well.
      if (again && reason.code !== 'payload_too_large') this.#waiting.set(generation.id, live);
      else generation.fail(this.#connectionLost(generation, reason));
    }
    if (this.#failures > this.#reconnects) {
      this.#failures = 0;
      this.#failAll(() => reason);
      this.#opened?.reject(reason);
      this.#opened = undefined;
    }
    // Without anybody who waits, the next generation opens a socket.
    if (this.#waiting.size > 0 || this.#opened !== undefined) this.#connect();
  }

  #connectionLost({ tokens }: SocketGeneration, reason: LoramuxError): LoramuxError {
    const came = tokens === 0 ? 'before the first token' : `after ${tokens} token events`;
    return new LoramuxError('connection_lost', `${reason.message}, ${came}`, {
      tokens,
      cause: reason,
    });
  }
}
