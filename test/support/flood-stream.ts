/** What the streams of a flood share: options, the report, and the comparison with the answer alone. */
import { setTimeout as pause } from 'node:timers/promises';
import type { Random } from './random.ts';

export interface FloodOptions {
  readonly url: string;
  readonly models: readonly string[];
  /** Streams at once over server-sent events. */
  readonly sse: number;
  readonly sockets: number;
  /** Streams at once on each socket. */
  readonly perSocket: number;
  /** Output tokens of a stream, and of one whose reader is slow: more than buffers take. */
  readonly tokens: number;
  readonly slowTokens: number;
  /** Longest stop of a reader, milliseconds. */
  readonly stopMs: number;
  /** Distinct requests, each asked alone first. */
  readonly questions: number;
  /** New streams begin for this long, or until each place has had so many. */
  readonly seconds: number;
  readonly rounds: number;
  readonly seed: number;
}

/** What a reader does: a tenth are slow, a tenth leave, the others read. */
export type Reader = 'steady' | 'slow' | 'stops' | 'vanishes';

export interface FloodReport {
  started: number;
  /** Ended by their last token. */
  finished: number;
  /** Left or cancelled by the client. */
  vanished: number;
  /** Ended by the server because their reader was too slow. */
  slowReader: number;
  /** Refused because too many requests waited, and asked again. */
  queueFull: number;
  /** Asked again because the server had closed the idle connection, as HTTP lets it at any time. */
  idleClosed: number;
  tokens: number;
  lost: number;
  doubled: number;
  /** Neither the token that was due nor a neighbour of it. */
  wrong: number;
  /** Ended without an end that the protocol knows. */
  cut: number;
  /** Any other error, by its code. */
  errors: Record<string, number>;
  openMax: number;
}

/** A request and its answer alone. */
export interface Question {
  readonly body: Readonly<Record<string, unknown>>;
  /** The text that comes with each token, and its id. */
  readonly pieces: readonly string[];
  readonly ids: readonly number[];
}

export interface Flood {
  readonly options: FloodOptions;
  readonly report: FloodReport;
  readonly random: Random;
  /** Whether new streams may begin. */
  readonly goesOn: boolean;
  question(slow: boolean): Question;
  reader(): Reader;
}

/** Compares one stream with its answer alone. */
export class Stream {
  readonly #flood: Flood;
  readonly #question: Question;
  #count = 0;
  #faulty = false;

  constructor(flood: Flood, question: Question) {
    this.#flood = flood;
    this.#question = question;
    flood.report.started += 1;
  }

  get count(): number {
    return this.#count;
  }

  token(piece: string, id: number | undefined): void {
    const { pieces, ids } = this.#question;
    const is = (at: number) => pieces[at] === piece && (id === undefined || ids[at] === id);
    const at = this.#count++;
    const { report } = this.#flood;
    report.tokens += 1;
    if (is(at) || this.#faulty) return;
    // What follows is out of step: one fault is counted once.
    this.#faulty = true;
    if (at >= pieces.length || is(at - 1)) report.doubled += 1;
    else if (is(at + 1)) report.lost += 1;
    else report.wrong += 1;
  }

  finished(): void {
    const { report } = this.#flood;
    report.finished += 1;
    if (this.#count < this.#question.pieces.length && !this.#faulty) report.lost += 1;
  }

  failed(code: string): void {
    const { report } = this.#flood;
    if (code === 'slow_reader') report.slowReader += 1;
    else if (code === 'queue_full') report.queueFull += 1;
    else report.errors[code] = (report.errors[code] ?? 0) + 1;
  }
}

/** Before a request that was refused is made again. */
export const RETRY_MS = 50;
/** Token frames of a slow generation that may be on their way. */
export const SLOW_WINDOW = 16;

/** Waits as long as a reader that stops does. */
export const stopReading = ({ random, options }: Flood): Promise<void> =>
  pause(random.next() * options.stopMs);
