/**
 * Which adapters are in the session's slots. Policy only: the session reads files and owns memory.
 *
 * An adapter is *waiting* for room, *loading*, *resident* or *failed*. Loads start in the order they
 * were asked for; the first that does not fit makes the others wait, so a large adapter is not
 * starved by small ones. Room is made by evicting the least recently used adapter that has no
 * references and that nobody who asked for it still has to collect.
 *
 * References are given back only after the step that read the slot was committed, so a slot that is
 * freed here is not read by any step. The session checks that too; its refusal is reported as a
 * defect and freeing is tried again later.
 */
import { LoramuxError } from '../errors.ts';
import type {
  AdapterResidencyStats,
  ResidencyOptions,
  ResidencyState,
  ResidentAdapter,
} from './residency-types.ts';
import type { AdapterGeneration, AdapterResidency } from './types.ts';

export const DEFAULT_CONCURRENT_LOADS = 4;
export const DEFAULT_FAILURE_RETRY_MS = 1000;
/** Failed loads remembered; beyond it the oldest is forgotten. */
const FAILURES_MAX = 1024;
/** Pause before a refused free is tried again, milliseconds. */
const FREE_RETRY_MS = 50;

interface Entry {
  readonly generation: AdapterGeneration;
  state: Exclude<ResidencyState, 'failed'>;
  /** -1 while waiting. */
  slot: number;
  bytes: number;
  references: number;
  /** Somebody asked and has neither acquired nor forgotten it. */
  wanted: boolean;
  /** The session refused to free it; not a victim until the retry. */
  stuck: boolean;
  /** Keeps the file while the adapter is wanted, loading or referenced. */
  unhold: (() => void) | undefined;
}

interface Failure {
  readonly error: LoramuxError;
  readonly untilMs: number;
  /** Somebody waits for this load and has not been told; then the failure outlives its time. */
  untold: boolean;
}

export class SlotResidency implements AdapterResidency {
  readonly maxSlots: number;
  readonly #options: ResidencyOptions;
  readonly #loadsMax: number;
  readonly #failureRetryMs: number;
  readonly #now: () => number;
  /** By digest; resident entries move to the end when they are used, so the first is the oldest. */
  readonly #entries = new Map<string, Entry>();
  readonly #waiting = new Set<Entry>();
  readonly #failures = new Map<string, Failure>();
  /** Highest number first, so that the lowest is popped. */
  readonly #freeSlots: number[];
  readonly #loads = new Set<Promise<void>>();
  /** Without name, request or reference, but refused by the session so far. */
  readonly #doomed = new Set<Entry>();
  readonly #counts = { hits: 0, misses: 0, loads: 0, loadFailures: 0, evictions: 0 };
  #freesRefused = 0;
  #loadMsSum = 0;
  #bytes = 0;
  #listener: () => void = () => undefined;
  #retry: NodeJS.Timeout | undefined;
  #closed = false;

  constructor(options: ResidencyOptions) {
    this.#options = options;
    this.maxSlots = options.maxSlots;
    this.#loadsMax = options.maxConcurrentLoads ?? DEFAULT_CONCURRENT_LOADS;
    this.#failureRetryMs = options.failureRetryMs ?? DEFAULT_FAILURE_RETRY_MS;
    this.#now = options.now ?? (() => performance.now());
    this.#freeSlots = Array.from({ length: options.maxSlots }, (_, i) => options.maxSlots - 1 - i);
    options.images.onRetired((digest) => this.#retire(digest));
  }

  tryAcquire(generation: AdapterGeneration): number | undefined | LoramuxError {
    const entry = this.#entries.get(generation.digest);
    if (entry === undefined) return this.#request(generation);
    const held = this.#hold(entry);
    if (held !== undefined) return held;
    this.#doomed.delete(entry);
    if (entry.state !== 'resident') {
      entry.wanted = true;
      return undefined;
    }
    if (!entry.wanted) this.#counts.hits++;
    entry.wanted = false;
    entry.references++;
    this.#touch(entry);
    return entry.slot;
  }

  release(generation: AdapterGeneration): void {
    const entry = this.#entries.get(generation.digest);
    if (entry === undefined || entry.references === 0) {
      throw new LoramuxError(
        'internal_error',
        `Adapter ${generation.digest} was released more often than it was acquired.`,
      );
    }
    entry.references--;
    this.#touch(entry);
    this.#unholdIfUnused(entry);
    this.#pump();
  }

  forget(generation: AdapterGeneration): void {
    const failure = this.#failures.get(generation.digest);
    if (failure !== undefined) failure.untold = false;
    const entry = this.#entries.get(generation.digest);
    if (entry === undefined) return;
    entry.wanted = false;
    if (entry.state === 'waiting') {
      this.#waiting.delete(entry);
      this.#entries.delete(generation.digest);
    }
    this.#unholdIfUnused(entry);
    this.#pump();
  }

  onChange(listener: () => void): void {
    this.#listener = listener;
  }

  stats(): AdapterResidencyStats {
    const entries = [...this.#entries.values()];
    const count = (test: (entry: Entry) => boolean): number => entries.filter(test).length;
    return {
      ...this.#counts,
      freesRefused: this.#freesRefused,
      loadMsSum: this.#loadMsSum,
      residentBytes: this.#bytes,
      maxBytes: this.#options.maxBytes,
      resident: count((entry) => entry.state === 'resident'),
      loading: count((entry) => entry.state === 'loading'),
      waiting: this.#waiting.size,
      referenced: count((entry) => entry.references > 0),
      maxSlots: this.maxSlots,
    };
  }

  /** State per adapter, for the list of adapters and for tests. */
  adapters(): ResidentAdapter[] {
    const known = [...this.#entries.values()].map(
      ({ generation, state, slot, references, bytes }) => ({
        digest: generation.digest,
        state,
        slot: slot < 0 ? undefined : slot,
        references,
        bytes,
      }),
    );
    const failed = [...this.#failures.keys()].map((digest) => ({
      digest,
      state: 'failed' as const,
      slot: undefined,
      references: 0,
      bytes: 0,
    }));
    return [...known, ...failed];
  }

