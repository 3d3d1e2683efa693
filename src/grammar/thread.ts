/** One grammar thread as the main thread sees it. */
import type { Worker } from 'node:worker_threads';
import { LoramuxError, shuttingDown } from '../errors.ts';
import { unpackError } from '../threads/packed-error.ts';
import { startThread } from '../threads/start.ts';
import { CACHED_LENGTH_MAX, START_MS_MAX, THREAD_HEAP_MB_MAX } from './limits.ts';
import type { FromThread, ThreadSetup, ToThread } from './messages.ts';
import type { KeyedConstraint } from './source.ts';
import { CLOSE, TokenRing } from './token-ring.ts';

const ENTRY = new URL('./worker.ts', import.meta.url);

export type Prepared =
  | { readonly kind: 'compiled'; readonly ms: number }
  /** `lost`: the thread is to be replaced. */
  | { readonly kind: 'failed'; readonly error: LoramuxError };

/** Keys of grammars that are in use. */
type InUse = Pick<ReadonlySet<string>, 'has'>;

export interface ThreadOptions {
  readonly setup: Omit<ThreadSetup, 'ring'>;
  /** Another entry file; for tests of threads that crash. */
  readonly workerUrl?: URL | undefined;
  /** Grammars kept beyond those in use. */
  readonly cachedMax: number;
  /** Choices that it may follow, or have yet to say that it does not any more. */
  readonly openMax: number;
  /** The thread has ended by itself. */
  readonly onLost: (thread: GrammarThread) => void;
  /** It writes to this choice's slot no more. */
  readonly onClosed: (id: number, thread: GrammarThread) => void;
}

export class GrammarThread {
  readonly #worker: Worker;
  readonly #ring: TokenRing;
  readonly #options: ThreadOptions;
  /** Lengths of prepared grammars by key, least recently used first. */
  readonly #prepared = new Map<string, number>();
  /** Choices that it follows, or has yet to say that it does not any more. */
  readonly #open = new Set<number>();
  #answer: ((message: FromThread | LoramuxError) => void) | undefined;
  #whenEmpty: (() => void) | undefined;
  #lost = false;
  /** Resolves when it has started; rejects with internal_error. */
  readonly started: Promise<void>;

