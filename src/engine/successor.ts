/**
 * The step after the one in flight, packed while that one runs. When every sequence of the batch
 * decodes and nobody waits, all of the next step is known but the tokens that are being sampled: it
 * holds the same sequences, one position on. So it is packed ahead, and once the tokens are there it
 * is dispatched before they are even committed. Whatever changes the batch meanwhile (a sequence
 * that ends, an arrival, a cancellation, a bad row, a lack of blocks) leaves the way free for the
 * ordinary plan, which then finds nothing changed but blocks that it would have taken itself.
 */
import type { StepPacket, StepResult } from '../native/addon-types.ts';
import type { Scheduler } from '../scheduler/scheduler.ts';
import type { ScheduledSequence, StepPlan } from '../scheduler/step-plan.ts';
import type { StepPacker } from './packer.ts';

export class Successor {
  readonly #scheduler: Scheduler;
  readonly #packer: StepPacker;
  #packet: StepPacket | undefined;

  constructor(scheduler: Scheduler, packer: StepPacker) {
    this.#scheduler = scheduler;
    this.#packer = packer;
  }

  /**
   * Prepares what follows `plan`, which was just dispatched. Overwrites the packer's packet, which
   * the native session has copied. Blocks that sequences grow into are taken now: the next plan
   * takes them first of all, so nobody else could have had them.
   */
  prepare(plan: StepPlan): void {
    this.#packet = undefined;
    const { running, waiting, pool, limits } = this.#scheduler;
    const { entries } = plan;
    if (waiting.length > 0 || entries.length !== running.length) return;
    if (!entries.every(goesOn)) return;
    const full = entries.filter(
      ({ sequence, start }) => sequence.table.length * limits.blockSize <= start + 1,
    );
    if (full.length > pool.numFree) return;
    for (const { sequence } of full) sequence.table.push(pool.allocate());
    this.#packet = this.#packer.pack(plan, 1);
  }

  /**
   * The successor of `plan` with the tokens of its result; undefined when the batch is not what it
   * was prepared for. Gives a prepared packet at most once.
   */
  take(plan: StepPlan, result: StepResult): StepPacket | undefined {
    const packet = this.#packet;
    this.#packet = undefined;
    if (packet === undefined || this.#scheduler.waiting.length > 0) return undefined;
    if (result.rowStatus?.some((status) => status !== 0)) return undefined;
    const { history, historyStart, maskSlots } = packet.sampling;
    for (let row = 0; row < plan.entries.length; row++) {
      const { sequence } = plan.entries[row]!;
      const { stopTokenIds, minTokens } = sequence.group.request.sampling;
      const tokenId = result.tokenIds[row]!;
      if (stopTokenIds.has(tokenId) && sequence.numOutput >= minTokens) return undefined;
      packet.inputIds[row] = tokenId;
      // They may have moved since.
      if (sequence.masks !== undefined) maskSlots[row] = sequence.masks.slot;
      const end = historyStart[row + 1]!;
      if (end > historyStart[row]!) history[end - 1] = tokenId;
    }
    return packet;
  }
}

/** Decodes, and its next step needs nothing of this one but the token. */
function goesOn({ sequence, count, samples, numScored }: ScheduledSequence): boolean {
  const { sampling } = sequence.group.request;
  return (
    count === 1 &&
    samples &&
    numScored === 0 &&
    !sequence.isCarrier &&
    // Which of them come next depends on the token.
    sampling.bannedSequences === undefined &&
    sequence.numOutput + 1 < sampling.maxTokens
  );
}