  /** Starts no more loads and waits for those under way. Call it before the session closes. */
  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#retry);
    for (const entry of this.#waiting) {
      this.#entries.delete(entry.generation.digest);
      entry.wanted = false;
      this.#unholdIfUnused(entry);
    }
    this.#waiting.clear();
    await Promise.all(this.#loads);
  }

  /** First request for an adapter that is neither resident nor on its way. */
  #request(generation: AdapterGeneration): undefined | LoramuxError {
    const { digest, residentBytes } = generation;
    if (this.#closed) return new LoramuxError('shutting_down', 'The server is shutting down.');
    const failure = this.#failures.get(digest);
    if (failure !== undefined) {
      // A step may take longer than the pause: whoever waited would only start the load anew.
      if (failure.untold || this.#now() < failure.untilMs) {
        failure.untold = false;
        return failure.error;
      }
      this.#failures.delete(digest);
    }
    if (residentBytes > this.#options.maxBytes || this.maxSlots === 0) {
      return new LoramuxError(
        'adapter_never_fits',
        `The adapter takes ${residentBytes} bytes of adapter memory, which has ` +
          `${this.#options.maxBytes} bytes in ${this.maxSlots} slots.`,
      );
    }
    const entry: Entry = {
      generation,
      state: 'waiting',
      slot: -1,
      bytes: residentBytes,
      references: 0,
      wanted: true,
      stuck: false,
      unhold: undefined,
    };
    const held = this.#hold(entry);
    if (held !== undefined) return held;
    this.#counts.misses++;
    this.#entries.set(digest, entry);
    this.#waiting.add(entry);
    this.#pump();
    return undefined;
  }

  /** Starts loads in the order they were asked for, as far as room and the limit allow. */
  #pump(): void {
    this.#freeDoomed();
    for (const entry of this.#waiting) {
      if (this.#closed || this.#loads.size >= this.#loadsMax || !this.#makeRoom(entry)) return;
      this.#waiting.delete(entry);
      this.#start(entry);
    }
  }

