/** One adapter reference per group, held while any of its sequences is in the batch. */
import type { AdapterResidency } from '../adapters/types.ts';
import { LoramuxError } from '../errors.ts';
import type { Lane } from './lane.ts';
import type { Sequence, SequenceGroup } from './sequence.ts';

export class AdapterGate {
  readonly #residency: AdapterResidency | undefined;

  constructor(residency: AdapterResidency | undefined) {
    this.#residency = residency;
  }

  get hasResidency(): boolean {
    return this.#residency !== undefined;
  }

  /**
   * Makes the group's adapter usable. 'ready' took a reference if the group had none (`settle` gives
   * an unused one back); 'wait' means the adapter is not resident yet; an error is final.
   */
  open(group: SequenceGroup): 'ready' | 'wait' | LoramuxError {
    const { lane } = group;
    if (lane.generation === undefined || group.numRunning > 0) return 'ready';
    if (this.#residency === undefined) {
      return new LoramuxError('internal_error', 'This engine was built without adapters.');
    }
    const slot = this.#residency.tryAcquire(lane.generation);
    if (slot === undefined) {
      lane.loadWanted = true;
      return 'wait';
    }
    lane.loadWanted = false;
    if (slot instanceof LoramuxError) return slot;
    group.slot = slot;
    return 'ready';
  }

  /** Others that go first may keep the room that the lane's adapter waits for. */
  waitsForRoom({ generation }: Lane<Sequence>): boolean {
    return generation !== undefined && this.#residency?.waitsForRoom(generation) === true;
  }

  /** Gives the reference back unless a sequence of the group runs. */
  settle(group: SequenceGroup): void {
    const { generation } = group.lane;
    if (generation === undefined || group.numRunning > 0 || group.slot < 0) return;
    group.slot = -1;
    this.#residency?.release(generation);
  }

  /** Nobody who waits may use the lane's adapter now: a load for it may be dropped. */
  withdraw(lane: Lane<Sequence>): void {
    if (!lane.loadWanted || lane.generation === undefined) return;
    lane.loadWanted = false;
    this.#residency?.forget(lane.generation);
  }
}
