/**
 * Fair choice among adapters: the virtual token counter of Sheng et al. 2024 (arXiv 2401.00588).
 * The base counts as one adapter, and so does each set of adapters that requests name together,
 * whatever their weights: it has a counter of its own, beside those of its adapters.
 *
 * Each adapter's counter grows by INPUT_TOKEN_WEIGHT per prompt token computed for it (charged at
 * admission; tokens from the prefix cache are free) and by OUTPUT_TOKEN_WEIGHT per generated token.
 * The waiting adapter with the smallest counter is served next. An adapter that starts to wait is
 * lifted to the smallest counter of those that wait already, so that nobody saves up credit while
 * away. Recomputation after preemption is not charged: it is the engine's choice.
 *
 * Bound (theorem 4.4 there): while two adapters both have waiting requests that could run, the
 * service W they received over any interval differs by at most 2 * max(INPUT_TOKEN_WEIGHT * L,
 * OUTPUT_TOKEN_WEIGHT * M), with L the longest prompt and M the tokens the KV pool holds. An adapter
 * that is not resident "could not run": it keeps its small counter, so it is first when it can, and
 * `adapterWaitMsMax` bounds how long others may pass it while they have the room that it waits for.
 */
/** The part of a lane that fairness needs. */
interface Served {
  served: number;
}

export const INPUT_TOKEN_WEIGHT = 1;
export const OUTPUT_TOKEN_WEIGHT = 2;

export class FairShare {
  /** Counter of the last adapter that stopped waiting. */
  #lastServed = 0;

  /** A lane starts to wait; `others` are the lanes that wait already. */
  lift(lane: Served, others: Iterable<Served>): void {
    let least = Number.POSITIVE_INFINITY;
    for (const other of others) {
      if (other !== lane && other.served < least) least = other.served;
    }
    const floor = least === Number.POSITIVE_INFINITY ? this.#lastServed : least;
    if (lane.served < floor) lane.served = floor;
  }

  /** A lane has nothing waiting any more. */
  leave(lane: Served): void {
    this.#lastServed = lane.served;
  }

  chargeInput(lane: Served, tokens: number): void {
    lane.served += INPUT_TOKEN_WEIGHT * tokens;
  }

  chargeOutput(lane: Served, tokens: number): void {
    lane.served += OUTPUT_TOKEN_WEIGHT * tokens;
  }
}