  #start(entry: Entry): void {
    entry.slot = this.#freeSlots.pop()!;
    entry.state = 'loading';
    this.#bytes += entry.bytes;
    const load = this.#load(entry).finally(() => {
      this.#loads.delete(load);
      this.#pump();
      this.#listener();
    });
    this.#loads.add(load);
  }

  async #load(entry: Entry): Promise<void> {
    const { digest } = entry.generation;
    const startMs = this.#now();
    try {
      const image = await this.#options.images.openImage(entry.generation);
      const { bytes } = await this.#options.native.loadAdapter(entry.slot, image);
      this.#bytes += bytes - entry.bytes;
      entry.bytes = bytes;
      entry.state = 'resident';
      const ms = this.#now() - startMs;
      this.#counts.loads++;
      this.#loadMsSum += ms;
      this.#touch(entry);
      this.#options.onEvent?.({ kind: 'loaded', digest, bytes, ms });
    } catch (error) {
      this.#counts.loadFailures++;
      this.#bytes -= entry.bytes;
      this.#entries.delete(digest);
      this.#giveSlot(entry.slot);
      this.#rememberFailure(digest, loadError(error), entry.wanted);
      this.#options.onEvent?.({ kind: 'load_failed', digest, error });
      this.#unhold(entry);
      return;
    }
    this.#unholdIfUnused(entry);
  }

  #rememberFailure(digest: string, error: LoramuxError, untold: boolean): void {
    this.#failures.delete(digest);
    this.#failures.set(digest, { error, untilMs: this.#now() + this.#failureRetryMs, untold });
    const oldest = this.#failures.keys().next().value;
    if (this.#failures.size > FAILURES_MAX && oldest !== undefined) this.#failures.delete(oldest);
  }

  /** Evicts until the adapter fits; evicts nothing when it cannot fit yet. */
  #makeRoom(entry: Entry): boolean {
    const fits = (bytes: number, slots: number): boolean =>
      slots > 0 && bytes + entry.bytes <= this.#options.maxBytes;
    const victims: Entry[] = [];
    let bytes = this.#bytes;
    let slots = this.#freeSlots.length;
    for (const candidate of this.#entries.values()) {
      if (fits(bytes, slots)) break;
      if (!isVictim(candidate)) continue;
      victims.push(candidate);
      bytes -= candidate.bytes;
      slots++;
    }
    if (!fits(bytes, slots)) return false;
    for (const victim of victims) {
      if (!this.#free(victim)) return this.#makeRoom(entry);
      this.#counts.evictions++;
      this.#options.onEvent?.({ kind: 'evicted', digest: victim.generation.digest });
    }
    return true;
  }

  /** Nothing keeps the generation any more: its memory goes at once. */
  #retire(digest: string): void {
    this.#failures.delete(digest);
    const entry = this.#entries.get(digest);
    if (entry === undefined || !isIdle(entry)) return;
    if (this.#free(entry)) this.#options.onEvent?.({ kind: 'retired', digest });
    else this.#doomed.add(entry);
  }

  #freeDoomed(): void {
    for (const entry of this.#doomed) {
      if (!isVictim(entry) || !this.#free(entry)) continue;
      this.#options.onEvent?.({ kind: 'retired', digest: entry.generation.digest });
    }
  }

  #free(entry: Entry): boolean {
    const { digest } = entry.generation;
    try {
      this.#options.native.freeAdapter(entry.slot);
    } catch (error) {
      this.#freesRefused++;
      entry.stuck = true;
      this.#options.onEvent?.({ kind: 'free_refused', digest, error });
      this.#retryFreesLater();
      return false;
    }
    this.#doomed.delete(entry);
    this.#entries.delete(digest);
    this.#bytes -= entry.bytes;
    this.#giveSlot(entry.slot);
    return true;
  }

  #retryFreesLater(): void {
    if (this.#closed) return;
    this.#retry ??= setTimeout(() => {
      this.#retry = undefined;
      for (const entry of this.#entries.values()) entry.stuck = false;
      this.#pump();
    }, FREE_RETRY_MS).unref();
  }

  #giveSlot(slot: number): void {
    this.#freeSlots.push(slot);
  }

  #touch(entry: Entry): void {
    this.#entries.delete(entry.generation.digest);
    this.#entries.set(entry.generation.digest, entry);
  }

  #hold(entry: Entry): LoramuxError | undefined {
    if (entry.unhold !== undefined) return undefined;
    try {
      entry.unhold = this.#options.images.hold(entry.generation);
      return undefined;
    } catch (error) {
      return loadError(error);
    }
  }

  /** May retire and free the entry on the spot. */
  #unholdIfUnused(entry: Entry): void {
    if (entry.references > 0 || entry.wanted || entry.state === 'loading') return;
    this.#unhold(entry);
  }

  #unhold(entry: Entry): void {
    const { unhold } = entry;
    entry.unhold = undefined;
    unhold?.();
  }
}

function isIdle(entry: Entry): boolean {
  return entry.state === 'resident' && entry.references === 0 && !entry.wanted;
}

function isVictim(entry: Entry): boolean {
  return isIdle(entry) && !entry.stuck;
}

/** What a waiting request is told; content errors keep their code. */
function loadError(error: unknown): LoramuxError {
  if (error instanceof LoramuxError && error.code !== 'internal_error') return error;
  const message = error instanceof Error ? error.message : String(error);
  return new LoramuxError('adapter_load_failed', `The adapter could not be loaded: ${message}`, {
    cause: error,
  });
}
