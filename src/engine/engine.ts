/**
 * The loop: plan, reserve, pack, run, commit or release, emit. One step is in flight at a time. When
 * its result arrives, it is committed and the next step is dispatched at once; listeners hear of it
 * in the next turn of the event loop, while the native thread already works. Borders between steps
 * are where cancellations take effect. When nothing can run, nothing is scheduled: no timer, no
 * polling.
 */
import type { SessionResidency } from '../adapters/types.ts';
import { LoramuxError, shuttingDown, toLoramuxError } from '../errors.ts';
import { type CacheIdentity, rootHash } from '../kvcache/block-hash.ts';
import type { NativeSession, StepPacket, StepResult } from '../native/addon-types.ts';
import { nativeErrorCode } from '../native/errors.ts';
import { outputRoom } from '../scheduler/admission-arithmetic.ts';
import { Scheduler } from '../scheduler/scheduler.ts';
import { SequenceGroup } from '../scheduler/sequence.ts';
import type { StepPlan } from '../scheduler/step-plan.ts';
import { canonicalAdapters } from './adapter-set.ts';
import { Committer } from './committer.ts';
import { EventQueue } from './event-queue.ts';
import { LiveRequest } from './live-request.ts';
import { MaskKeeper } from './mask-keeper.ts';
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

/** The native session, or one that is replaced when it is at fault. */
export interface StepRunner extends Pick<NativeSession, 'step'> {
  /** Whether a failed step shows that no later one can be expected to succeed. */
  isAtFault?(cause: unknown): boolean;
  /** Replaces the session; from the call on its cache and its slots are gone. */
  restart?(fault: LoramuxError): Promise<void>;
}

type State = 'open' | 'closing' | 'failed';

export class EngineLoop implements Engine {
  readonly limits: EngineLimits;
  readonly #native: StepRunner;
  readonly #settings: EngineSettings;
  readonly #residency: SessionResidency | undefined;
  readonly #scheduler: Scheduler;
  readonly #packer: StepPacker;
  readonly #successor: Successor;
  readonly #events: EventQueue;
  readonly #committer: Committer;
  readonly #masks: MaskKeeper;
  readonly #stats = new StepStats();
  readonly #live = new Map<SequenceGroup, LiveRequest>();
  /** Requests with choices to end at the next border. */
  readonly #touched = new Set<LiveRequest>();
  readonly #identify: (identity: CacheIdentity) => string;
  /** That can be resident at once. */
  readonly #maxAdapters: number;
  #idleWaiters: (() => void)[] = [];
  #state: State = 'open';
  #failure: LoramuxError | undefined;
  #closed: Promise<void> | undefined;
  #numSubmitted = 0;
  #numConsecutiveFailures = 0;
  /** The native session is being replaced: nothing runs, and nothing new is taken. */
  #restarting = false;
  #inFlight = false;
  /** When the step in flight was planned. */
  #plannedMs = 0;
  #kicked = false;
  #deliveryDue = false;
  /** A step that ended while the events of the one before it were still to be delivered. */
  #arrived: (() => void) | undefined;

