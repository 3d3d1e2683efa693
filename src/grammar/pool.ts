/**
 * Two grammar threads that take turns. One follows the choices that run and writes their masks; the
 * other prepares new grammars meanwhile, which would hold every mask up for as long as it takes. Then
 * it also prepares those in use that it lacks, and the two trade places: a choice is moved by telling
 * the other thread its tokens (docs/decisions/0013).
 */
import type { TokenConstraint, TokenMasks } from '../engine/types.ts';
import { LoramuxError, shuttingDown, toLoramuxError } from '../errors.ts';
import {
  LIVE_GRAMMARS_MAX,
  PREPARE_QUEUE_MAX,
  ROUND_GRAMMARS_MAX,
  ROUND_MS_MAX,
  START_ATTEMPTS_MAX,
  TAKE_OVER_ATTEMPTS_MAX,
} from './limits.ts';
import { CONSTANT_STAMP, type MaskMemory, NEVER_SLOT } from './mask-memory.ts';
import type { ThreadSetup } from './messages.ts';
import type { KeyedConstraint } from './source.ts';
import { GrammarThread } from './thread.ts';

export interface GrammarPoolOptions {
  readonly setup: Omit<ThreadSetup, 'words' | 'stride' | 'ring'>;
  readonly masks: MaskMemory;
  /** Longest time one grammar may take, milliseconds. */
  readonly compileMsMax: number;
  /** Grammars a thread keeps beyond those in use. */
  readonly cachedMax: number;
  /** Another entry file; for tests of threads that crash. */
  readonly workerUrl?: URL;
  readonly onWarning?: (message: string, error: unknown) => void;
}

export interface GrammarStats {
  /** Grammars prepared, counted once although both threads prepare them. */
  compiles: number;
  compileMsSum: number;
  /** Requests whose grammar was ready. */
  hits: number;
  /** Requests whose grammar was refused. */
  failures: number;
  /** Kept by the thread that writes masks. */
  cached: number;
  waiting: number;
}

/** A prepared grammar of one request, until `release`. */
export interface GrammarLease extends TokenConstraint {
  release(): void;
}

interface Waiter {
  readonly resolve: (lease: GrammarLease | undefined) => void;
  readonly reject: (error: LoramuxError) => void;
}

interface Job {
  readonly asked: KeyedConstraint;
  readonly waiters: Set<Waiter>;
}

/** One choice. */
class Follower implements TokenMasks {
  readonly key: string;
  readonly #pool: GrammarPool;
  readonly #tokens: number[];
  thread: GrammarThread | undefined;
  id = 0;
  slot = NEVER_SLOT;

  constructor(pool: GrammarPool, key: string, tokens: Int32Array) {
    this.#pool = pool;
    this.key = key;
    this.#tokens = [...tokens];
  }

  get tokens(): Int32Array {
    return Int32Array.from(this.#tokens);
  }

  accept(tokenId: number): void {
    this.#tokens.push(tokenId);
    this.thread?.accept(this.id, tokenId);
  }

  close(): void {
    this.#pool.leave(this);
  }
}

export class GrammarPool {
  readonly #options: GrammarPoolOptions;
  /** Writes masks. */
  #serving: GrammarThread | undefined;
  /** Prepares grammars. */
  #spare: GrammarThread | undefined;
  readonly #jobs = new Map<string, Job>();
  /** Grammars that requests hold, by key. */
  readonly #live = new Map<string, { asked: KeyedConstraint; leases: number }>();
  readonly #followers = new Set<Follower>();
  /** Slots whose thread has yet to say that it writes there no more, by the choice's number there. */
  readonly #closing = new Map<number, { slot: number; thread: GrammarThread }>();
  /** What a thread keeps: those that requests hold, or will when their round is over. */
  readonly #inUse = { has: (key: string) => this.#live.has(key) || this.#jobs.has(key) };
  readonly #stats = { compiles: 0, compileMsSum: 0, hits: 0, failures: 0 };
  /** Called when slots may have become free. */
  #whenSlots: (() => void) | undefined;
  /** Times in a row that the threads could not trade places. */
  #failedTakeOvers = 0;
  #numWaiters = 0;
  /** int32, as in the ring. */
  #nextId = 1;
  #preparing = false;
  #closed = false;

  constructor(options: GrammarPoolOptions) {
    this.#options = options;
  }

  stats(): GrammarStats {
    return {
      ...this.#stats,
      cached: this.#serving?.numPrepared ?? 0,
      waiting: this.#numWaiters,
    };
  }

