/** Loads under way: from an image to a slot. What they mean for others is their caller's. */
import type { OpenedImage } from '../service-types.ts';
import type { SlotBook, SlotEntry } from './slot-book.ts';
import type { ResidencyOptions } from './types.ts';

/** Told how a load ended, and then that it is over. None is told of a load whose slot was lost. */
export interface LoadHooks {
  loaded(entry: SlotEntry): void;
  failed(entry: SlotEntry, error: unknown): void;
  over(entry: SlotEntry): void;
}

export class SlotLoads {
  readonly counts = {
    loads: 0,
    loadFailures: 0,
    loadMsSum: 0,
    loadsByTier: { host: 0, disk: 0, registry: 0 },
  };
  readonly #options: Pick<ResidencyOptions, 'images' | 'native' | 'onEvent'>;
  readonly #book: SlotBook;
  readonly #now: () => number;
  readonly #hooks: LoadHooks;
  readonly #running = new Set<Promise<void>>();
  /** Into slots that were lost; they change nothing any more. */
  readonly #lost = new Set<Promise<void>>();
  /** Native sessions before this one. */
  #epoch = 0;

  constructor(
    options: Pick<ResidencyOptions, 'images' | 'native' | 'onEvent'>,
    book: SlotBook,
    now: () => number,
    hooks: LoadHooks,
  ) {
    this.#options = options;
    this.#book = book;
    this.#now = now;
    this.#hooks = hooks;
  }

  get size(): number {
    return this.#running.size;
  }

  /** Gives the entry a slot and fills it. */
  start(entry: SlotEntry): void {
    this.#book.assign(entry);
    entry.state = 'loading';
    const epoch = this.#epoch;
    const load = this.#load(entry, epoch).finally(() => {
      this.#lost.delete(load);
      if (epoch !== this.#epoch) return;
      this.#running.delete(load);
      this.#hooks.over(entry);
    });
    this.#running.add(load);
  }

  /** The slots are gone. */
  lose(): void {
    this.#epoch += 1;
    for (const load of this.#running) this.#lost.add(load);
    this.#running.clear();
  }

  /** Resolves when those under way have ended, lost ones too. */
  async idle(): Promise<void> {
    await Promise.all([...this.#running, ...this.#lost]);
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
      this.counts.loads++;
      this.counts.loadsByTier[opened.tier]++;
      this.counts.loadMsSum += ms;
      onEvent?.({ kind: 'loaded', digest, bytes, ms, tier: opened.tier });
      this.#hooks.loaded(entry);
    } catch (error) {
      if (epoch !== this.#epoch) return;
      this.counts.loadFailures++;
      onEvent?.({ kind: 'load_failed', digest, error });
      this.#hooks.failed(entry, error);
    } finally {
      opened?.release();
    }
  }
}
