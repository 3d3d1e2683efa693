/**
 * Which adapters are in the session's slots. Policy only: the session owns the memory, the images
 * bring the bytes.
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
import { LoramuxError } from '../../errors.ts';
import type { OpenedImage } from '../service-types.ts';
import type {
  AdapterGeneration,
  ResidencyControl,
  ResidencyView,
  SessionResidency,
} from '../types.ts';
import { LoadFailures, loadError } from './failures.ts';
import { LoadWaiters } from './load-waiters.ts';
import { choosePins, type PinChoice, PinRetries } from './pins.ts';
import { isAwaited, isIdle, isVictim, newEntry, SlotBook, type SlotEntry } from './slot-book.ts';
import { slotBytesOf } from './slot-bytes.ts';
import { SlotRelease } from './slot-release.ts';
import { residencyStats, residentAdapters } from './stats.ts';
import type { AdapterResidencyStats, ResidencyOptions, ResidentAdapter } from './types.ts';

export const DEFAULT_CONCURRENT_LOADS = 4;
export const DEFAULT_FAILURE_RETRY_MS = 1000;

export class SlotResidency implements SessionResidency, ResidencyControl {
  readonly maxSlots: number;
  readonly #options: ResidencyOptions;
  readonly #loadsMax: number;
  readonly #now: () => number;
  readonly #book: SlotBook;
  readonly #release: SlotRelease;
  readonly #waiting = new Set<SlotEntry>();
  readonly #failures: LoadFailures;
  readonly #waiters = new LoadWaiters();
  readonly #pinRetries: PinRetries;
  readonly #loads = new Set<Promise<void>>();
  /** Loads into slots that were lost; they change nothing any more. */
  readonly #lostLoads = new Set<Promise<void>>();
  readonly #counts = {
    hits: 0,
    misses: 0,
    loads: 0,
    loadFailures: 0,
    loadMsSum: 0,
    loadsByTier: { host: 0, disk: 0, registry: 0 },
  };
  #pins: PinChoice = { pinned: new Map(), leftOut: [], bytes: 0 };
  #listener: () => void = () => undefined;
  /** Native sessions before this one. */
  #epoch = 0;
  #closed = false;

  constructor(options: ResidencyOptions) {
    this.#options = options;
    this.maxSlots = options.maxSlots;
    this.#loadsMax = options.maxConcurrentLoads ?? DEFAULT_CONCURRENT_LOADS;
    this.#now = options.now ?? (() => performance.now());
    const retryMs = options.failureRetryMs ?? DEFAULT_FAILURE_RETRY_MS;
    this.#failures = new LoadFailures(retryMs, this.#now);
    this.#pinRetries = new PinRetries(retryMs, (generation) => this.#requestPin(generation));
    this.#book = new SlotBook(options.maxSlots, options.maxBytes);
    this.#release = new SlotRelease(this.#book, options, () => this.#pump());
    options.images.onRetired((digest) => this.#retire(digest));
  }

  tryAcquire(generation: AdapterGeneration): number | undefined | LoramuxError {
    const { digest } = generation;
    let entry = this.#book.get(digest);
    if (entry === undefined) {
      const refusal = this.#failures.tell(digest) ?? this.#refusal(generation);
      if (refusal !== undefined) return refusal;
      entry = this.#newEntry(generation);
    }
    const held = this.#hold(entry);
    if (held !== undefined) return held;
    if (entry.state === 'resident') return this.#acquire(entry);
    if (!entry.wanted) this.#counts.misses++;
    entry.wanted = true;
    this.#enqueue(entry);
    return undefined;
  }

  waitsForRoom({ digest }: AdapterGeneration): boolean {
    return this.#book.get(digest)?.state === 'waiting' && this.#loads.size < this.#loadsMax;
  }

  release(generation: AdapterGeneration): void {
    const entry = this.#book.get(generation.digest);
    if (entry === undefined || entry.references === 0) {
      throw new LoramuxError(
        'internal_error',
        `Adapter ${generation.digest} was released more often than it was acquired.`,
      );
    }
    entry.references--;
    this.#book.touch(entry);
    this.#settle(entry);
    this.#pump();
  }

  forget(generation: AdapterGeneration): void {
    const { digest } = generation;
    this.#failures.nobodyWaits(digest);
    const entry = this.#book.get(digest);
    if (entry === undefined) return;
    entry.wanted = false;
    this.#settle(entry);
    this.#pump();
  }

  prefetch(generation: AdapterGeneration): void {
    const { digest } = generation;
    if (this.#closed || this.#book.get(digest) !== undefined || this.#failures.has(digest)) return;
    if (this.#refusal(generation) !== undefined) return;
    const entry = this.#newEntry(generation);
    if (this.#hasRoomToSpare(entry) && this.#hold(entry) === undefined) {
      this.#book.add(entry);
      this.#start(entry);
    } else {
      this.#options.images.prefetchImage(generation);
    }
  }

  slotsLost(): void {
    this.#epoch += 1;
    for (const load of this.#loads) this.#lostLoads.add(load);
    this.#loads.clear();
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
      this.#waiting.add(entry);
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
      const refusal = this.#refusal(generation);
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
      ...this.#counts,
      evictions: this.#release.evictions,
      freesRefused: this.#release.refused,
      loadsByTier: { ...this.#counts.loadsByTier },
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
    for (const entry of this.#waiting) {
      entry.wanted = false;
      entry.pinned = false;
      this.#waiters.settle(entry, error);
      this.#settle(entry);
    }
    await Promise.all([...this.#loads, ...this.#lostLoads]);
  }

  #acquire(entry: SlotEntry): number {
    if (!entry.wanted) this.#counts.hits++;
    // Its name came back.
    if (entry.leaving === 'retired') this.#release.stay(entry);
    entry.wanted = false;
    entry.references++;
    this.#book.touch(entry);
    return entry.slot;
  }

  /** Why a load cannot begin, now or ever. */
  #refusal(generation: AdapterGeneration): LoramuxError | undefined {
    if (this.#closed) return shuttingDown();
    return this.#neverFits(generation);
  }

  #neverFits(generation: AdapterGeneration): LoramuxError | undefined {
    const { maxBytes, loraDtype } = this.#options;
    if (this.#pins.pinned.has(generation.digest)) return undefined;
    const slotBytes = slotBytesOf(generation, loraDtype);
    if (slotBytes <= maxBytes - this.#pins.bytes && this.maxSlots > 0) return undefined;
    const beside =
      this.#pins.bytes === 0 ? '' : `, of which ${this.#pins.bytes} belong to pinned adapters`;
    return new LoramuxError(
      'adapter_never_fits',
      `The adapter takes ${slotBytes} bytes of adapter memory, which has ` +
        `${maxBytes} bytes in ${this.maxSlots} slots${beside}.`,
    );
  }

  /** Pins took the room of what waits: it is told now instead of waiting for ever. */
  #refuseWhatNeverFits(): void {
    let refused = false;
    for (const entry of this.#waiting) {
      const error = this.#neverFits(entry.generation);
      if (error === undefined) continue;
      refused = true;
      this.#fail(entry, error, false);
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

  /** Waits for room, unless it is on its way already. */
  #enqueue(entry: SlotEntry): void {
    if (this.#book.get(entry.generation.digest) !== entry) {
      this.#book.add(entry);
      this.#waiting.add(entry);
    }
    this.#pump();
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
      this.#start(entry);
    }
  }

  #start(entry: SlotEntry): void {
    this.#book.assign(entry);
    entry.state = 'loading';
    const epoch = this.#epoch;
    const load = this.#load(entry, epoch).finally(() => {
      this.#lostLoads.delete(load);
      if (epoch !== this.#epoch) return;
      this.#loads.delete(load);
      this.#settle(entry);
      this.#pump();
      this.#listener();
    });
    this.#loads.add(load);
  }

  async #load(entry: SlotEntry, epoch: number): Promise<void> {
    const { images, native, onEvent } = this.#options;
    const { digest } = entry.generation;
    const startMs = this.#now();
    let opened: OpenedImage | undefined;
    try {
      opened = await images.openImage(entry.generation);
      if (epoch !== this.#epoch) return;
      const { bytes } = await native.loadAdapter(entry.slot, opened.image);
      if (epoch !== this.#epoch) return;
      this.#book.correctBytes(entry, bytes);
      entry.state = 'resident';
      this.#book.touch(entry);
      const ms = this.#now() - startMs;
      this.#counts.loads++;
      this.#counts.loadsByTier[opened.tier]++;
      this.#counts.loadMsSum += ms;
      onEvent?.({ kind: 'loaded', digest, bytes, ms, tier: opened.tier });
      if (!isAwaited(entry) && !entry.pinned) onEvent?.({ kind: 'prefetched', digest });
      this.#pinRetries.forget(digest);
      this.#waiters.settle(entry, undefined);
      // At once: another load that ends now may evict it.
      this.#settle(entry);
    } catch (error) {
      if (epoch !== this.#epoch) return;
      this.#counts.loadFailures++;
      onEvent?.({ kind: 'load_failed', digest, error });
      if (entry.pinned && !this.#closed) this.#pinRetries.failed(entry.generation);
      this.#fail(entry, loadError(error), true);
    } finally {
      opened?.release();
    }
  }

  /** The load did not succeed, or cannot begin: tells everybody who waits for it. */
  #fail(entry: SlotEntry, error: LoramuxError, lasting: boolean): void {
    this.#waiting.delete(entry);
    this.#release.stay(entry);
    this.#book.remove(entry);
    this.#failures.remember(entry.generation.digest, error, entry.wanted, lasting);
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

const shuttingDown = (): LoramuxError =>
  new LoramuxError('shutting_down', 'The server is shutting down.');
