/**
 * The loop: plan, reserve, pack, run, commit or release, emit. One step is in flight at a time. When
 * its result arrives, it is committed and the next step is dispatched at once; listeners hear of it
 * in the next turn of the event loop, while the native thread already works. Borders between steps
 * are where cancellations take effect. When nothing can run, nothing is scheduled: no timer, no
 * polling.
 */
import type { AdapterResidency } from '../adapters/types.ts';
import { LoramuxError, toLoramuxError } from '../errors.ts';
import { type CacheIdentity, rootHash } from '../kvcache/block-hash.ts';
import type { NativeSession, StepPacket, StepResult } from '../native/addon-types.ts';
import { outputRoom } from '../scheduler/admission-arithmetic.ts';
import { Scheduler } from '../scheduler/scheduler.ts';
import { SequenceGroup } from '../scheduler/sequence.ts';
import type { StepPlan } from '../scheduler/step-plan.ts';
import { Committer } from './committer.ts';
import { EventQueue } from './event-queue.ts';
import { LiveRequest } from './live-request.ts';
import { type EngineOptions, type EngineSettings, resolveOptions } from './options.ts';
import { StepPacker } from './packer.ts';
import { checkRequest } from './request-check.ts';
import { type EngineSnapshot, takeSnapshot } from './snapshot.ts';
import { StepStats } from './step-stats.ts';
import { Successor } from './successor.ts';
import type {
  Engine,
  EngineHandle,
  EngineLimits,
  EngineRequest,
  EngineStats,
  RequestListener,
} from './types.ts';

export type StepRunner = Pick<NativeSession, 'step'>;

type State = 'open' | 'closing' | 'failed';

export class EngineLoop implements Engine {
  readonly limits: EngineLimits;
  readonly #native: StepRunner;
  readonly #settings: EngineSettings;
  readonly #scheduler: Scheduler;
  readonly #packer: StepPacker;
  readonly #successor: Successor;
  readonly #events: EventQueue;
  readonly #committer: Committer;
  readonly #stats = new StepStats();
  readonly #live = new Map<SequenceGroup, LiveRequest>();
  /** Requests with choices to end at the next border. */
  readonly #touched = new Set<LiveRequest>();
  readonly #identify: (identity: CacheIdentity) => string;
  #idleWaiters: (() => void)[] = [];
  #state: State = 'open';
  #failure: LoramuxError | undefined;
  #closed: Promise<void> | undefined;
  #numSubmitted = 0;
  #numConsecutiveFailures = 0;
  #inFlight = false;
  /** When the step in flight was planned. */
  #plannedMs = 0;
  #kicked = false;
  #deliveryDue = false;
  /** A step that ended while the events of the one before it were still to be delivered. */
  #arrived: (() => void) | undefined;

  constructor(
    native: StepRunner,
    residency: AdapterResidency | undefined,
    options: EngineOptions,
    identify: (identity: CacheIdentity) => string = rootHash,
  ) {
    const settings = resolveOptions(options);
    this.#native = native;
    this.#settings = settings;
    this.#identify = identify;
    this.limits = {
      maxModelLen: settings.maxModelLen,
      maxQueuedRequests: settings.maxQueuedRequests,
    };
    this.#scheduler = new Scheduler(settings, residency);
    this.#packer = new StepPacker(settings);
    this.#successor = new Successor(this.#scheduler, this.#packer);
    this.#events = new EventQueue(settings.onDefect);
    this.#committer = new Committer(this.#scheduler, this.#events, this.#live);
    residency?.onChange(() => {
      this.#scheduler.waiting.unparkAll();
      this.#kick();
    });
  }

  outputRoom(promptTokens: number, n: number): number {
    const { maxModelLen, numBlocks, blockSize } = this.#settings;
    return outputRoom(promptTokens, n, { maxModelLen, numBlocks, blockSize });
  }

