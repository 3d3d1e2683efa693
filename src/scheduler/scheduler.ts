/**
 * Decides, once per step, who runs how many tokens, and owns what a running sequence holds: blocks,
 * a place in the batch, a share of an adapter reference.
 *
 * Order of a plan: running sequences with one token to compute (decode), then running prompts in
 * order of arrival, then admission. A sequence without room preempts the latest arrival, which gives
 * everything back and is recomputed later (its cached blocks usually survive). The earliest arrival
 * is never preempted, so something always finishes. A plan costs O(running + admitted) plus one sort
 * of the adapters that wait and are worth a try (parked ones cost nothing).
 */
import type { AdapterResidency } from '../adapters/types.ts';
import { BlockHasher } from '../kvcache/block-hash.ts';
import { BlockPool } from '../kvcache/block-pool.ts';
import { PrefixCache } from '../kvcache/prefix-cache.ts';
import { StepReservation } from '../kvcache/reservation.ts';
import { AdapterGate } from './adapter-gate.ts';
import { Admission } from './admission.ts';
import { chunkTokens } from './chunk.ts';
import { insertByArrival } from './lane.ts';
import type { SchedulerLimits } from './limits.ts';
import { PrefixReader } from './prefix-reader.ts';
import type { Sequence, SequenceGroup } from './sequence.ts';
import { type ScheduledSequence, StepPlan } from './step-plan.ts';
import { WaitingQueue } from './waiting-queue.ts';

export class Scheduler {
  readonly limits: SchedulerLimits;
  readonly pool: BlockPool;
  readonly prefix: PrefixCache;
  readonly hasher: BlockHasher;
  readonly waiting: WaitingQueue;
  /** In the batch, ordered by arrival. */
  readonly running: Sequence[] = [];
  preemptions = 0;
  readonly #gate: AdapterGate;
  readonly #plan: StepPlan;
  readonly #prefixReader: PrefixReader;
  readonly #admission: Admission;

  constructor(limits: SchedulerLimits, residency: AdapterResidency | undefined) {
    this.limits = limits;
    this.pool = new BlockPool(limits.numBlocks);
    this.prefix = new PrefixCache(this.pool);
    this.hasher = new BlockHasher(limits.blockSize);
    this.waiting = new WaitingQueue(limits.adapterWaitMsMax);
    this.#gate = new AdapterGate(residency);
    this.#plan = new StepPlan(new StepReservation(this.pool, limits.blockSize));
    this.#prefixReader = new PrefixReader(limits, this.prefix, this.hasher);
    this.#admission = new Admission(this, this.#gate, this.#prefixReader);
  }

  get prefixQueryTokens(): number {
    return this.#admission.prefixQueryTokens;
  }

  get prefixHitTokens(): number {
    return this.#admission.prefixHitTokens;
  }

  get promptTokens(): number {
    return this.#admission.promptTokens;
  }

  submit(group: SequenceGroup): void {
    this.waiting.addGroup(group);
    this.waiting.push(group.carrier!);
  }

  /** The plan that `plan` gave last. */
  get current(): StepPlan {
    return this.#plan;
  }

  /** Plans and reserves one step. The plan is reused: it is valid until the next call. */
  plan(nowMs: number): StepPlan {
    const plan = this.#plan;
    plan.reset();
    this.#scheduleRunning(plan, true);
    this.#scheduleRunning(plan, false);
    // Who was just preempted for lack of room must not be admitted into that room again.
    if (plan.numPreempted === 0 || this.running.length === 0) this.#admission.run(plan, nowMs);
    plan.sort();
    return plan;
  }

  /** The step ran: its tokens are in the cache and full blocks become reusable. */
  advance(entry: ScheduledSequence): void {
    const { sequence } = entry;
    const { blockSize } = this.limits;
    sequence.numComputed = entry.start + entry.count;
    sequence.group.numScored = Math.max(
      sequence.group.numScored,
      entry.scoreFrom + entry.numScored,
    );
    const cacheable = this.#prefixReader.cacheableTokens(sequence.group);
    const full = Math.floor(Math.min(sequence.numComputed, cacheable) / blockSize);
    for (; sequence.numRegistered < full; sequence.numRegistered++) {
      const logical = sequence.numRegistered;
      const hash = sequence.hashAt(logical, this.hasher);
      this.prefix.register(hash, sequence.table.blocks[logical]!);
    }
  }

