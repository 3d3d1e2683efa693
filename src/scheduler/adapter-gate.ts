/**
 * One reference per group to each of its adapters, all or none, held while any of its sequences is in
 * the batch.
 */
import type { AdapterResidency } from '../adapters/types.ts';
import { LoramuxError } from '../errors.ts';
import type { Lane } from './lane.ts';
import { NO_SLOTS, type Sequence, type SequenceGroup } from './sequence.ts';

export class AdapterGate {
  readonly #residency: AdapterResidency | undefined;

  constructor(residency: AdapterResidency | undefined) {
    this.#residency = residency;
  }

  get hasResidency(): boolean {
    return this.#residency !== undefined;
  }

  /**
   * Makes the group's adapters usable. 'ready' took references if the group had none (`settle` gives
   * unused ones back); 'wait' means they are not all resident yet; an error is final.
   */
  open(group: SequenceGroup): 'ready' | 'wait' | LoramuxError {
    const { lane } = group;
    if (lane.generations.length === 0 || group.numRunning > 0) return 'ready';
    if (this.#residency === undefined) {
      return new LoramuxError('internal_error', 'This engine was built without adapters.');
    }
    const slots = this.#residency.tryAcquire(lane.generations);
    if (slots === undefined) {
      lane.loadWanted = true;
      return 'wait';
    }
    lane.loadWanted = false;
    if (slots instanceof LoramuxError) return slots;
    group.slots = slots;
    return 'ready';
  }

  /** Others that go first may keep the room that the lane's adapters wait for. */
  waitsForRoom({ generations }: Lane<Sequence>): boolean {
    return generations.length > 0 && this.#residency?.waitsForRoom(generations) === true;
  }

  /** Gives the references back unless a sequence of the group runs. */
  settle(group: SequenceGroup): void {
    if (group.slots.length === 0 || group.numRunning > 0) return;
    group.slots = NO_SLOTS;
    this.#residency?.release(group.lane.generations);
  }

  /** Nobody who waits may use the lane's adapters now: loads for them may be dropped. */
  withdraw(lane: Lane<Sequence>): void {
    if (!lane.loadWanted) return;
    lane.loadWanted = false;
    this.#residency?.forget(lane.generations);
  }
}
