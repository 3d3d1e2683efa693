/**
 * Who enters the batch. The fairest adapter's first sequence is tried until one does not fit *now*:
 * that ends admission for this step, so large requests are not overtaken for ever. A sequence whose
 * adapter is not resident is passed over and holds nothing; see `WaitingQueue.barrier` for how long
 * it may have to wait for room.
 */
import type { BlockPool } from '../kvcache/block-pool.ts';
import type { AdapterGate } from './adapter-gate.ts';
import { admissionBlocks, blocksForTokens, fitsNow } from './admission-arithmetic.ts';
import { chunkTokens } from './chunk.ts';
import type { SchedulerLimits } from './limits.ts';
import type { PrefixReader } from './prefix-reader.ts';
import type { Sequence } from './sequence.ts';
import type { StepPlan } from './step-plan.ts';
import type { WaitingQueue } from './waiting-queue.ts';

/** What admission changes: the scheduler. */
export interface Batch {
  readonly limits: SchedulerLimits;
  readonly pool: BlockPool;
  readonly running: Sequence[];
  readonly waiting: WaitingQueue;
  enter(sequence: Sequence): void;
}

interface Start {
  /** Leading tokens whose blocks are shared whole. */
  sharedTokens: number;
  /** First position to compute. */
  position: number;
  /** The block after the shared ones is copied from this cached block; -1 for none. */
  copySource: number;
}

export class Admission {
  prefixQueryTokens = 0;
  prefixHitTokens = 0;
  promptTokens = 0;
  readonly #batch: Batch;
  readonly #gate: AdapterGate;
  readonly #reader: PrefixReader;
  /** Blocks that admitted prompts will still take. */
  #debtBlocks = 0;

  constructor(batch: Batch, gate: AdapterGate, reader: PrefixReader) {
    this.#batch = batch;
    this.#gate = gate;
    this.#reader = reader;
  }

  run(plan: StepPlan, nowMs: number): void {
    const { waiting, limits } = this.#batch;
    if (waiting.length === 0 || plan.numTokens >= limits.maxTokensPerStep) return;
    let places = this.#measure();
    if (places <= 0) return;
    const barrier = waiting.barrier(nowMs, (lane) => this.#gate.waitsForRoom(lane));
    const candidates = waiting.candidates();
    while (places > 0) {
      const lane = candidates.pop();
      if (lane === undefined) return;
      const head = lane.head;
      if (head === undefined) continue;
      if (head.group.order > barrier) {
        // An adapter kept for someone who may not enter would take the starving one's room.
        this.#gate.withdraw(lane);
        continue;
      }
      const needed = head.isCarrier ? head.group.numLive : 1;
      if (needed > places) return;
      const opened = this.#gate.open(head.group);
      if (opened === 'wait') {
        waiting.park(lane, nowMs);
      } else if (opened !== 'ready') {
        // All of the lane waited for the same load.
        for (const { group } of lane.queue) plan.rejected.push({ group, error: opened });
      } else if (this.#admit(head, plan)) {
        places -= needed;
        if (lane.head !== undefined) waiting.reinsert(candidates, lane);
      } else {
        this.#gate.settle(head.group);
        return;
      }
    }
  }

  /** Counts what running sequences still need; returns the free places in the batch. */
  #measure(): number {
    const { running, limits } = this.#batch;
    let unborn = 0;
    this.#debtBlocks = 0;
    for (const sequence of running) {
      if (sequence.isCarrier) unborn += sequence.group.numLive - 1;
      const total = blocksForTokens(sequence.numTokens, limits.blockSize);
      this.#debtBlocks += Math.max(0, total - sequence.table.length);
    }
    this.#debtBlocks += unborn;
    return limits.maxSequences - running.length - unborn;
  }

  /** Admits a sequence if it fits now; false changes nothing. */
  #admit(sequence: Sequence, plan: StepPlan): boolean {
    const { pool, limits, waiting } = this.#batch;
    const start = this.#start(sequence);
    if (start === undefined) return false;
    const count = chunkTokens(sequence, start.position, plan, limits);
    if (count === 0) return false;
    const { table, group } = sequence;
    const shared = start.sharedTokens / limits.blockSize;
    // References first: the allocations below must not overwrite what is shared.
    for (let i = 0; i < shared; i++) table.share(pool, this.#reader.hits[i]!);
    if (start.copySource >= 0) table.shareAsCopy(pool, start.copySource);
    if (!plan.reservation.extend(table, start.position + count)) {
      table.free(pool);
      throw new RangeError(`Admission promised blocks that the pool does not have`);
    }
    sequence.numComputed = start.position;
    sequence.numRegistered = shared;
    const total = blocksForTokens(sequence.numTokens, limits.blockSize);
    this.#debtBlocks += total - table.length + (sequence.isCarrier ? group.numLive - 1 : 0);
    plan.add(sequence, start.position, count);
    this.#account(sequence, start.position);
    waiting.remove(sequence);
    this.#batch.enter(sequence);
    return true;
  }

  /** Where to start computing, given the cache and the free blocks; undefined is "not now". */
  #start(sequence: Sequence): Start | undefined {
    const { pool, limits, running } = this.#batch;
    const hitTokens = this.#reader.match(sequence);
    const { hits } = this.#reader;
    const othersRunning = running.length > 0;
    let free = hits.reduce((count, block) => count + (pool.refCount(block) === 0 ? 1 : 0), 0);
    const fits = (sharedTokens: number, sharedFreeBlocks: number, copySourceFreeBlocks: number) =>
      fitsNow(
        admissionBlocks({
          numTokens: sequence.numTokens,
          sharedTokens,
          sharedFreeBlocks,
          copySourceFreeBlocks,
          blockSize: limits.blockSize,
        }),
        pool.numFree,
        this.#debtBlocks,
        limits.numBlocks,
        othersRunning,
      );
    if (hitTokens < sequence.numTokens) {
      if (!fits(hitTokens, free, 0)) return undefined;
      return { sharedTokens: hitTokens, position: hitTokens, copySource: -1 };
    }
    // Everything is cached, but the last token must be computed for its logits: in a copy of its
    // block, or, when there is no room for a copy beside the original, with the whole block again.
    const last = hits[hits.length - 1]!;
    const lastFree = pool.refCount(last) === 0 ? 1 : 0;
    free -= lastFree;
    const sharedTokens = hitTokens - limits.blockSize;
    if (fits(sharedTokens, free, lastFree)) {
      return { sharedTokens, position: sequence.numTokens - 1, copySource: last };
    }
    if (!fits(sharedTokens, free, 0)) return undefined;
    return { sharedTokens, position: sharedTokens, copySource: -1 };
  }

  /** Counters of a request's first admission; recomputation is not counted again. */
  #account(sequence: Sequence, cachedTokens: number): void {
    const { group } = sequence;
    if (group.cachedPromptTokens !== undefined) return;
    const length = group.prompt.length;
    group.cachedPromptTokens = cachedTokens;
    this.#batch.waiting.fairShare.chargeInput(group.lane, length - cachedTokens);
    this.promptTokens += length;
    if (this.#reader.readableTokens(group) === 0) return;
    this.prefixQueryTokens += length;
    this.prefixHitTokens += cachedTokens;
  }
}
