/**
 * The waiting sequences of one adapter, of the base, or of one set of adapters whatever their weights,
 * first come first served.
 */
import type { AdapterGeneration } from '../adapters/types.ts';

/** What the order of a queue depends on. */
export interface Queued {
  readonly index: number;
  readonly group: { readonly order: number };
}

/** Order of arrival, then choice: decides who is served first and who is preempted last. */
export function byArrival(a: Queued, b: Queued): number {
  return a.group.order - b.group.order || a.index - b.index;
}

/** Inserts into an array sorted by arrival. Newcomers go to the end, so the scan starts there. */
export function insertByArrival<T extends Queued>(sorted: T[], item: T): void {
  let at = sorted.length;
  while (at > 0 && byArrival(sorted[at - 1]!, item) > 0) at -= 1;
  sorted.splice(at, 0, item);
}

export class Lane<T extends Queued> {
  readonly key: string;
  /** Ordered by digest; none is the base. */
  readonly generations: readonly AdapterGeneration[];
  /** Virtual counter: weighted tokens this adapter was served (see fairness.ts). */
  served = 0;
  /** Ordered by arrival; preempted sequences keep their first place. */
  readonly queue: T[] = [];
  /** Unfinished groups of this adapter; a lane at 0 is idle. */
  numGroups = 0;
  /** The residency was asked, answered "not yet" and still works for this lane. */
  loadWanted = false;

  constructor(key: string, generations: readonly AdapterGeneration[]) {
    this.key = key;
    this.generations = generations;
  }

  get head(): T | undefined {
    return this.queue[0];
  }

  insert(item: T): void {
    insertByArrival(this.queue, item);
  }

  remove(item: T): boolean {
    const at = this.queue.indexOf(item);
    if (at >= 0) this.queue.splice(at, 1);
    return at >= 0;
  }
}