  /**
   * The grammar, prepared; undefined when the signal was given first.
   * @throws LoramuxError grammar_invalid, grammar_unsupported, grammar_too_complex, queue_full, shutting_down
   */
  acquire(asked: KeyedConstraint, signal: AbortSignal): Promise<GrammarLease | undefined> {
    if (this.#closed) return Promise.reject(shuttingDown());
    if (signal.aborted) return Promise.resolve(undefined);
    if (this.#serving?.has(asked.key)) {
      this.#stats.hits += 1;
      return Promise.resolve(this.#lease(asked));
    }
    const isNew = !this.#jobs.has(asked.key) && !this.#live.has(asked.key);
    const tooMany = isNew && this.#live.size + this.#jobs.size >= LIVE_GRAMMARS_MAX;
    if (tooMany || this.#numWaiters >= PREPARE_QUEUE_MAX) {
      const error = new LoramuxError(
        'queue_full',
        `${tooMany ? LIVE_GRAMMARS_MAX : PREPARE_QUEUE_MAX} ` +
          `${tooMany ? 'different grammars are in use' : 'requests wait for their grammar'}; ` +
          'retry later.',
      );
      return Promise.reject(error);
    }
    return this.#wait(asked, signal);
  }

  /** The tokens that choices went on with since the last call reach their thread. */
  flush(): void {
    this.#serving?.flush();
  }

  /** No thread has to do with it. */
  constant(allowed: Int32Array): TokenMasks | undefined {
    const { masks } = this.#options;
    const slot = masks.takeConstant(allowed);
    if (slot === NEVER_SLOT) return undefined;
    return { slot, stamp: CONSTANT_STAMP, accept() {}, close: () => masks.giveBack(slot) };
  }

  /** A step has ended, and none is in flight. */
  stepEnded(): void {
    this.#options.masks.stepEnded();
    this.#whenSlots?.();
  }

  /** Fails what waits and ends the threads. Idempotent. */
  async close(): Promise<void> {
    this.#closed = true;
    for (const job of [...this.#jobs.values()]) this.#fail(job, shuttingDown());
    this.#whenSlots?.();
    const threads = [this.#serving, this.#spare];
    this.#serving = undefined;
    this.#spare = undefined;
    await Promise.all(threads.map((thread) => thread?.stop()));
  }

  #wait(asked: KeyedConstraint, signal: AbortSignal): Promise<GrammarLease | undefined> {
    let job = this.#jobs.get(asked.key);
    if (job === undefined) {
      job = { asked, waiters: new Set() };
      this.#jobs.set(asked.key, job);
    }
    const { waiters } = job;
    this.#numWaiters += 1;
    const waiting = new Promise<GrammarLease | undefined>((resolve, reject) => {
      const leave = () => {
        signal.removeEventListener('abort', onAbort);
        this.#numWaiters -= 1;
        waiters.delete(waiter);
      };
      const waiter: Waiter = {
        resolve: (lease) => {
          leave();
          resolve(lease);
        },
        reject: (error) => {
          leave();
          reject(error);
        },
      };
      const onAbort = () => waiter.resolve(undefined);
      signal.addEventListener('abort', onAbort, { once: true });
      waiters.add(waiter);
    });
    void this.#prepareAll();
    return waiting;
  }

  #fail(job: Job, error: LoramuxError): void {
    this.#jobs.delete(job.asked.key);
    for (const waiter of [...job.waiters]) {
      this.#stats.failures += 1;
      waiter.reject(error);
    }
  }

  async #prepareAll(): Promise<void> {
    if (this.#preparing) return;
    this.#preparing = true;
    try {
      while (this.#jobs.size > 0 && !this.#closed) await this.#round();
    } catch (error) {
      for (const job of [...this.#jobs.values()]) this.#fail(job, toLoramuxError(error));
    } finally {
      this.#preparing = false;
    }
  }

  /** Prepares some of the grammars that are waited for, then lets those who wait go on. */
  async #round(): Promise<void> {
    const thread = await this.#idleThread();
    const begin = performance.now();
    const done: Job[] = [];
    for (const job of [...this.#jobs.values()]) {
      const late = performance.now() - begin >= ROUND_MS_MAX;
      if (done.length > 0 && (late || done.length === ROUND_GRAMMARS_MAX)) break;
      if (job.waiters.size === 0) this.#jobs.delete(job.asked.key);
      else if (thread.has(job.asked.key)) done.push(job);
      else if (await this.#compile(thread, job)) done.push(job);
      // What it had prepared is gone; those jobs are still there for the next round.
      if (thread.lost) return;
    }
    if (done.length === 0) return;
    if (!(await this.#takeOver(thread))) {
      this.#failedTakeOvers += 1;
      if (this.#failedTakeOvers < TAKE_OVER_ATTEMPTS_MAX) return;
      this.#failedTakeOvers = 0;
      for (const job of done) this.#fail(job, cannotTakeOver());
      return;
    }
    this.#failedTakeOvers = 0;
    for (const job of done) {
      this.#jobs.delete(job.asked.key);
      for (const waiter of [...job.waiters]) waiter.resolve(this.#lease(job.asked));
    }
  }

  async #idleThread(): Promise<GrammarThread> {
    let failures = 0;
    for (;;) {
      if (this.#closed) throw shuttingDown();
      this.#spare ??= this.#start();
      const thread = this.#spare;
      try {
        await thread.started;
        await thread.empty();
        if (!thread.lost) return thread;
      } catch (error) {
        failures += 1;
        if (failures === START_ATTEMPTS_MAX || this.#closed) throw error;
      }
    }
  }

  async #compile(thread: GrammarThread, job: Job): Promise<boolean> {
    const prepared = await thread.compile(job.asked, this.#options.compileMsMax, this.#inUse);
    if (prepared.kind === 'failed') {
      this.#fail(job, this.#closed ? shuttingDown() : prepared.error);
      return false;
    }
    this.#stats.compiles += 1;
    this.#stats.compileMsSum += prepared.ms;
    return true;
  }

  /**
   * Prepares what requests use and this thread lacks, also what came into use meanwhile; then the
   * threads trade places. False when they did not.
   */
  async #takeOver(thread: GrammarThread): Promise<boolean> {
    for (;;) {
      const missing = [...this.#live.values()].find(({ asked }) => !thread.has(asked.key));
      if (thread.lost || this.#closed) return false;
      if (missing === undefined) {
        // Slots of earlier trades rest until the step in flight has ended.
        if (this.#options.masks.numFree < this.#followers.size) {
          await this.#slotsFreed();
          continue;
        }
        // At once: a moment later something else may have come into use.
        this.#trade(thread);
        return true;
      }
      const { compileMsMax } = this.#options;
      const prepared = await thread.compile(missing.asked, compileMsMax, this.#inUse);
      if (prepared.kind === 'failed') {
        // It was prepared before, so the machine is short of time or memory; the next round tries
        // again, and requests wait.
        if (!this.#closed) {
          this.#options.onWarning?.('a grammar in use could not be prepared again', prepared.error);
        }
        return false;
      }
    }
  }

  /** Resolves when a step or a choice has ended, or the pool is closed. */
  async #slotsFreed(): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#whenSlots = resolve;
    });
    this.#whenSlots = undefined;
  }

  #trade(thread: GrammarThread): void {
    this.#spare = this.#serving;
    this.#serving = thread;
    for (const follower of this.#followers) {
      this.#detach(follower);
      this.#attach(follower);
    }
  }

  #start(): GrammarThread {
    const { setup, masks, workerUrl, cachedMax } = this.#options;
    return new GrammarThread({
      setup: { ...setup, words: masks.words, stride: masks.stride },
      workerUrl,
      cachedMax,
      openMax: masks.slots,
      onLost: (thread) => this.#lost(thread),
      onClosed: (id) => {
        const closing = this.#closing.get(id);
        this.#closing.delete(id);
        if (closing !== undefined) masks.giveBack(closing.slot);
      },
    });
  }

  #lost(thread: GrammarThread): void {
    if (this.#spare === thread) this.#spare = undefined;
    if (this.#serving === thread) {
      this.#serving = undefined;
      this.#options.onWarning?.(
        'the thread that writes token masks ended',
        new Error(`${this.#followers.size} choices end with it`),
      );
    }
    const { masks } = this.#options;
    for (const [id, closing] of this.#closing) {
      if (closing.thread !== thread) continue;
      this.#closing.delete(id);
      masks.giveBack(closing.slot);
    }
    for (const follower of this.#followers) {
      if (follower.thread !== thread) continue;
      masks.fail(follower.slot);
      masks.giveBack(follower.slot);
      follower.thread = undefined;
      follower.slot = NEVER_SLOT;
    }
  }

  #lease(asked: KeyedConstraint): GrammarLease {
    const live = this.#live.get(asked.key) ?? { asked, leases: 0 };
    live.leases += 1;
    this.#live.set(asked.key, live);
    let released = false;
    return {
      open: (tokens) => this.#follow(asked.key, tokens),
      release: () => {
        if (released) return;
        released = true;
        live.leases -= 1;
        if (live.leases === 0) this.#live.delete(asked.key);
      },
    };
  }

  #follow(key: string, tokens: Int32Array): TokenMasks {
    const follower = new Follower(this, key, tokens);
    this.#followers.add(follower);
    this.#attach(follower);
    return follower;
  }

  #attach(follower: Follower): void {
    const thread = this.#serving;
    const { masks } = this.#options;
    // Without a thread or a slot the row is told that no mask will come.
    if (thread === undefined || !thread.has(follower.key)) return;
    follower.slot = masks.take();
    if (follower.slot === NEVER_SLOT) return;
    follower.thread = thread;
    follower.id = this.#nextId;
    this.#nextId = (this.#nextId + 1) | 0;
    thread.open(follower.id, follower.key, follower.slot, follower.tokens);
  }

  #detach(follower: Follower): void {
    const { thread, id, slot } = follower;
    follower.thread = undefined;
    follower.slot = NEVER_SLOT;
    if (thread === undefined) return;
    this.#closing.set(id, { slot, thread });
    thread.close(id);
  }

  /** The choice has ended, or gave its place in the batch up. */
  leave(follower: Follower): void {
    this.#followers.delete(follower);
    this.#detach(follower);
    this.#whenSlots?.();
  }
}

function cannotTakeOver(): LoramuxError {
  return new LoramuxError(
    'grammar_failed',
    'The grammars of running requests could not be prepared beside this one; retry.',
  );
}
