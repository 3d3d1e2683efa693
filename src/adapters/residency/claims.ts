/**
 * What requests wait for: a claim is on one adapter, or on several that must be resident at the same
 * time. Requests for the same adapters share a claim.
 *
 * Whoever waits for several could keep some of them from others who wait for the rest, each in the
 * other's way for ever. So claims are served in the order in which they were made: an adapter that is
 * next to be loaded takes room from younger claims that wait for more than they have, never from older
 * ones. What was taken is loaded again, in the old claim's turn, when its request asks again. The
 * oldest claim only ever gains, so it is complete in the end, and then the next one is the oldest.
 */
import type { AdapterGeneration } from '../types.ts';
import type { SlotEntry } from './slot-book.ts';

export interface Claim {
  readonly generations: readonly AdapterGeneration[];
  /** Its turn: smaller is older. */
  readonly since: number;
  /** Of its adapters, those that wait, load or are resident. */
  readonly entries: Set<SlotEntry>;
}

/** Nothing that is claimed waits for room. */
function isOnItsWay({ generations, entries }: Claim): boolean {
  if (entries.size < generations.length) return false;
  for (const { state } of entries) if (state === 'waiting') return false;
  return true;
}

/** Whether a claim keeps the entry from making way for `next`. */
export function isKept(entry: SlotEntry, next: SlotEntry): boolean {
  for (const claim of entry.claims) {
    if (claim.since <= next.since || isOnItsWay(claim)) return true;
  }
  return false;
}

/** When the entry was asked for by those that claim it still. */
export function firstTurn({ claims }: SlotEntry): number | undefined {
  const turns = [...claims].map(({ since }) => since);
  return turns.length === 0 ? undefined : Math.min(...turns);
}

/** The entry is gone: those that claimed it have to ask again. */
export function disown(entry: SlotEntry): void {
  for (const claim of entry.claims) claim.entries.delete(entry);
  entry.claims.clear();
}

const keyOf = (generations: readonly AdapterGeneration[]): string =>
  generations.length === 1
    ? generations[0]!.digest
    : generations.map(({ digest }) => digest).join();

export class Claims {
  readonly #byKey = new Map<string, Claim>();
  #turns = 0;

  get(generations: readonly AdapterGeneration[]): Claim | undefined {
    return this.#byKey.get(keyOf(generations));
  }

  values(): IterableIterator<Claim> {
    return this.#byKey.values();
  }

  /** The turn of who asks now. */
  turn(): number {
    return this.#turns++;
  }

  /** Claims the entries, one for each generation; a claim that there is keeps its turn. */
  add(generations: readonly AdapterGeneration[], entries: readonly SlotEntry[]): Claim {
    let claim = this.get(generations);
    if (claim === undefined) {
      claim = { generations, since: this.turn(), entries: new Set() };
      this.#byKey.set(keyOf(generations), claim);
    }
    for (const entry of entries) {
      claim.entries.add(entry);
      entry.claims.add(claim);
    }
    return claim;
  }

  /** Ends a claim; the entries that it had may have nobody who waits for them now. */
  drop(claim: Claim): readonly SlotEntry[] {
    this.#byKey.delete(keyOf(claim.generations));
    const entries = [...claim.entries];
    claim.entries.clear();
    for (const entry of entries) entry.claims.delete(claim);
    return entries;
  }
}