  constructor(options: ThreadOptions) {
    this.#options = options;
    this.#ring = TokenRing.forChoices(options.openMax);
    this.#worker = startThread(options.workerUrl ?? ENTRY, {
      name: 'grammar',
      workerData: { ...options.setup, ring: this.#ring.words },
      heapMbMax: THREAD_HEAP_MB_MAX,
    });
    // The process may end while it waits for something to do.
    this.#worker.unref();
    this.#worker.on('message', (message: FromThread) => this.#hear(message));
    this.#worker.on('error', (error) => this.#end(error));
    this.#worker.on('messageerror', (error) => this.#end(error));
    this.#worker.on('exit', () => this.#end(undefined));
    this.started = this.#start();
    this.started.catch(() => {});
  }

  get lost(): boolean {
    return this.#lost;
  }

  /** Grammars that are prepared here. */
  get numPrepared(): number {
    return this.#prepared.size;
  }

  /** Whether the grammar is prepared here; if so, it was used last. */
  has(key: string): boolean {
    const length = this.#prepared.get(key);
    if (length === undefined) return false;
    this.#prepared.delete(key);
    this.#prepared.set(key, length);
    return true;
  }

  /** Resolves when it follows no choice. */
  async empty(): Promise<void> {
    if (this.#open.size === 0 || this.#lost) return;
    await new Promise<void>((resolve) => {
      this.#whenEmpty = resolve;
    });
  }

  /**
   * Prepares a grammar; one at a time, while it follows no choice. The thread may be lost after a
   * failure.
   * @param inUse keys that are not dropped to make room
   */
  async compile(asked: KeyedConstraint, msMax: number, inUse: InUse): Promise<Prepared> {
    const message = await this.#ask({ kind: 'compile', asked }, msMax);
    if (message instanceof LoramuxError) return { kind: 'failed', error: message };
    if (message.kind === 'unusable') return { kind: 'failed', error: unpackError(message.error) };
    if (message.kind !== 'compiled') {
      const reason = message.kind === 'refused' ? message.reason : message.kind;
      this.end();
      const error = new LoramuxError('grammar_invalid', `The grammar cannot be used: ${reason}`);
      return { kind: 'failed', error };
    }
    this.#prepared.set(asked.key, message.length);
    this.#makeRoom(inUse, asked.key);
    return { kind: 'compiled', ms: message.ms };
  }

  open(id: number, key: string, slot: number, tokens: Int32Array): void {
    this.#open.add(id);
    this.#post({ kind: 'open', id, key, slot, tokens });
  }

  /** Told with the next `flush`. */
  accept(id: number, tokenId: number): void {
    if (!this.#lost) this.#ring.put(id, tokenId);
  }

  flush(): void {
    if (this.#ring.publish()) this.#ring.ring();
  }

  close(id: number): void {
    this.accept(id, CLOSE);
    this.flush();
  }

  /** Ends it; `onLost` is called. */
  end(): void {
    this.#end(undefined);
  }

  /** Ends it without a word. */
  async stop(): Promise<void> {
    this.#lost = true;
    this.#settleAll(shuttingDown());
    await this.#worker.terminate();
  }

  async #start(): Promise<void> {
    const answer = await this.#ask(undefined, START_MS_MAX);
    if (!(answer instanceof LoramuxError)) return;
    throw new LoramuxError('internal_error', 'The thread that prepares grammars did not start.', {
      cause: answer,
    });
  }

  #post(message: ToThread): void {
    if (this.#lost) return;
    this.#worker.postMessage(message);
    this.#ring.ring();
  }

  /** The next answer, or the error that stands for none. */
  #ask(message: ToThread | undefined, msMax: number): Promise<FromThread | LoramuxError> {
    return new Promise((resolve) => {
      const timer = setTimeout(() => {
        const error = new LoramuxError(
          'grammar_too_complex',
          `The grammar could not be prepared in ${msMax} ms; make it simpler.`,
        );
        this.#answer = undefined;
        this.end();
        resolve(error);
      }, msMax);
      this.#answer = (answer) => {
        clearTimeout(timer);
        resolve(answer);
      };
      if (message !== undefined) this.#post(message);
      if (this.#lost) this.#settleAll(unexpected(undefined));
    });
  }

  #hear(message: FromThread): void {
    if (message.kind === 'closed') {
      this.#open.delete(message.id);
      this.#options.onClosed(message.id, this);
      if (this.#open.size === 0) this.#whenEmpty?.();
      return;
    }
    const answer = this.#answer;
    this.#answer = undefined;
    answer?.(message);
  }

  #makeRoom(inUse: InUse, latest: string): void {
    const unused = [...this.#prepared].filter(([key]) => !inUse.has(key) && key !== latest);
    let total = unused.reduce((sum, [, length]) => sum + length, 0);
    const { cachedMax } = this.#options;
    for (const [i, [key, length]] of unused.entries()) {
      if (unused.length - i <= cachedMax && total <= CACHED_LENGTH_MAX) return;
      this.#prepared.delete(key);
      total -= length;
      this.#post({ kind: 'drop', key });
    }
  }

  #settleAll(error: LoramuxError): void {
    const answer = this.#answer;
    this.#answer = undefined;
    answer?.(error);
    this.#whenEmpty?.();
  }

  #end(cause: unknown): void {
    if (this.#lost) return;
    this.#lost = true;
    void this.#worker.terminate();
    this.#settleAll(unexpected(cause));
    this.#options.onLost(this);
  }
}

function unexpected(cause: unknown): LoramuxError {
  return new LoramuxError(
    'grammar_too_complex',
    'The thread that prepared the grammar ended: it most likely took too much memory.',
    { cause },
  );
}
