/**
 * Adapter slots without files: a load takes some turns of the event loop and writes the generation's
 * digest into the fake session's slot. Evicts the least recently used slot without references. A
 * loaded adapter is kept for who asked until it is acquired or forgotten.
 */
import type { AdapterGeneration, SessionResidency } from '../../src/adapters/types.ts';
import { LoramuxError } from '../../src/errors.ts';

interface Slot {
  digest: string | undefined;
  loading: boolean;
  references: number;
  wanted: boolean;
  lastUse: number;
}

export interface FakeResidencyOptions {
  maxSlots: number;
  /** Where digests are written: the fake session's slots. */
  contents: (string | undefined)[];
  /** Runs the end of a load later; the default is the next turn of the event loop. */
  schedule?: (run: () => void) => void;
}

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
  /** Generations asked for and without a slot yet, in the order of asking. */
  readonly #queue = new Map<string, AdapterGeneration>();
  readonly #generations = new Map<string, AdapterGeneration>();
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
      wanted: false,
      lastUse: 0,
    }));
  }

  get references(): Map<string, number> {
    const held = this.#slots.filter(({ references }) => references > 0);
    return new Map(held.map(({ digest, references }) => [digest!, references]));
  }

  /** Generations somebody still waits for. */
  get numWanted(): number {
    return this.#queue.size + this.#slots.filter(({ wanted }) => wanted).length;
  }

  tryAcquire(generation: AdapterGeneration): number | undefined | LoramuxError {
    if (this.failing.has(generation.digest)) {
      return new LoramuxError('adapter_load_failed', `The load of ${generation.digest} failed.`);
    }
    const index = this.#slots.findIndex(({ digest }) => digest === generation.digest);
    if (index >= 0) {
      const slot = this.#slots[index]!;
      if (slot.loading) return undefined;
      slot.references += 1;
      slot.wanted = false;
      slot.lastUse = ++this.#clock;
      return index;
    }
    this.#queue.set(generation.digest, generation);
    this.#pump();
    return undefined;
  }

  waitsForRoom({ digest }: AdapterGeneration): boolean {
    return this.#queue.has(digest);
  }

  release(generation: AdapterGeneration): void {
    const slot = this.#slots.find(({ digest }) => digest === generation.digest);
    if (slot === undefined || slot.references === 0) {
      throw new Error(`${generation.digest} is released but not referenced`);
    }
    slot.references -= 1;
    this.#pump();
  }

  forget(generation: AdapterGeneration): void {
    this.forgotten += 1;
    this.#queue.delete(generation.digest);
    const slot = this.#slots.find(({ digest }) => digest === generation.digest);
    if (slot !== undefined) slot.wanted = false;
    this.#pump();
  }

  prefetch(): void {}

  slotsLost(): void {
    this.#epoch += 1;
    for (const [index, slot] of this.#slots.entries()) {
      if (slot.references > 0) throw new Error(`${slot.digest} is lost with references`);
      if (slot.wanted) this.#queue.set(slot.digest!, this.#generations.get(slot.digest!)!);
      Object.assign(slot, { digest: undefined, loading: false, wanted: false });
      this.#contents[index] = undefined;
    }
    this.#pump();
    this.#onChange();
  }

  onChange(listener: () => void): void {
    this.#onChange = listener;
  }

  /** Starts loads for as many waiting generations as there are slots to give. */
  #pump(): void {
    const epoch = this.#epoch;
    for (const [digest, generation] of this.#queue) {
      const slot = this.#victim();
      if (slot === undefined) return;
      this.#queue.delete(digest);
      if (slot.digest !== undefined) this.evictions += 1;
      const index = this.#slots.indexOf(slot);
      this.#generations.set(digest, generation);
      this.#contents[index] = undefined;
      Object.assign(slot, { digest, loading: true, wanted: true, lastUse: ++this.#clock });
      this.#schedule(() => {
        if (epoch !== this.#epoch) return;
        slot.loading = false;
        this.#contents[index] = digest;
        this.loads += 1;
        this.#onChange();
      });
    }
  }

  #victim(): Slot | undefined {
    const free = this.#slots.filter(
      ({ references, loading, wanted }) => references === 0 && !loading && !wanted,
    );
    return free.sort((a, b) => a.lastUse - b.lastUse)[0];
  }
}
