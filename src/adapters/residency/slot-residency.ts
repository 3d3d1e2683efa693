/**
 * Which adapters are in the session's slots. Policy only: the session owns the memory, the images
 * bring the bytes.
 *
 * A request may need several adapters at once: it gets all of them or none (claims.ts).
 *
 * An adapter is *waiting* for room, *loading*, *resident* or *failed*. Loads start in the order they
 * were asked for; the first that does not fit makes the others wait, so a large adapter is not
 * starved by small ones. Room is made by evicting the least recently used adapter that is not pinned,
 * has no references, and that nobody who asked for it still has to collect.
 *
 * An eviction on request takes effect at once or with the last reference. Requests that come
 * meanwhile still use the adapter, and so put it off; an explicit load or a pin calls it off. A
 * pinned adapter stays in its slot and only leaves host memory.
 *
 * References are given back only after the step that read the slot was committed, so a slot that is
 * freed here is not read by any step. The session checks that too; its refusal is reported as a
 * defect and freeing is tried again later.
 */
import { LoramuxError, shuttingDown } from '../../errors.ts';
import type {
  AdapterGeneration,
  ResidencyControl,
  ResidencyView,
  SessionResidency,
} from '../types.ts';
import { type Claim, Claims, firstTurn } from './claims.ts';
import { LoadFailures, loadError } from './failures.ts';
import { LoadQueue } from './load-queue.ts';
import { LoadWaiters } from './load-waiters.ts';
import { neverFit } from './never-fit.ts';
import { choosePins, type PinChoice, PinRetries } from './pins.ts';
import { isAwaited, isIdle, isVictim, newEntry, SlotBook, type SlotEntry } from './slot-book.ts';
import { slotBytesOf } from './slot-bytes.ts';
import { SlotLoads } from './slot-loads.ts';
import { SlotRelease } from './slot-release.ts';
import { residencyStats, residentAdapters } from './stats.ts';
import type { AdapterResidencyStats, ResidencyOptions, ResidentAdapter } from './types.ts';

export const DEFAULT_CONCURRENT_LOADS = 4;
export const DEFAULT_FAILURE_RETRY_MS = 1000;

export class SlotResidency implements SessionResidency, ResidencyControl {
  readonly maxSlots: number;
  readonly #options: ResidencyOptions;
  readonly #loadsMax: number;
  readonly #book: SlotBook;
  readonly #release: SlotRelease;
  readonly #waiting = new LoadQueue();
  readonly #failures: LoadFailures;
  readonly #waiters = new LoadWaiters();
  readonly #pinRetries: PinRetries;
  readonly #claims = new Claims();
  readonly #loads: SlotLoads;
  #hits = 0;
  #misses = 0;
  #pins: PinChoice = { pinned: new Map(), leftOut: [], bytes: 0 };
  #listener: () => void = () => undefined;
  #closed = false;

