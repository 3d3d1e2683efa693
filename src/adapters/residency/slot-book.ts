/** Which adapter has which slot, and how many bytes of adapter memory. Numbers only. */
import type { AdapterGeneration } from '../types.ts';
import { type Claim, isKept } from './claims.ts';
import type { LoadWaiter } from './load-waiters.ts';
import type { ResidencyState } from './types.ts';

/** An adapter that waits for room, is being loaded or is resident. */
export interface SlotEntry {
  readonly generation: AdapterGeneration;
  state: Exclude<ResidencyState, 'failed'>;
  /** -1 while waiting. */
  slot: number;
  bytes: number;
  references: number;
  /** Of requests that asked and have neither acquired nor forgotten it. */
  readonly claims: Set<Claim>;
  /** Its turn while it waits. */
  since: number;
  /** Explicit loads that wait for it. */
  readonly waiters: Set<LoadWaiter>;
  pinned: boolean;
  /** Why it is to be freed as soon as nobody uses or wants it, if it is. */
  leaving: 'request' | 'retired' | undefined;
  /** The session refused to free it; not a victim until the retry. */
  stuck: boolean;
  /** Keeps the file while the adapter is wanted, loading or referenced. */
  unhold: (() => void) | undefined;
}

/** @param bytes of adapter memory, as far as is known before it is loaded */
export function newEntry(generation: AdapterGeneration, pinned: boolean, bytes: number): SlotEntry {
  return {
    generation,
    state: 'waiting',
    slot: -1,
    bytes,
    references: 0,
    claims: new Set(),
    since: 0,
    waiters: new Set(),
    pinned,
    leaving: undefined,
    stuck: false,
    unhold: undefined,
  };
}

/** Somebody has a use for it beyond those that run with it. */
export function isAwaited(entry: SlotEntry): boolean {
  return entry.claims.size > 0 || entry.waiters.size > 0;
}

/** Its slot may be freed. */
export function isIdle(entry: SlotEntry): boolean {
  return entry.state === 'resident' && entry.references === 0 && !isAwaited(entry);
}

/** It may be freed to make room for any other. */
export function isVictim(entry: SlotEntry): boolean {
  return isIdle(entry) && !entry.pinned && !entry.stuck;
}

/** It may be freed to make room for `next`, though requests claim it that wait for others besides. */
function makesWay(entry: SlotEntry, next: SlotEntry): boolean {
  if (entry.state !== 'resident' || entry.references > 0 || entry.waiters.size > 0) return false;
  return !entry.pinned && !entry.stuck && entry.claims.size > 0 && !isKept(entry, next);
}

export class SlotBook {
  readonly maxSlots: number;
  readonly maxBytes: number;
  /** By digest; entries move to the end when they are used, so the first is the oldest. */
  readonly #entries = new Map<string, SlotEntry>();
  /** Highest number first, so that the lowest is popped. */
  #freeSlots: number[];
  #bytes = 0;

  constructor(maxSlots: number, maxBytes: number) {
    this.maxSlots = maxSlots;
    this.maxBytes = maxBytes;
    this.#freeSlots = allSlots(maxSlots);
  }

  get bytes(): number {
    return this.#bytes;
  }

  get numFreeSlots(): number {
    return this.#freeSlots.length;
  }

  get(digest: string): SlotEntry | undefined {
    return this.#entries.get(digest);
  }

  values(): IterableIterator<SlotEntry> {
    return this.#entries.values();
  }

  add(entry: SlotEntry): void {
    this.#entries.set(entry.generation.digest, entry);
  }

  /** Used just now. */
  touch(entry: SlotEntry): void {
    this.#entries.delete(entry.generation.digest);
    this.#entries.set(entry.generation.digest, entry);
  }

  /** Gives the entry a slot and its bytes; `victims` has made sure of both. */
  assign(entry: SlotEntry): void {
    entry.slot = this.#freeSlots.pop()!;
    this.#bytes += entry.bytes;
  }

  /** It takes another number of bytes than was thought. */
  correctBytes(entry: SlotEntry, bytes: number): void {
    this.#bytes += bytes - entry.bytes;
    entry.bytes = bytes;
  }

  /** Forgets the entry and takes back what it has. */
  remove(entry: SlotEntry): void {
    this.#entries.delete(entry.generation.digest);
    if (entry.slot < 0) return;
    this.#freeSlots.push(entry.slot);
    this.#bytes -= entry.bytes;
  }

  /** All slots are empty again; the entries stay and have none. */
  clearSlots(): void {
    this.#freeSlots = allSlots(this.maxSlots);
    this.#bytes = 0;
    for (const entry of this.#entries.values()) entry.slot = -1;
  }

  fitsWithoutEviction(entry: SlotEntry): boolean {
    return this.#fits(entry, this.#bytes, this.#freeSlots.length);
  }

  /**
   * Whom to free so that the entry fits, the least recently used first, those that somebody
   * claims last; undefined: not possible yet.
   */
  victims(entry: SlotEntry): SlotEntry[] | undefined {
    const victims: SlotEntry[] = [];
    let bytes = this.#bytes;
    let slots = this.#freeSlots.length;
    for (const mayGo of [isVictim, makesWay]) {
      for (const candidate of this.#entries.values()) {
        if (this.#fits(entry, bytes, slots)) return victims;
        if (!mayGo(candidate, entry)) continue;
        victims.push(candidate);
        bytes -= candidate.bytes;
        slots++;
      }
    }
    return this.#fits(entry, bytes, slots) ? victims : undefined;
  }

  #fits(entry: SlotEntry, bytes: number, slots: number): boolean {
    return slots > 0 && bytes + entry.bytes <= this.maxBytes;
  }
}

const allSlots = (maxSlots: number): number[] =>
  Array.from({ length: maxSlots }, (_, i) => maxSlots - 1 - i);
