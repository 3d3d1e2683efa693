/** What one step will run: which sequences, how many tokens of each, which rows of logits. */
import type { WeightedAdapter } from '../adapters/types.ts';
import type { LoramuxError } from '../errors.ts';
import type { StepReservation } from '../kvcache/reservation.ts';
import { byArrival } from './lane.ts';
import type { Sequence, SequenceGroup } from './sequence.ts';

export interface ScheduledSequence {
  sequence: Sequence;
  /** Positions [start, start + count) are computed. */
  start: number;
  count: number;
  /** Positions [scoreFrom, scoreFrom + numScored) yield prompt log-probabilities. */
  scoreFrom: number;
  numScored: number;
  /** The last position yields a new token. */
  samples: boolean;
}

/** Reused from step to step; entries come from a spare list. */
export class StepPlan {
  readonly reservation: StepReservation;
  readonly entries: ScheduledSequence[] = [];
  numTokens = 0;
  numRows = 0;
  numPreempted = 0;
  /** Groups whose adapter can never be used; the engine ends them. */
  readonly rejected: { group: SequenceGroup; error: LoramuxError }[] = [];
  readonly #spare: ScheduledSequence[] = [];

  constructor(reservation: StepReservation) {
    this.reservation = reservation;
  }

  reset(): void {
    while (this.entries.length > 0) this.#spare.push(this.entries.pop()!);
    this.rejected.length = 0;
    this.numTokens = 0;
    this.numRows = 0;
    this.numPreempted = 0;
  }

  add(sequence: Sequence, start: number, count: number): void {
    const { group } = sequence;
    const scoreFrom = Math.max(start, group.numScored);
    const numScored = Math.max(0, Math.min(start + count, group.numToScore) - scoreFrom);
    const samples = start + count === sequence.numTokens && group.request.sampling.maxTokens > 0;
    const entry = this.#spare.pop();
    if (entry === undefined) {
      this.entries.push({ sequence, start, count, scoreFrom, numScored, samples });
    } else {
      Object.assign(entry, { sequence, start, count, scoreFrom, numScored, samples });
      this.entries.push(entry);
    }
    this.numTokens += count;
    this.numRows += numScored + (samples ? 1 : 0);
  }

  /** Takes a sequence that is being preempted out again, with its blocks and its budget. */
  remove(sequence: Sequence): void {
    const at = this.entries.findIndex((entry) => entry.sequence === sequence);
    if (at < 0) return;
    const entry = this.entries.splice(at, 1)[0]!;
    this.reservation.drop(sequence.table);
    this.numTokens -= entry.count;
    this.numRows -= entry.numScored + (entry.samples ? 1 : 0);
    this.#spare.push(entry);
  }

  /** Base first, then by adapter slots and weights, so that segments are few and long. */
  sort(): void {
    this.entries.sort(bySegment);
  }
}

function bySegment(a: ScheduledSequence, b: ScheduledSequence): number {
  const groupA = a.sequence.group;
  const groupB = b.sequence.group;
  const order =
    groupA.lane === groupB.lane
      ? byWeights(groupA.request.adapters, groupB.request.adapters)
      : bySlots(groupA.slots, groupB.slots);
  return order || byArrival(a.sequence, b.sequence);
}

/** As words by their letters: the base has none, and is first. */
function bySlots(a: readonly number[], b: readonly number[]): number {
  for (let i = 0; ; i++) {
    const slot = a[i] ?? -1;
    const other = b[i] ?? -1;
    if (slot !== other || slot < 0) return slot - other;
  }
}

/** Of the same adapters. */
function byWeights(a: readonly WeightedAdapter[], b: readonly WeightedAdapter[]): number {
  for (let i = 0; i < a.length; i++) {
    const difference = a[i]!.weight - b[i]!.weight;
    if (difference !== 0) return difference;
  }
  return 0;
}
