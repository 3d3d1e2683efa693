/** Every generation that a name or a request keeps, with what keeps it. */
import { LoramuxError } from '../errors.ts';
import type { GenerationMeta } from './registry/types.ts';
import type { AdapterGeneration } from './types.ts';

/** What the engine needs of a generation. */
export function generationOf({ digest, rank, residentBytes }: GenerationMeta): AdapterGeneration {
  return Object.freeze({ digest, rank, residentBytes });
}

/** What keeps a generation. */
export interface GenerationState {
  readonly meta: GenerationMeta;
  /** Names that lead requests to it, as current or split. */
  readonly servedBy: Set<string>;
  /** Names that have it in their history. */
  readonly keptBy: Set<string>;
  /** Requests and loads that use it. */
  holds: number;
  /** Registrations under way that will need its file. */
  reservations: number;
  /** A name led to it since it was retired: when none does any more, it is to be retired again. */
  answered: boolean;
}

export interface GenerationEvents {
  /** No request can come to it any more and none uses it: its memory may go. */
  readonly onRetired: (digest: string) => void;
  /** Nothing keeps it any more: its file may go. */
  readonly onUnused: (digest: string) => void;
}

/**
 * Reference counts by digest. Names are counted by identity, so that applying one entry twice
 * changes nothing.
 */
export class GenerationTable {
  readonly #states = new Map<string, GenerationState>();
  readonly #events: GenerationEvents;
  #storedBytes = 0;
  #holds = 0;

  constructor(events: GenerationEvents) {
    this.#events = events;
  }

  get size(): number {
    return this.#states.size;
  }

  /** Bytes of the canonical files. */
  get storedBytes(): number {
    return this.#storedBytes;
  }

  /** Holds that were not given back yet. */
  get holds(): number {
    return this.#holds;
  }

  values(): Iterable<GenerationState> {
    return this.#states.values();
  }

  has(digest: string): boolean {
    return this.#states.has(digest);
  }

  get(digest: string): GenerationState | undefined {
    return this.#states.get(digest);
  }

  /** @throws LoramuxError adapter_not_found. */
  stateOf(digest: string): GenerationState {
    const state = this.#states.get(digest);
    if (state !== undefined) return state;
    throw new LoramuxError('adapter_not_found', `The adapter with digest ${digest} was removed.`);
  }

  /** The state of a generation that is about to be kept; follow it with something that keeps it. */
  adopt(meta: GenerationMeta): GenerationState {
    const known = this.#states.get(meta.digest);
    if (known !== undefined) return known;
    const state: GenerationState = {
      meta,
      servedBy: new Set(),
      keptBy: new Set(),
      holds: 0,
      reservations: 0,
      answered: false,
    };
    this.#states.set(meta.digest, state);
    this.#storedBytes += meta.fileBytes;
    return state;
  }

  hold(digest: string): () => void {
    const state = this.stateOf(digest);
    state.holds++;
    this.#holds++;
    return once(() => {
      state.holds--;
      this.#holds--;
      this.settle(state);
    });
  }

  /** Keeps a generation, and its file, while it is being registered. */
  reserve(meta: GenerationMeta): () => void {
    const state = this.adopt(meta);
    state.reservations++;
    return once(() => {
      state.reservations--;
      this.settle(state);
    });
  }

  /** A name leads requests to it. */
  serve(state: GenerationState, name: string): void {
    state.servedBy.add(name);
    state.answered = true;
  }

  /** Retires what nothing leads to any more, forgets what nothing keeps. Call it after taking keepers away. */
  settle(state: GenerationState): void {
    const { digest } = state.meta;
    if (this.#states.get(digest) !== state) return;
    if (state.servedBy.size > 0 || state.holds > 0) return;
    const isKept = state.keptBy.size > 0 || state.reservations > 0;
    // What is only kept may have been loaded on purpose, before requests are to come to it.
    if (state.answered || !isKept) this.#events.onRetired(digest);
    state.answered = false;
    if (isKept) return;
    this.#states.delete(digest);
    this.#storedBytes -= state.meta.fileBytes;
    this.#events.onUnused(digest);
  }
}

function once(work: () => void): () => void {
  let done = false;
  return () => {
    if (done) return;
    done = true;
    work();
  };
}
