/** Frees slots: now, as soon as nobody uses them, or later when the session refuses. */
import { disown } from './claims.ts';
import { isIdle, type SlotBook, type SlotEntry } from './slot-book.ts';
import type { ResidencyOptions } from './types.ts';

/** Pause before a refused free is tried again, milliseconds. */
export const FREE_RETRY_MS = 50;

export class SlotRelease {
  readonly #book: SlotBook;
  readonly #options: Pick<ResidencyOptions, 'native' | 'onEvent'>;
  readonly #onRetry: () => void;
  /** To be freed as soon as nobody uses them. */
  readonly #leaving = new Set<SlotEntry>();
  #retry: NodeJS.Timeout | undefined;
  #closed = false;
  evictions = 0;
  refused = 0;

  /** @param onRetry what was refused may be freed now. */
  constructor(
    book: SlotBook,
    options: Pick<ResidencyOptions, 'native' | 'onEvent'>,
    onRetry: () => void,
  ) {
    this.#book = book;
    this.#options = options;
    this.#onRetry = onRetry;
  }

  /** It goes as soon as nobody uses it. */
  leave(entry: SlotEntry, why: 'request' | 'retired'): void {
    entry.leaving = why;
    this.#leaving.add(entry);
  }

  stay(entry: SlotEntry): void {
    entry.leaving = undefined;
    this.#leaving.delete(entry);
  }

  freeAllUnused(): void {
    for (const entry of this.#leaving) this.freeUnused(entry);
  }

  /** Frees what is to leave, unless it is in use. */
  freeUnused(entry: SlotEntry): void {
    const { leaving } = entry;
    if (leaving === undefined || entry.stuck || !isIdle(entry) || !this.#free(entry)) return;
    const { digest } = entry.generation;
    if (leaving === 'retired') {
      this.#options.onEvent?.({ kind: 'retired', digest });
    } else {
      this.evictions++;
      this.#options.onEvent?.({ kind: 'evicted', digest, reason: 'request' });
    }
  }

  /** Evicts until the adapter fits; evicts nothing when it cannot fit yet. */
  makeRoom(entry: SlotEntry): boolean {
    const victims = this.#book.victims(entry);
    if (victims === undefined) return false;
    for (const victim of victims) {
      if (!this.#free(victim)) return this.makeRoom(entry);
      this.evictions++;
      const { digest } = victim.generation;
      this.#options.onEvent?.({ kind: 'evicted', digest, reason: 'room' });
    }
    return true;
  }

  /** Tries no more refused frees. */
  close(): void {
    this.#closed = true;
    clearTimeout(this.#retry);
  }

  #free(entry: SlotEntry): boolean {
    const { digest } = entry.generation;
    try {
      this.#options.native.freeAdapter(entry.slot);
    } catch (error) {
      this.refused++;
      entry.stuck = true;
      this.#options.onEvent?.({ kind: 'free_refused', digest, error });
      this.#retryLater();
      return false;
    }
    this.#leaving.delete(entry);
    this.#book.remove(entry);
    const { unhold } = entry;
    entry.unhold = undefined;
    disown(entry);
    unhold?.();
    return true;
  }

  #retryLater(): void {
    if (this.#closed) return;
    this.#retry ??= setTimeout(() => {
      this.#retry = undefined;
      for (const entry of this.#book.values()) entry.stuck = false;
      this.#onRetry();
    }, FREE_RETRY_MS).unref();
  }
}
