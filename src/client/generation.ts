/** One generation on a StreamSocket: token events as they come, then a result. */
import { fromWire, LoramuxError } from './errors.ts';
import type { DoneFrame, ErrorFrame, GenerateFrame, TokenFrame } from './openapi.ts';

export type SocketRequest = Omit<GenerateFrame, 'type' | 'id' | 'window'>;
export type TokenEvent = TokenFrame;
export type SocketResult = DoneFrame;

/** What a generation asks of the socket that carries it. */
export interface Carrier {
  cancel(generation: SocketGeneration): void;
  /** Lets the server send this many more token frames. */
  credit(generation: SocketGeneration, frames: number): void;
}

interface Waiting {
  resolve(event: IteratorResult<TokenEvent, void>): void;
  reject(error: unknown): void;
}

/**
 * Token events, to be iterated once, and a result. A loop that is left early cancels the
 * generation. The server sends as many events as the window has room for and goes on when they are
 * taken: a slow loop slows its own generation and no other on the socket.
 */
export class SocketGeneration implements AsyncIterable<TokenEvent> {
  readonly id: string;
  /** The `done` frame; rejects as the iteration does. */
  readonly result: Promise<SocketResult>;
  readonly #request: SocketRequest;
  readonly #carrier: Carrier;
  /** Events that may wait to be taken. */
  readonly #window: number;
  readonly #buffer: TokenEvent[] = [];
  /** Taken, and not told to the server yet. */
  #unsaid = 0;
  #waiting: Waiting | undefined;
  #taken = false;
  /** Nobody wants its events any more. */
  #discarding = false;
  #end: { readonly error?: unknown } | undefined;
  #resolve: (result: SocketResult) => void = () => {};
  #reject: (error: unknown) => void = () => {};
  #onEnd: () => void = () => {};
  /** Token events that have come. */
  tokens = 0;
  /** How often it was sent. */
  sent = 0;

  constructor(id: string, request: SocketRequest, carrier: Carrier, window: number) {
    this.id = id;
    this.#request = request;
    this.#carrier = carrier;
    this.#window = window;
    this.result = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    // Whoever iterates hears of it there.
    this.result.catch(() => {});
  }

  get ended(): boolean {
    return this.#end !== undefined;
  }

  /** The frame that starts it. */
  frame(): object {
    this.sent += 1;
    return { ...this.#request, type: 'generate', id: this.id, window: this.#window };
  }

  /** Ends it on the server; `result` then says `cancelled`. */
  cancel(): void {
    if (this.#end === undefined) this.#carrier.cancel(this);
  }

  /** Tells it once when it has ended, in whichever way. */
  onEnd(listener: () => void): void {
    this.#onEnd = listener;
  }

  push(event: TokenEvent): void {
    if (this.#end !== undefined) return;
    this.tokens += 1;
    if (this.#discarding) return;
    if (this.#waiting !== undefined) {
      const { resolve } = this.#waiting;
      this.#waiting = undefined;
      this.#wasTaken();
      resolve({ done: false, value: event });
      return;
    }
    if (this.#buffer.length >= this.#window) {
      this.fail(new LoramuxError('answer_malformed', 'the server sent more than the window'));
      this.#carrier.cancel(this);
      return;
    }
    this.#buffer.push(event);
  }

  done(frame: SocketResult): void {
    if (this.#end !== undefined) return;
    this.#finish({});
    this.#resolve(frame);
  }

  failFrame({ error }: ErrorFrame): void {
    this.fail(fromWire(error, { tokens: this.tokens }));
  }

  fail(error: unknown): void {
    if (this.#end !== undefined) return;
    this.#finish({ error });
    this.#reject(error);
  }

  #finish(end: { readonly error?: unknown }): void {
    this.#end = end;
    this.#onEnd();
    const waiting = this.#waiting;
    this.#waiting = undefined;
    if (waiting === undefined) return;
    if ('error' in end) waiting.reject(end.error);
    else waiting.resolve({ done: true, value: undefined });
  }

  /** @throws LoramuxError as the server says; connection_lost; stream_taken */
  [Symbol.asyncIterator](): AsyncIterator<TokenEvent, void, void> {
    if (this.#taken) throw new LoramuxError('stream_taken', 'a generation can be read once');
    this.#taken = true;
    return {
      next: () => this.#next(),
      return: async () => {
        this.#discarding = true;
        this.#buffer.length = 0;
        this.cancel();
        return { done: true, value: undefined };
      },
    };
  }

  /** Credit goes back by the half window: the server need not wait, nor hear of each event. */
  #wasTaken(): void {
    this.#unsaid += 1;
    if (this.#unsaid * 2 < this.#window || this.#end !== undefined) return;
    this.#carrier.credit(this, this.#unsaid);
    this.#unsaid = 0;
  }

  async #next(): Promise<IteratorResult<TokenEvent, void>> {
    const first = this.#buffer.shift();
    if (first !== undefined) {
      this.#wasTaken();
      return { done: false, value: first };
    }
    if (this.#end !== undefined) {
      if ('error' in this.#end) throw this.#end.error;
      return { done: true, value: undefined };
    }
    if (this.#waiting !== undefined) {
      throw new LoramuxError('stream_taken', 'the next event is being waited for already');
    }
    return new Promise((resolve, reject) => {
      this.#waiting = { resolve, reject };
    });
  }
}
