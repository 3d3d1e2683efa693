/**
 * Adapter slots without files: a load takes some turns of the event loop and writes the generation's
 * digest into the fake session's slot. Evicts the least recently used slot without references. Whoever
 * asks is served in the order of asking, and what was loaded is kept for them until it is acquired or
 * forgotten.
 */
import type { AdapterGeneration, SessionResidency } from '../../src/adapters/types.ts';
import { LoramuxError } from '../../src/errors.ts';

interface Slot {
  digest: string | undefined;
  loading: boolean;
  references: number;
  lastUse: number;
}

export interface FakeResidencyOptions {
  maxSlots: number;
  /** Where digests are written: the fake session's slots. */
  contents: (string | undefined)[];
  /** Runs the end of a load later; the default is the next turn of the event loop. */
  schedule?: (run: () => void) => void;
}

const keyOf = (generations: readonly AdapterGeneration[]) =>
  generations.map(({ digest }) => digest).join();

export class FakeResidency implements SessionResidency {
  readonly maxSlots: number;
  /** Generations whose load fails. */
  readonly failing = new Set<string>();
  loads = 0;
  evictions = 0;
  forgotten = 0;
  readonly #slots: Slot[];
  readonly #contents: (string | undefined)[];
  readonly #schedule: (run: () => void) => void;
  /** What was asked for together and not acquired yet, in the order of asking. */
  readonly #claims = new Map<string, readonly AdapterGeneration[]>();
  #onChange: () => void = () => {};
  #clock = 0;
  #epoch = 0;

  constructor(options: FakeResidencyOptions) {
    this.maxSlots = options.maxSlots;
    this.#contents = options.contents;
    this.#schedule = options.schedule ?? ((run) => setImmediate(run));
    this.#slots = Array.from({ length: options.maxSlots }, () => ({
      digest: undefined,
      loading: false,
      references: 0,
      lastUse: 0,
    }));
  }

  get references(): Map<string, number> {
    const held = this.#slots.filter(({ references }) => references > 0);
    return new Map(held.map(({ digest, references }) => [digest!, references]));
  }

  /** Requests for adapters that are still waited for. */
  get numWanted(): number {
    return this.#claims.size;
  }

  tryAcquire(
    generations: readonly AdapterGeneration[],
  ): readonly number[] | undefined | LoramuxError {
    const failing = generations.find(({ digest }) => this.failing.has(digest));
    if (failing !== undefined) {
      this.#claims.delete(keyOf(generations));
      return new LoramuxError('adapter_load_failed', `The load of ${failing.digest} failed.`);
    }
    const slots = generations.map(({ digest }) => this.#find(digest));
    if (slots.every((slot) => slot !== undefined && !slot.loading)) {
      this.#claims.delete(keyOf(generations));
      return slots.map((slot) => {
        slot!.references += 1;
        slot!.lastUse = ++this.#clock;
        return this.#slots.indexOf(slot!);
      });
    }
    const key = keyOf(generations);
    if (!this.#claims.has(key)) this.#claims.set(key, generations);
    this.#pump();
    return undefined;
  }

  waitsForRoom(generations: readonly AdapterGeneration[]): boolean {
    const isMissing = generations.some(({ digest }) => this.#find(digest) === undefined);
    return isMissing && this.#claims.has(keyOf(generations));
  }

  release(generations: readonly AdapterGeneration[]): void {
    for (const { digest } of generations) {
      const slot = this.#find(digest);
      if (slot === undefined || slot.references === 0) {
        throw new Error(`${digest} is released but not referenced`);
      }
      slot.references -= 1;
    }
    this.#pump();
  }

  forget(generations: readonly AdapterGeneration[]): void {
    this.forgotten += 1;
    this.#claims.delete(keyOf(generations));
    this.#pump();
  }

  prefetch(): void {}

  slotsLost(): void {
    this.#epoch += 1;
    for (const [index, slot] of this.#slots.entries()) {
      if (slot.references > 0) throw new Error(`${slot.digest} is lost with references`);
      Object.assign(slot, { digest: undefined, loading: false });
      this.#contents[index] = undefined;
    }
    this.#pump();
    this.#onChange();
  }

  onChange(listener: () => void): void {
    this.#onChange = listener;
  }

  #find(digest: string): Slot | undefined {
    return this.#slots.find((slot) => slot.digest === digest);
  }

  /** Starts loads for as many who wait as there are slots to give; nobody passes another. */
  #pump(): void {
    const kept = new Set<string>();
    for (const generations of this.#claims.values()) {
      const digests = generations.map(({ digest }) => digest);
      const isThere = digests.every((digest) => this.#find(digest)?.loading === false);
      if (isThere) for (const digest of digests) kept.add(digest);
    }
    for (const generations of this.#claims.values()) {
      for (const { digest } of generations) kept.add(digest);
      for (const { digest } of generations) {
        if (this.#find(digest) !== undefined) continue;
        const slot = this.#victim(kept);
        if (slot === undefined) return;
        this.#load(slot, digest);
      }
    }
  }

  #load(slot: Slot, digest: string): void {
    if (slot.digest !== undefined) this.evictions += 1;
    const index = this.#slots.indexOf(slot);
    this.#contents[index] = undefined;
    Object.assign(slot, { digest, loading: true, lastUse: ++this.#clock });
    const epoch = this.#epoch;
    this.#schedule(() => {
      if (epoch !== this.#epoch) return;
      slot.loading = false;
      this.#contents[index] = digest;
      this.loads += 1;
      this.#onChange();
    });
  }

  #victim(kept: ReadonlySet<string>): Slot | undefined {
    const free = this.#slots.filter(
      ({ references, loading, digest }) =>
        references === 0 && !loading && !(digest !== undefined && kept.has(digest)),
    );
    return free.sort((a, b) => a.lastUse - b.lastUse)[0];
  }
}