  constructor(options: ResidencyOptions) {
    this.#options = options;
    this.maxSlots = options.maxSlots;
    this.#loadsMax = options.maxConcurrentLoads ?? DEFAULT_CONCURRENT_LOADS;
    const now = options.now ?? (() => performance.now());
    const retryMs = options.failureRetryMs ?? DEFAULT_FAILURE_RETRY_MS;
    this.#failures = new LoadFailures(retryMs, now);
    this.#pinRetries = new PinRetries(retryMs, (generation) => this.#requestPin(generation));
    this.#book = new SlotBook(options.maxSlots, options.maxBytes);
    this.#loads = new SlotLoads(options, this.#book, now, {
      loaded: (entry) => this.#onLoaded(entry),
      failed: (entry, error) => this.#onLoadFailed(entry, error),
      over: (entry) => {
        this.#settle(entry);
        this.#pump();
        this.#listener();
      },
    });
    this.#release = new SlotRelease(this.#book, options, () => this.#pump());
    options.images.onRetired((digest) => this.#retire(digest));
  }

  tryAcquire(
    generations: readonly AdapterGeneration[],
  ): readonly number[] | undefined | LoramuxError {
    const known = this.#claims.get(generations);
    const entries = this.#ask(generations);
    if (entries instanceof LoramuxError) {
      if (known !== undefined) this.#drop(known);
      this.#pump();
      return entries;
    }
    if (entries.every(({ state }) => state === 'resident')) {
      if (known === undefined) this.#hits += entries.length;
      else this.#claims.drop(known);
      return entries.map((entry) => this.#acquire(entry));
    }
    if (known === undefined) this.#countMisses(entries);
    const { since } = this.#claims.add(generations, entries);
    for (const entry of entries) if (entry.state === 'waiting') this.#enqueue(entry, since);
    this.#pump();
    return undefined;
  }

  waitsForRoom(generations: readonly AdapterGeneration[]): boolean {
    if (this.#loads.size >= this.#loadsMax) return false;
    const claim = this.#claims.get(generations);
    return generations.some(({ digest }) => {
      const entry = this.#book.get(digest);
      // One of several had to make way.
      return entry === undefined ? claim !== undefined : entry.state === 'waiting';
    });
  }

  release(generations: readonly AdapterGeneration[]): void {
    for (const { digest } of generations) {
      const entry = this.#book.get(digest);
      if (entry === undefined || entry.references === 0) {
        throw new LoramuxError(
          'internal_error',
          `Adapter ${digest} was released more often than it was acquired.`,
        );
      }
      entry.references--;
      this.#book.touch(entry);
      this.#settle(entry);
    }
    this.#pump();
  }

  forget(generations: readonly AdapterGeneration[]): void {
    for (const { digest } of generations) this.#failures.nobodyWaits(digest);
    const claim = this.#claims.get(generations);
    if (claim === undefined) return;
    this.#drop(claim);
    this.#pump();
  }

  prefetch(generation: AdapterGeneration): void {
    const { digest } = generation;
    if (this.#closed || this.#book.get(digest) !== undefined || this.#failures.has(digest)) return;
    if (this.#refusal([generation]) !== undefined) return;
    const entry = this.#newEntry(generation);
    if (this.#hasRoomToSpare(entry) && this.#hold(entry) === undefined) {
      this.#book.add(entry);
      this.#loads.start(entry);
    } else {
      this.#options.images.prefetchImage(generation);
    }
  }

  slotsLost(): void {
    this.#loads.lose();
    const entries = [...this.#book.values()];
    const referenced = entries.find(({ references }) => references > 0);
    if (referenced !== undefined) {
      throw new LoramuxError(
        'internal_error',
        `The slot of ${referenced.generation.digest} was lost while it had references.`,
      );
    }
    this.#book.clearSlots();
    for (const entry of entries) {
      this.#release.stay(entry);
      entry.stuck = false;
      if (entry.state === 'waiting') continue;
      entry.state = 'waiting';
      this.#waiting.add(entry, firstTurn(entry) ?? this.#claims.turn());
      // Drops it, unless somebody waits for it or it is pinned.
      this.#settle(entry);
    }
    this.#pump();
    this.#listener();
  }

  onChange(listener: () => void): void {
    this.#listener = listener;
  }

  view(generation: AdapterGeneration): ResidencyView {
    const { digest } = generation;
    const entry = this.#book.get(digest);
    const isInHost = this.#options.images.hasImage(digest);
    return {
      level: entry?.state === 'resident' ? 'device' : isInHost ? 'host' : 'disk',
      pinned: this.#pins.pinned.has(digest),
      references: entry?.references ?? 0,
      evicting: entry?.leaving !== undefined,
    };
  }

  async load(generation: AdapterGeneration, timeoutMs: number): Promise<void> {
    const { digest } = generation;
    let entry = this.#book.get(digest);
    if (entry === undefined) {
      const refusal = this.#refusal([generation]);
      if (refusal !== undefined) throw refusal;
      entry = this.#newEntry(generation);
    }
    this.#release.stay(entry);
    if (entry.state === 'resident') {
      this.#book.touch(entry);
      return;
    }
    this.#waiters.checkRoom();
    const held = this.#hold(entry);
    if (held !== undefined) throw held;
    // Somebody asks for a new try.
    this.#failures.forget(digest);
    const asked = entry;
    const loaded = this.#waiters.wait(asked, timeoutMs, () => {
      this.#settle(asked);
      this.#pump();
    });
    this.#enqueue(asked);
    this.#pump();
    await loaded;
  }

  evict(generation: AdapterGeneration): ResidencyView {
    const { digest } = generation;
    this.#options.images.dropImage(digest);
    const entry = this.#book.get(digest);
    if (entry !== undefined && !entry.pinned && entry.state !== 'waiting') {
      this.#release.leave(entry, 'request');
      this.#settle(entry);
      this.#pump();
    }
    return this.view(generation);
  }

  setPins(generations: readonly AdapterGeneration[]): void {
    if (this.#closed) return;
    const before = this.#pins;
    this.#pins = choosePins(generations, this.#options);
    for (const digest of before.pinned.keys()) {
      if (!this.#pins.pinned.has(digest)) this.#unpin(digest);
    }
    // All that are here are kept before the first of the others makes room for itself.
    for (const digest of this.#pins.pinned.keys()) this.#keepPinned(this.#book.get(digest));
    for (const generation of this.#pins.pinned.values()) {
      const { digest } = generation;
      if (this.#book.get(digest) === undefined && !this.#pinRetries.has(digest)) {
        this.#requestPin(generation);
      }
    }
    const known = new Set(before.leftOut.map(({ generation }) => generation.digest));
    for (const { generation, reason } of this.#pins.leftOut) {
      if (known.has(generation.digest)) continue;
      this.#options.onEvent?.({ kind: 'pin_left_out', digest: generation.digest, reason });
    }
    this.#refuseWhatNeverFits();
    this.#pump();
  }

  checkPins(generations: readonly AdapterGeneration[]): void {
    const [first] = choosePins(generations, this.#options).leftOut;
    if (first === undefined) return;
    throw new LoramuxError(
      'pin_limit_exceeded',
      `The adapter ${first.generation.digest} cannot be pinned beside the others: ${first.reason}.`,
    );
  }

  stats(): AdapterResidencyStats {
    return residencyStats(this.#book, {
      ...this.#loads.counts,
      loadsByTier: { ...this.#loads.counts.loadsByTier },
      hits: this.#hits,
      misses: this.#misses,
      evictions: this.#release.evictions,
      freesRefused: this.#release.refused,
      pinned: this.#pins.pinned.size,
      waiting: this.#waiting.size,
      host: this.#options.images.imageStats?.(),
    });
  }

  /** State per adapter, for the list of adapters and for tests. */
  adapters(): ResidentAdapter[] {
    return residentAdapters(this.#book, this.#failures.digests());
  }

  /** Starts no more loads and waits for those under way. Call it before the session closes. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#release.close();
    this.#pinRetries.close();
    const error = shuttingDown();
    for (const claim of this.#claims.values()) this.#claims.drop(claim);
    for (const entry of this.#waiting) {
      entry.pinned = false;
      this.#waiters.settle(entry, error);
      this.#settle(entry);
    }
    await this.#loads.idle();
  }

  #countMisses(entries: readonly SlotEntry[]): void {
    for (const entry of entries) {
      if (entry.state === 'resident') this.#hits++;
      else if (entry.claims.size === 0) this.#misses++;
    }
  }

  /** An entry for each generation, new ones where there are none, all with their files kept. */
  #ask(generations: readonly AdapterGeneration[]): SlotEntry[] | LoramuxError {
    for (const { digest } of generations) {
      const refusal = this.#book.get(digest) === undefined && this.#failures.tell(digest);
      if (refusal) return refusal;
    }
    const known = generations.map(({ digest }) => this.#book.get(digest));
    const isNew = known.includes(undefined);
    const refusal = isNew || generations.length > 1 ? this.#refusal(generations) : undefined;
    if (refusal !== undefined) return refusal;
    const entries = known.map((entry, i) => entry ?? this.#newEntry(generations[i]!));
    for (const entry of entries) {
      const held = this.#hold(entry);
      if (held === undefined) continue;
      for (const other of entries) {
        if (this.#book.get(other.generation.digest) === other) this.#settle(other);
        else this.#unhold(other);
      }
      return held;
    }
    return entries;
  }

  #acquire(entry: SlotEntry): number {
    // Its name came back.
    if (entry.leaving === 'retired') this.#release.stay(entry);
    entry.references++;
    this.#book.touch(entry);
    return entry.slot;
  }

  /** Why a load cannot begin, now or ever. */
  #refusal(generations: readonly AdapterGeneration[]): LoramuxError | undefined {
    if (this.#closed) return shuttingDown();
    return this.#neverFit(generations);
  }

  #neverFit(generations: readonly AdapterGeneration[]): LoramuxError | undefined {
    return neverFit(generations, this.#book, this.#pins, this.#options.loraDtype);
  }

  /** Pins took the room of what waits: it is told now instead of waiting for ever. */
  #refuseWhatNeverFits(): void {
    let refused = false;
    for (const entry of this.#waiting) {
      const error = this.#neverFit([entry.generation]);
      if (error === undefined) continue;
      refused = true;
      this.#fail(entry, error, false);
    }
    // Those that do not fit together any more hear it when they ask again.
    for (const { generations } of this.#claims.values()) {
      if (this.#neverFit(generations) !== undefined) refused = true;
    }
    if (refused) this.#listener();
  }

  /** Whoever asks for a pinned adapter asks for the pin too: its own load may have failed. */
  #newEntry(generation: AdapterGeneration): SlotEntry {
    return newEntry(
      generation,
      this.#pins.pinned.has(generation.digest),
      slotBytesOf(generation, this.#options.loraDtype),
    );
  }

  /** Waits for room in its turn, unless it is on its way already. */
  #enqueue(entry: SlotEntry, since = this.#claims.turn()): void {
    if (this.#book.get(entry.generation.digest) !== entry) this.#book.add(entry);
    if (entry.state === 'waiting') this.#waiting.add(entry, since);
  }

  #requestPin(generation: AdapterGeneration): void {
    const { digest } = generation;
    if (this.#closed || !this.#pins.pinned.has(digest)) return;
    const entry = this.#book.get(digest) ?? this.#newEntry(generation);
    this.#keepPinned(entry);
    if (entry.state === 'resident') return;
    const held = this.#hold(entry);
    if (held !== undefined) {
      this.#pinRetries.failed(generation);
      return;
    }
    this.#enqueue(entry);
    this.#pump();
  }

  #keepPinned(entry: SlotEntry | undefined): void {
    if (entry === undefined) return;
    entry.pinned = true;
    this.#release.stay(entry);
  }

  #unpin(digest: string): void {
    this.#pinRetries.forget(digest);
    const entry = this.#book.get(digest);
    if (entry === undefined) return;
    entry.pinned = false;
    this.#settle(entry);
  }

  /**
   * Room that nobody waits for, so that a prefetch takes it from no one: nothing to evict, another
   * load can begin meanwhile, and it finds a slot.
   */
  #hasRoomToSpare(entry: SlotEntry): boolean {
    if (this.#waiting.size > 0 || this.#loads.size + 1 >= this.#loadsMax) return false;
    if (!this.#book.fitsWithoutEviction(entry)) return false;
    return this.#book.numFreeSlots > 1 || [...this.#book.values()].some(isVictim);
  }

  /** Starts loads in the order they were asked for, as far as room and the limit allow. */
  #pump(): void {
    this.#release.freeAllUnused();
    for (const entry of this.#waiting) {
      if (this.#closed || this.#loads.size >= this.#loadsMax || !this.#release.makeRoom(entry))
        return;
      this.#waiting.delete(entry);
      this.#loads.start(entry);
    }
  }

  #onLoaded(entry: SlotEntry): void {
    const { digest } = entry.generation;
    if (!isAwaited(entry) && !entry.pinned) {
      this.#options.onEvent?.({ kind: 'prefetched', digest });
    }
    this.#pinRetries.forget(digest);
    this.#waiters.settle(entry, undefined);
    // At once: another load that ends now may evict it.
    this.#settle(entry);
  }

  #onLoadFailed(entry: SlotEntry, error: unknown): void {
    if (entry.pinned && !this.#closed) this.#pinRetries.failed(entry.generation);
    this.#fail(entry, loadError(error), true);
  }

  /** The load did not succeed, or cannot begin: tells everybody who waits for it. */
  #fail(entry: SlotEntry, error: LoramuxError, lasting: boolean): void {
    this.#waiting.delete(entry);
    this.#release.stay(entry);
    this.#book.remove(entry);
    this.#failures.remember(entry.generation.digest, error, entry.claims.size > 0, lasting);
    for (const claim of [...entry.claims]) this.#drop(claim);
    this.#waiters.settle(entry, error);
    this.#unhold(entry);
  }

  /** Nothing keeps the generation any more: its memory goes at once. */
  #retire(digest: string): void {
    this.#failures.forget(digest);
    this.#options.images.dropImage(digest);
    const entry = this.#book.get(digest);
    if (entry === undefined || !isIdle(entry)) return;
    entry.pinned = false;
    this.#release.leave(entry, 'retired');
    this.#pump();
  }

  #hold(entry: SlotEntry): LoramuxError | undefined {
    if (entry.unhold !== undefined) return undefined;
    try {
      entry.unhold = this.#options.images.hold(entry.generation);
      return undefined;
    } catch (error) {
      return loadError(error);
    }
  }

  #unhold(entry: SlotEntry): void {
    const { unhold } = entry;
    entry.unhold = undefined;
    unhold?.();
  }

  #drop(claim: Claim): void {
    for (const entry of this.#claims.drop(claim)) this.#settle(entry);
  }

  /** After somebody lost interest: what nobody waits for is dropped, what nobody uses is let go. */
  #settle(entry: SlotEntry): void {
    if (this.#book.get(entry.generation.digest) !== entry) return;
    if (entry.references > 0 || isAwaited(entry) || entry.state === 'loading') return;
    if (entry.state === 'waiting') {
      if (entry.pinned) return;
      this.#waiting.delete(entry);
      this.#book.remove(entry);
    }
    // May retire the generation, and so free the entry on the spot.
    this.#unhold(entry);
    if (this.#book.get(entry.generation.digest) === entry) this.#release.freeUnused(entry);
  }
}
