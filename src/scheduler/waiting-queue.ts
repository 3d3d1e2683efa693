/**
 * Everything that waits, in one lane per adapter. A lane whose adapter is not resident is *parked*:
 * nobody looks at it again until the residency reports a change, so a step costs nothing for it.
 */
import type { WeightedAdapter } from '../adapters/types.ts';
import { FairShare } from './fairness.ts';
import { Lane as LaneOf } from './lane.ts';
import { MAX_IDLE_LANES } from './limits.ts';
import type { Sequence, SequenceGroup } from './sequence.ts';

type Lane = LaneOf<Sequence>;

const BASE_KEY = '';

function keyOf(adapters: readonly WeightedAdapter[]): string {
  if (adapters.length < 2) return adapters[0]?.generation.digest ?? BASE_KEY;
  return adapters.map(({ generation }) => generation.digest).join();
}

export class WaitingQueue {
  readonly fairShare = new FairShare();
  readonly #adapterWaitMsMax: number;
  readonly #lanes = new Map<string, Lane>();
  /** Lanes with waiting sequences: worth a try, or known to wait for their adapter. */
  readonly #ready = new Set<Lane>();
  readonly #parked = new Set<Lane>();
  /** Lanes without groups, oldest first; kept for their counters. */
  readonly #idle = new Set<Lane>();
  /** Since when a sequence is passed over for its adapter; insertion order is time order. */
  readonly #passedOverSinceMs = new Map<Sequence, number>();
  #length = 0;
  #numNew = 0;

  constructor(adapterWaitMsMax: number) {
    this.#adapterWaitMsMax = adapterWaitMsMax;
  }

  /** Waiting sequences. */
  get length(): number {
    return this.#length;
  }

  /** Of those, requests that never ran. */
  get numNew(): number {
    return this.#numNew;
  }

  /** The lane of these adapters, which are ordered by digest, for a new group. */
  laneFor(adapters: readonly WeightedAdapter[]): Lane {
    const key = keyOf(adapters);
    let lane = this.#lanes.get(key);
    if (lane === undefined) {
      const generations = adapters.map(({ generation }) => generation);
      lane = new LaneOf<Sequence>(key, generations);
      this.#lanes.set(key, lane);
    }
    return lane;
  }

  addGroup(group: SequenceGroup): void {
    group.lane.numGroups += 1;
    this.#idle.delete(group.lane);
  }

  removeGroup(group: SequenceGroup): void {
    const { lane } = group;
    lane.numGroups -= 1;
    if (lane.numGroups > 0) return;
    this.#idle.add(lane);
    if (this.#idle.size <= MAX_IDLE_LANES) return;
    const oldest = this.#idle.values().next().value!;
    this.#idle.delete(oldest);
    this.#lanes.delete(oldest.key);
  }

  push(sequence: Sequence): void {
    const { lane } = sequence.group;
    if (lane.queue.length === 0) {
      this.fairShare.lift(lane, this.#waitingLanes());
      this.#ready.add(lane);
    }
    lane.insert(sequence);
    this.#length += 1;
    if (sequence.status === 'waiting') this.#numNew += 1;
  }

  /** Takes a sequence out; the lane leaves with its last one. */
  remove(sequence: Sequence): void {
    const { lane } = sequence.group;
    if (!lane.remove(sequence)) return;
    this.#length -= 1;
    if (sequence.status === 'waiting') this.#numNew -= 1;
    this.#passedOverSinceMs.delete(sequence);
    if (lane.queue.length > 0) return;
    this.#ready.delete(lane);
    this.#parked.delete(lane);
    this.fairShare.leave(lane);
  }

  /** Lanes to try, fairest last (so that `pop` gives it). */
  candidates(): Lane[] {
    return [...this.#ready].sort(fairestLast);
  }

  /** Puts a lane that was charged back among the candidates, which stay sorted. */
  reinsert(candidates: Lane[], lane: Lane): void {
    let low = 0;
    let high = candidates.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (fairestLast(candidates[middle]!, lane) < 0) low = middle + 1;
      else high = middle;
    }
    candidates.splice(low, 0, lane);
  }

  /** The lane's adapter is not resident: its head is passed over from now on. */
  park(lane: Lane, nowMs: number): void {
    this.#ready.delete(lane);
    this.#parked.add(lane);
    const { head } = lane;
    if (head === undefined || this.#passedOverSinceMs.has(head)) return;
    this.#passedOverSinceMs.set(head, nowMs);
  }

  /** The residency changed: every parked lane is worth a try again. */
  unparkAll(): void {
    for (const lane of this.#parked) this.#ready.add(lane);
    this.#parked.clear();
  }

  /**
   * Arrival order of the sequence that was passed over longest, when that is longer than allowed and
   * it waits for room: nothing that arrived later is admitted before it. Infinity when nobody
   * starves. A slow load is no starvation: holding others back would not make it faster.
   */
  barrier(nowMs: number, waitsForRoom: (lane: Lane) => boolean): number {
    for (const [sequence, sinceMs] of this.#passedOverSinceMs) {
      if (nowMs - sinceMs <= this.#adapterWaitMsMax) break;
      if (waitsForRoom(sequence.group.lane)) return sequence.group.order;
    }
    return Infinity;
  }

  /** All waiting sequences, for shutdown and snapshots. */
  all(): Sequence[] {
    return [...this.#waitingLanes()].flatMap((lane) => lane.queue);
  }

  *#waitingLanes(): IterableIterator<Lane> {
    yield* this.#ready;
    yield* this.#parked;
  }
}

/** Larger counter first; of equal counters, the later arrival first. */
function fairestLast(a: Lane, b: Lane): number {
  return b.served - a.served || (b.head?.group.order ?? 0) - (a.head?.group.order ?? 0);
}
