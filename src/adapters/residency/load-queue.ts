/** Adapters that wait for room, in the order in which they were asked for. */
import type { SlotEntry } from './slot-book.ts';

export class LoadQueue {
  #entries = new Set<SlotEntry>();
  /** The largest turn; whoever has a smaller one must be put in its place. */
  #last = Number.NEGATIVE_INFINITY;
  #isSorted = true;

  get size(): number {
    return this.#entries.size;
  }

  /** Adds an entry, or lets one that waits already go first where it was asked for earlier. */
  add(entry: SlotEntry, since: number): void {
    if (this.#entries.has(entry) && entry.since <= since) return;
    entry.since = since;
    this.#entries.add(entry);
    if (since < this.#last) this.#isSorted = false;
    else this.#last = since;
  }

  delete(entry: SlotEntry): void {
    this.#entries.delete(entry);
  }

  /** The first comes first; those that are iterated over may be deleted meanwhile. */
  [Symbol.iterator](): IterableIterator<SlotEntry> {
    if (!this.#isSorted) {
      this.#entries = new Set([...this.#entries].sort((a, b) => a.since - b.since));
      this.#isSorted = true;
    }
    return this.#entries.values();
  }
}