  submit(request: EngineRequest, listener: RequestListener): EngineHandle {
    this.#checkOpen();
    checkRequest(request, this.#settings);
    const { waiting } = this.#scheduler;
    const root = this.#identify({
      adapterDigest: request.adapter?.digest,
      adapterScale: request.adapterScale,
      cacheSalt: request.cacheSalt,
    });
    const lane = waiting.laneFor(request.adapter);
    const group = new SequenceGroup(request, this.#numSubmitted++, lane, root);
    const live = new LiveRequest(group, listener, this.#settings.nowMs(), (touched) => {
      this.#touched.add(touched);
      this.#kick();
    });
    this.#live.set(group, live);
    this.#scheduler.submit(group);
    this.#kick();
    return live;
  }

  stats(): EngineStats {
    const { pool, waiting, running } = this.#scheduler;
    return {
      ...this.#stats.sums(),
      running: running.length,
      waiting: waiting.length,
      blocksTotal: pool.numBlocks,
      blocksFree: pool.numFree,
      blocksCached: pool.numFreeCached,
      blocksReferenced: pool.numBlocks - pool.numFree,
      preemptions: this.#scheduler.preemptions,
      prefixHitTokens: this.#scheduler.prefixHitTokens,
      prefixQueryTokens: this.#scheduler.prefixQueryTokens,
      promptTokens: this.#scheduler.promptTokens,
      generatedTokens: this.#committer.generatedTokens,
    };
  }

  /** State for invariant checks; O(blocks + requests). */
  snapshot(): EngineSnapshot {
    return takeSnapshot(this.#scheduler, [...this.#live.keys()]);
  }

  /** Resolves when nothing runs, waits or is undelivered. */
  idle(): Promise<void> {
    if (this.#isIdle) return Promise.resolve();
    return new Promise((resolve) => this.#idleWaiters.push(resolve));
  }

  close(options: { drainMs?: number } = {}): Promise<void> {
    this.#closed ??= this.#close(options.drainMs ?? 0);
    return this.#closed;
  }

  async #close(drainMs: number): Promise<void> {
    if (this.#state === 'open') this.#state = 'closing';
    let timer: NodeJS.Timeout | undefined;
    if (drainMs > 0 && !this.#isIdle) {
      const timeout = new Promise<void>((resolve) => {
        timer = setTimeout(resolve, drainMs);
      });
      await Promise.race([this.idle(), timeout]);
      clearTimeout(timer);
    }
    for (const request of this.#live.values()) request.cancel();
    await this.idle();
  }

  get failure(): LoramuxError | undefined {
    return this.#failure;
  }

  get #isIdle(): boolean {
    return this.#live.size === 0 && !this.#inFlight && this.#events.isEmpty;
  }

  #checkOpen(): void {
    if (this.#failure !== undefined) throw this.#failure;
    if (this.#state === 'closing') {
      throw new LoramuxError('shutting_down', 'The server is shutting down; retry elsewhere.');
    }
    const { maxQueuedRequests } = this.#settings;
    if (this.#scheduler.waiting.numNew >= maxQueuedRequests) {
      throw new LoramuxError(
        'queue_full',
        `${maxQueuedRequests} requests wait already; retry later.`,
      );
    }
  }

  /** Runs a border soon, unless a step is in flight and will bring one anyway. */
  #kick(): void {
    if (this.#kicked || this.#inFlight) return;
    this.#kicked = true;
    queueMicrotask(() => {
      this.#kicked = false;
      if (!this.#inFlight) this.#border(undefined);
    });
  }

  /** Between two steps: end what was asked to end, start the next step, then tell listeners. */
  #border(resultAtMs: number | undefined): void {
    try {
      for (const request of this.#touched) this.#committer.endRequested(request.group);
      this.#touched.clear();
      if (this.#state !== 'failed') this.#startStep(resultAtMs);
    } catch (error) {
      this.#fail(toLoramuxError(error));
    }
    this.#scheduleDelivery();
  }

  /**
   * Listeners hear of a step in a turn of the event loop of their own. A step that ends while they
   * run would otherwise be committed in the same turn (Node drains the native queue before it goes
   * on), and a fast model would keep timers and sockets waiting for as long as it generates.
   */
  #scheduleDelivery(): void {
    if (this.#events.isEmpty) {
      this.#settleIdle();
      return;
    }
    if (this.#deliveryDue) return;
    this.#deliveryDue = true;
    setImmediate(() => {
      this.#deliveryDue = false;
      this.#events.deliver();
      const arrived = this.#arrived;
      this.#arrived = undefined;
      if (arrived === undefined) this.#settleIdle();
      else arrived();
    });
  }

  #settleIdle(): void {
    if (!this.#isIdle) return;
    const waiters = this.#idleWaiters;
    this.#idleWaiters = [];
    for (const resolve of waiters) resolve();
  }

  #startStep(resultAtMs: number | undefined): void {
    this.#plannedMs = this.#settings.nowMs();
    const plan = this.#scheduler.plan(this.#plannedMs);
    for (const { group, error } of plan.rejected) {
      this.#committer.endAll(group, { reason: 'error', error });
    }
    if (plan.entries.length > 0) {
      this.#dispatch(plan, this.#packer.pack(plan), resultAtMs);
      this.#successor.prepare(plan);
    } else if (this.#scheduler.running.length > 0) {
      throw new RangeError('Sequences run, but none could be scheduled');
    } else if (plan.rejected.length > 0) {
      // What was held back for those that have ended now may go on, and nothing else would say so.
      this.#kick();
    }
  }

  #dispatch(plan: StepPlan, packet: StepPacket, resultAtMs: number | undefined): void {
    this.#stats.dispatched(packet.numSequences, this.#packer.numAdapters);
    this.#inFlight = true;
    const step = callStep(this.#native, packet);
    step.then(
      (result) =>
        this.#settle(
          () => this.#succeeded(plan, result, resultAtMs !== undefined),
          () => this.#successor.take(plan, result),
        ),
      (error: unknown) => this.#settle(() => this.#stepFailed(plan, error)),
    );
    if (resultAtMs !== undefined) this.#stats.outside(performance.now() - resultAtMs);
  }

  #settle(commit: () => void, successor?: () => StepPacket | undefined): void {
    const resultAtMs = performance.now();
    const settle = () => {
      this.#inFlight = false;
      const isOpen = this.#state !== 'failed' && this.#touched.size === 0;
      const packet = isOpen ? successor?.() : undefined;
      try {
        if (packet === undefined) commit();
        else this.#overtake(commit, packet, resultAtMs);
      } catch (error) {
        this.#fail(toLoramuxError(error));
      }
      if (packet === undefined) this.#border(resultAtMs);
      else this.#scheduleDelivery();
    };
    // Events are delivered in the order of the steps, and none after its choice was stopped.
    if (this.#deliveryDue) this.#arrived = settle;
    else settle();
  }

  /** Dispatches the prepared step first, then commits the one before it and plans what now runs. */
  #overtake(commit: () => void, packet: StepPacket, resultAtMs: number): void {
    const { numSequences } = packet;
    this.#dispatch(this.#scheduler.current, packet, resultAtMs);
    this.#stats.prepared();
    commit();
    this.#plannedMs = this.#settings.nowMs();
    const plan = this.#scheduler.plan(this.#plannedMs);
    if (plan.entries.length !== numSequences || plan.numTokens !== numSequences) {
      throw new RangeError('The step in flight is not the one that was planned');
    }
    this.#successor.prepare(plan);
  }

  #succeeded(plan: StepPlan, result: StepResult, followedAnother: boolean): void {
    this.#numConsecutiveFailures = 0;
    this.#stats.native(result.nativeMs, followedAnother ? result.gapMs : 0);
    this.#committer.commit(plan, result, this.#plannedMs);
  }

  #stepFailed(plan: StepPlan, cause: unknown): void {
    this.#numConsecutiveFailures += 1;
    const reason = cause instanceof Error ? cause.message : String(cause);
    const failed = new LoramuxError('engine_failed', `A native step failed: ${reason}. Retry.`, {
      cause,
    });
    this.#committer.abort(plan, failed);
    if (this.#numConsecutiveFailures < this.#settings.maxConsecutiveStepFailures) return;
    const count = this.#numConsecutiveFailures;
    this.#fail(
      new LoramuxError(
        'engine_failed',
        `${count} native steps failed in a row, the last one with: ${reason}. Restart the server.`,
        { cause },
      ),
    );
  }

  /** Nothing can run any more: everything ends with the error and submissions are refused. */
  #fail(error: LoramuxError): void {
    this.#state = 'failed';
    this.#failure ??= error;
    for (const group of [...this.#live.keys()]) {
      try {
        this.#committer.endAll(group, { reason: 'error', error });
      } catch (defect) {
        this.#settings.onDefect(defect);
        this.#committer.abandon(group, error);
      }
    }
  }
}

/** A native session that throws instead of rejecting is treated alike. */
function callStep(
  native: StepRunner,
  packet: Parameters<StepRunner['step']>[0],
): Promise<StepResult> {
  try {
    return native.step(packet);
  } catch (error) {
    return Promise.reject(error);
  }
}
