/**
 * An engine without a model: tokens come from a script, steps are taken by hand or one per turn of
 * the event loop. It keeps the contract of `Engine`, so that the layers above can be tested alone.
 */
import type {
  Engine,
  EngineHandle,
  EngineRequest,
  EngineStats,
  RequestListener,
  TokenLogprobs,
} from '../../src/engine/types.ts';
import { LoramuxError } from '../../src/errors.ts';

/** The token that a choice produces as its `position`-th; undefined stalls that choice. */
export type Script = (
  request: EngineRequest,
  index: number,
  position: number,
) => number | undefined;

export interface FakeEngineOptions {
  script: Script;
  maxModelLen?: number;
  maxQueuedRequests?: number;
  /** Steps are taken by `step()` only. */
  manual?: boolean;
}

interface Live {
  readonly request: EngineRequest;
  readonly listener: RequestListener;
  readonly produced: number[];
  readonly open: Set<number>;
  readonly stopped: Set<number>;
  cancelled: boolean;
  promptDone: boolean;
}

/** Deterministic numbers that look like log-probabilities. */
function logprobsOf(tokenId: number, count: number): TokenLogprobs {
  const top = Array.from({ length: count }, (_, i) => ({
    tokenId: tokenId + i,
    logprob: -0.5 * (i + 1),
  }));
  return { tokenId, logprob: -0.5, rank: 1, top };
}

export class FakeEngine implements Engine {
  readonly limits: Engine['limits'];
  /** Every request ever submitted, oldest first. */
  readonly submitted: EngineRequest[] = [];
  cancellations = 0;
  readonly #options: FakeEngineOptions;
  readonly #live = new Set<Live>();
  #scheduled = false;
  #closed = false;
  #failure: LoramuxError | undefined;
  #steps = 0;
  #promptTokens = 0;
  #generatedTokens = 0;

  constructor(options: FakeEngineOptions) {
    this.#options = options;
    this.limits = {
      maxModelLen: options.maxModelLen ?? 4096,
      maxQueuedRequests: options.maxQueuedRequests ?? 1024,
    };
  }

  /** Requests that still hold anything. */
  get numLive(): number {
    return this.#live.size;
  }

  submit(request: EngineRequest, listener: RequestListener): EngineHandle {
    if (this.#closed) throw new LoramuxError('shutting_down', 'the engine is closed');
    if (this.#live.size >= this.limits.maxQueuedRequests) {
      throw new LoramuxError('queue_full', `${this.#live.size} requests are queued; retry later`);
    }
    this.submitted.push(request);
    this.#promptTokens += request.promptTokenIds.length;
    const live: Live = {
      request,
      listener,
      produced: new Array<number>(request.n).fill(0),
      open: new Set(Array.from({ length: request.n }, (_, i) => i)),
      stopped: new Set(),
      cancelled: false,
      promptDone: false,
    };
    this.#live.add(live);
    this.#schedule();
    return {
      cachedPromptTokens: 0,
      cancel: () => {
        if (live.open.size > 0 && !live.cancelled) this.cancellations += 1;
        live.cancelled = true;
        this.#schedule();
      },
      stop: (index) => {
        live.stopped.add(index);
        this.#schedule();
      },
    };
  }

  outputRoom(promptTokens: number): number {
    return this.limits.maxModelLen - promptTokens;
  }

  /** The next step ends every request with this error, as a failing native session would. */
  fail(error: LoramuxError): void {
    this.#failure = error;
    this.#schedule();
  }

  /** One step: every live choice ends, stalls or gets one token. */
  step(): void {
    this.#steps += 1;
    const failure = this.#failure;
    this.#failure = undefined;
    for (const live of this.#live) {
      if (failure !== undefined) this.#finishAll(live, 'error', failure);
      else this.#stepRequest(live);
    }
  }

  stats(): EngineStats {
    return {
      running: this.#live.size,
      waiting: 0,
      blocksTotal: 64,
      blocksFree: 64 - this.#live.size,
      blocksCached: 0,
      blocksReferenced: this.#live.size,
      steps: this.#steps,
      preemptions: 0,
      prefixHitTokens: 0,
      prefixQueryTokens: this.#promptTokens,
      promptTokens: this.#promptTokens,
      generatedTokens: this.#generatedTokens,
      batchSequencesSum: this.#steps,
      batchAdaptersSum: this.#steps,
      maxAdaptersInOneStep: 1,
      maxSequencesInOneStep: 1,
      nativeMsSum: this.#steps,
      outsideNativeMsSum: 0,
      gapMsSum: 0,
      maskWaitMsSum: 0,
      preparedSteps: 0,
    };
  }

  async close(): Promise<void> {
    this.#closed = true;
    for (const live of this.#live) this.#finishAll(live, 'cancelled', undefined);
  }

  #schedule(): void {
    if (this.#options.manual === true || this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      this.step();
      if (this.#hasWork()) this.#schedule();
    });
  }

  /** A stalled script is asked again only when something changes. */
  #hasWork(): boolean {
    for (const { open, request, produced } of this.#live) {
      for (const index of open) {
        if (this.#options.script(request, index, produced[index]!) !== undefined) return true;
      }
    }
    return false;
  }

  #stepRequest(live: Live): void {
    if (live.cancelled) {
      this.#finishAll(live, 'cancelled', undefined);
      return;
    }
    const { request, listener } = live;
    const { promptLogprobs } = request.sampling;
    if (!live.promptDone) listener.onScheduled?.(0);
    if (!live.promptDone && promptLogprobs !== undefined) {
      listener.onPromptLogprobs?.(
        Array.from(request.promptTokenIds, (id, i) =>
          i === 0 ? null : logprobsOf(id, promptLogprobs),
        ),
      );
    }
    live.promptDone = true;
    for (const index of [...live.open]) this.#stepChoice(live, index);
  }

  #stepChoice(live: Live, index: number): void {
    const { request, listener, produced } = live;
    if (live.stopped.has(index)) {
      this.#finish(live, index, 'stop', undefined);
      return;
    }
    if (request.sampling.maxTokens === 0) {
      this.#finish(live, index, 'length', undefined);
      return;
    }
    const tokenId = this.#options.script(request, index, produced[index]!);
    if (tokenId === undefined) return;
    produced[index]! += 1;
    this.#generatedTokens += 1;
    const { logprobs, stopTokenIds, maxTokens } = request.sampling;
    listener.onToken({
      index,
      tokenId,
      logprobs: logprobs === undefined ? undefined : logprobsOf(tokenId, logprobs),
    });
    if (stopTokenIds.has(tokenId)) this.#finish(live, index, 'stop', tokenId);
    else if (live.stopped.has(index)) this.#finish(live, index, 'stop', undefined);
    else if (produced[index]! >= maxTokens) this.#finish(live, index, 'length', undefined);
  }

  #finish(live: Live, index: number, reason: 'stop' | 'length', stopTokenId?: number): void {
    live.open.delete(index);
    if (live.open.size === 0) this.#live.delete(live);
    live.listener.onFinish({ index, reason, stopTokenId, error: undefined });
  }

  #finishAll(live: Live, reason: 'cancelled' | 'error', error: LoramuxError | undefined): void {
    const open = [...live.open];
    live.open.clear();
    this.#live.delete(live);
    for (const index of open) {
      live.listener.onFinish({ index, reason, stopTokenId: undefined, error });
    }
  }
}

/** A script that repeats `tokenIds` for every choice. */
export function repeating(tokenIds: readonly number[]): Script {
  return (_request, _index, position) => tokenIds[position % tokenIds.length];
}