  /**
   * The carrier computed the prompt: the other living choices enter the batch (their places were
   * kept). They share its full blocks, copy the block of the last prompt token and compute that one
   * token themselves, each with its own seed.
   */
  fork(group: SequenceGroup): void {
    const { carrier } = group;
    if (carrier === undefined) return;
    const { blockSize } = this.limits;
    const shared = Math.floor((group.prompt.length - 1) / blockSize);
    group.carrier = undefined;
    for (const child of group.sequences) {
      if (child.status !== 'unborn') continue;
      for (let i = 0; i < shared; i++) child.table.share(this.pool, carrier.table.blocks[i]!);
      if ((group.prompt.length - 1) % blockSize > 0) {
        child.table.shareAsCopy(this.pool, carrier.table.blocks[shared]!);
      }
      child.numComputed = group.prompt.length - 1;
      for (let i = 0; i < shared && i < carrier.hashes.length; i++) {
        child.hashes.push(carrier.hashes[i]!);
      }
      child.numRegistered = Math.min(shared, carrier.numRegistered);
      this.enter(child);
    }
  }

  /** Puts a sequence that has its blocks and its adapter into the batch. */
  enter(sequence: Sequence): void {
    sequence.status = 'running';
    sequence.group.numRunning += 1;
    insertByArrival(this.running, sequence);
  }

  /**
   * Ends a choice and takes back what it holds. `poisoned` also drops its blocks from the prefix
   * cache. When the choice was to compute the prompt for others, another one takes over.
   */
  finish(choice: Sequence, poisoned = false): void {
    const { group } = choice;
    const index = choice.index;
    if (choice.isCarrier && !group.replaceCarrier()) group.carrier = undefined;
    const sequence = group.sequences[index]!;
    if (poisoned) {
      for (let i = 0; i < choice.table.length; i++) this.prefix.forget(choice.table.blocks[i]!);
    }
    if (sequence.status === 'running') this.#leave(sequence);
    else if (sequence.status !== 'unborn') this.waiting.remove(sequence);
    sequence.status = 'finished';
    group.numLive -= 1;
    if (group.numLive === 0) this.waiting.removeGroup(group);
    if (group.lane.queue.length === 0) this.#gate.withdraw(group.lane);
  }

  #scheduleRunning(plan: StepPlan, decode: boolean): void {
    // Victims are always behind the sequence they make room for, so the index stays valid.
    for (let i = 0; i < this.running.length; i++) {
      const sequence = this.running[i]!;
      const remaining = sequence.numTokens - sequence.numComputed;
      if ((remaining === 1) === decode) this.#schedule(sequence, plan);
    }
  }

  #schedule(sequence: Sequence, plan: StepPlan): void {
    const start = sequence.numComputed;
    for (;;) {
      const wanted = chunkTokens(sequence, start, plan, this.limits);
      if (wanted === 0) return;
      const room = (sequence.table.length + this.pool.numFree) * this.limits.blockSize - start;
      if (room > 0) {
        const count = Math.min(wanted, room);
        plan.reservation.extend(sequence.table, start + count);
        plan.add(sequence, start, count);
        return;
      }
      const victim = this.running[this.running.length - 1]!;
      this.#preempt(victim, plan);
      if (victim === sequence) return;
    }
  }

  #preempt(sequence: Sequence, plan: StepPlan): void {
    plan.remove(sequence);
    plan.numPreempted += 1;
    this.preemptions += 1;
    this.#leave(sequence);
    sequence.status = 'preempted';
    sequence.numComputed = 0;
    sequence.numRegistered = 0;
    this.waiting.push(sequence);
  }

  #leave(sequence: Sequence): void {
    const { group } = sequence;
    this.running.splice(this.running.lastIndexOf(sequence), 1);
    sequence.table.free(this.pool);
    sequence.masks?.close();
    sequence.masks = undefined;
    group.numRunning -= 1;
    this.#gate.settle(group);
  }
}