  constructor(
    native: StepRunner,
    residency: SessionResidency | undefined,
    options: EngineOptions,
    identify: (identity: CacheIdentity) => string = rootHash,
  ) {
    const settings = resolveOptions(options);
    this.#native = native;
    this.#settings = settings;
    this.#identify = identify;
    this.#maxAdapters = residency?.maxSlots ?? 0;
    this.limits = {
      maxModelLen: settings.maxModelLen,
      maxQueuedRequests: settings.maxQueuedRequests,
    };
    this.#residency = residency;
    this.#scheduler = new Scheduler(settings, residency);
    this.#packer = new StepPacker(settings);
    this.#successor = new Successor(this.#scheduler, this.#packer);
    this.#events = new EventQueue(settings.onDefect);
    this.#committer = new Committer(this.#scheduler, this.#events, this.#live);
    this.#masks = new MaskKeeper(settings.masks);
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
    const adapters = canonicalAdapters(request.adapters);
    const canonical = adapters === request.adapters ? request : { ...request, adapters };
    checkRequest(canonical, this.#settings, this.#maxAdapters);
    const { waiting } = this.#scheduler;
    const root = this.#identify({ adapters, cacheSalt: request.cacheSalt });
    const lane = waiting.laneFor(adapters);
    const group = new SequenceGroup(canonical, this.#numSubmitted++, lane, root);
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
      throw shuttingDown();
    }
    if (this.#restarting) {
      throw new LoramuxError(
        'session_restarting',
        'The native session is being restarted; retry in a moment.',
      );
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
      if (this.#state !== 'failed' && !this.#restarting) this.#startStep(resultAtMs);
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
      this.#masks.begin(plan);
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
      (result) => {
        this.#masks.stepEnded();
        this.#settle(
          () => this.#succeeded(plan, result, resultAtMs !== undefined),
          () => this.#successor.take(plan, result),
        );
      },
      (error: unknown) => {
        this.#masks.stepEnded();
        this.#settle(() => this.#stepFailed(plan, error));
      },
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
    this.#stats.native(result, followedAnother);
    this.#masks.tell(plan, result);
    this.#committer.commit(plan, result, this.#plannedMs);
  }

  #stepFailed(plan: StepPlan, cause: unknown): void {
    const reason = stripStop(cause instanceof Error ? cause.message : String(cause));
    if (nativeErrorCode(cause) === 'native_invalid_argument') {
      // A bad packet is a defect of ours, and no sign that the session is at fault.
      const message = `A step was refused by the native session: ${reason}.`;
      this.#committer.abort(plan, new LoramuxError('internal_error', message, { cause }));
      return;
    }
    this.#numConsecutiveFailures += 1;
    const count = this.#numConsecutiveFailures;
    const tooMany = count >= this.#settings.maxConsecutiveStepFailures;
    if (tooMany || this.#native.isAtFault?.(cause)) {
      const what =
        count === 1
          ? `The native session is at fault: ${reason}.`
          : `${count} native steps failed in a row, the last one with: ${reason}.`;
      this.#sessionFault(plan, new LoramuxError('engine_failed', what, { cause }));
      return;
    }
    const message = `A native step failed: ${reason}. Retry.`;
    this.#committer.abort(plan, new LoramuxError('engine_failed', message, { cause }));
  }

  /**
   * Everything in the batch ends; it may be what put the session at fault. What waits holds nothing
   * of the session, and runs on the next one.
   */
  #sessionFault(plan: StepPlan, fault: LoramuxError): void {
    // Who drains waits for nothing that is not sure to come.
    if (this.#native.restart === undefined || this.#state !== 'open') {
      this.#committer.abort(plan, fault);
      this.#fail(fault);
      return;
    }
    this.#restarting = true;
    this.#numConsecutiveFailures = 0;
    const restarted = this.#native.restart(fault);
    restarted.then(
      () => this.#restarted(undefined),
      (error: unknown) => this.#restarted(toLoramuxError(error)),
    );
    const error = new LoramuxError(
      'session_restarted',
      `${fault.message} It is restarted; retry in a moment.`,
      { cause: fault },
    );
    // Whole requests: nobody has a use for the choices of theirs that wait.
    const batch = [...this.#live.keys()].filter(({ numRunning }) => numRunning > 0);
    this.#committer.abort(plan, error);
    for (const group of batch) this.#committer.endAll(group, { reason: 'error', error });
    this.#scheduler.prefix.clear();
    this.#residency?.slotsLost();
  }

  #restarted(error: LoramuxError | undefined): void {
    this.#restarting = false;
    if (error !== undefined) this.#fail(error);
    // Ends what was to end, runs what waits, tells listeners.
    this.#kick();
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

/** Messages of errors end with a full stop or without one; they are put into sentences. */
const stripStop = (message: string): string => message.replace(/\.$/, '');

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
