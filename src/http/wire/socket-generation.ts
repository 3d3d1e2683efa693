/** One generation of a WebSocket: its events as frames, at the pace of the socket and of its window. */
import { LoramuxError } from '../../errors.ts';
import type { Generation, GenerationEvent } from '../../generation/types.ts';
import type { AnsweredBy } from '../schemas/adapter-choice.ts';
import { INT32_MAX } from '../schemas/limits.ts';
import type { FinishReason } from '../schemas/stream.ts';
import { answeredBy } from './adapter-choice.ts';
import { wireLogprobs, wireUsage } from './completion-response.ts';
import type { SocketWriter, Speaker } from './socket-writer.ts';

/** Events that are taken from the generation's bounded queue at a time. */
const EVENTS_PER_TURN = 64;

type TextEvent = Exclude<GenerationEvent, { type: 'error' }>;

/** The end of a choice is part of `done`; it is a frame of its own only with text held back. */
const isFrame = (event: TextEvent) => event.type !== 'finish' || event.text !== '';

export class SocketGeneration implements Speaker {
  readonly #id: string;
  readonly #writer: SocketWriter;
  readonly #controller = new AbortController();
  /** Token frames that may still be sent; undefined: no window. */
  #credit: number | undefined;
  #generation: Generation | undefined;
  #answeredBy: AnsweredBy = {};
  #reasons: FinishReason[] = [];
  #stops: (string | number | null)[] = [];
  /** Taken from the generation and not sent: from `#at` on. */
  #held: readonly TextEvent[] = [];
  #at = 0;
  /** The frame that ends the generation, once there is nothing else to send. */
  #last: object | undefined;
  /** Whether the writer will ask for more, sooner or later. */
  #admitted = false;
  #spoken: (() => void) | undefined;
  #gone = false;

  /** @param window token frames that may be sent before the first credit */
  constructor(id: string, writer: SocketWriter, window: number | undefined) {
    this.#id = id;
    this.#writer = writer;
    this.#credit = window;
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Sends everything the generation says, the last frame included. Resolves when it is sent. */
  async run(start: (signal: AbortSignal) => Promise<Generation>): Promise<void> {
    const generation = await start(this.#controller.signal);
    this.#generation = generation;
    // What it failed for must not wait for a window that nobody opens.
    generation.onFailure = () => this.#drop();
    this.#answeredBy = answeredBy(generation);
    // Choices that never finish were cancelled.
    this.#reasons = new Array<FinishReason>(generation.choices).fill('cancelled');
    this.#stops = new Array<string | number | null>(generation.choices).fill(null);
    for (;;) {
      const events = await generation.next(undefined, EVENTS_PER_TURN);
      if (events === undefined) break;
      const failure = events.find((event) => event.type === 'error');
      if (failure !== undefined) throw failure.error;
      this.#held = events as TextEvent[];
      this.#at = 0;
      await this.#turn();
    }
    await this.end({
      type: 'done',
      id: this.#id,
      finish_reasons: this.#reasons,
      stop_reasons: this.#stops,
      usage: wireUsage(generation.usage()),
      ...this.#answeredBy,
    });
  }

  /** Sends the last frame in its turn. */
  async end(frame: object): Promise<void> {
    this.#last = frame;
    await this.#turn();
  }

  /** Ends it; `done` says so. What the engine has finished may still wait for credit. */
  cancel(): void {
    this.#controller.abort();
    this.#generation?.cancel();
    this.#drop();
  }

  /** The socket is gone: nothing can be sent any more. */
  abandon(): void {
    this.#gone = true;
    this.#controller.abort();
    this.#held = [];
    this.#last = undefined;
    this.#settle();
  }

  /**
   * Lets `frames` more token frames be sent.
   * @throws LoramuxError invalid_request without a window, or when it grows without bounds
   */
  addCredit(frames: number): void {
    if (this.#credit === undefined) {
      const message = `generation ${JSON.stringify(this.#id)} was started without a window`;
      throw new LoramuxError('invalid_request', message, { param: 'id' });
    }
    if (this.#credit + frames > INT32_MAX) {
      const message = `with ${frames} more, more than ${INT32_MAX} frames may be sent`;
      throw new LoramuxError('invalid_request', message, { param: 'frames' });
    }
    this.#credit += frames;
    this.#admit();
  }

  /** For the writer. */
  speak(bytesMax: number): boolean {
    let bytes = 0;
    for (; this.#at < this.#held.length; this.#at++) {
      if (bytes >= bytesMax) return true;
      const event = this.#held[this.#at]!;
      if (isFrame(event)) {
        if (this.#credit === 0) {
          this.#admitted = false;
          return false;
        }
        if (this.#credit !== undefined) this.#credit -= 1;
        bytes += this.#writer.send(this.#tokenFrame(event));
      }
      if (event.type === 'finish') {
        this.#reasons[event.index] = event.reason;
        this.#stops[event.index] = event.stopReason ?? null;
      }
    }
    if (this.#last !== undefined) this.#writer.send(this.#last);
    this.#settle();
    return false;
  }

  /** Resolves when what is held was sent. */
  #turn(): Promise<void> {
    if (this.#gone) return Promise.resolve();
    return new Promise((resolve) => {
      this.#spoken = resolve;
      this.#admit();
    });
  }

  #admit(): void {
    if (this.#admitted || this.#spoken === undefined) return;
    this.#admitted = true;
    this.#writer.admit(this);
  }

  #settle(): void {
    this.#admitted = false;
    const spoken = this.#spoken;
    this.#spoken = undefined;
    spoken?.();
  }

  /** What is held will not be sent; the generation says how it ended. */
  #drop(): void {
    this.#held = [];
    this.#admit();
  }

  #tokenFrame(event: TextEvent): object {
    const logprobs = wireLogprobs(event);
    return {
      type: 'token',
      id: this.#id,
      index: event.index,
      text: event.text,
      ...(event.type === 'token' && { token_id: event.tokenId }),
      ...(logprobs !== undefined && { logprobs }),
      ...this.#answeredBy,
    };
  }
}
