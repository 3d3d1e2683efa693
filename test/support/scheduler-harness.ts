/** A scheduler without an engine: groups from a few numbers, steps that always succeed. */
import type {
  AdapterGeneration,
  AdapterResidency,
  WeightedAdapter,
} from '../../src/adapters/types.ts';
import type { SamplingParams } from '../../src/engine/types.ts';
import { rootHash } from '../../src/kvcache/block-hash.ts';
import type { SchedulerLimits } from '../../src/scheduler/limits.ts';
import { Scheduler } from '../../src/scheduler/scheduler.ts';
import { type Sequence, SequenceGroup } from '../../src/scheduler/sequence.ts';
import type { StepPlan } from '../../src/scheduler/step-plan.ts';
import { engineRequest } from './engine-harness.ts';

export interface GroupSpec {
  prompt: readonly number[];
  adapter?: AdapterGeneration;
  /** Several, instead of one; ordered by digest. */
  adapters?: readonly WeightedAdapter[];
  n?: number;
  sampling?: Partial<SamplingParams>;
}

export class SchedulerHarness {
  readonly scheduler: Scheduler;
  nowMs = 0;
  #numGroups = 0;

  constructor(limits: Partial<SchedulerLimits> = {}, residency?: AdapterResidency) {
    this.scheduler = new Scheduler(
      {
        blockSize: 4,
        numBlocks: 32,
        maxSequences: 8,
        maxTokensPerStep: 16,
        maxLogitRowsPerStep: 16,
        adapterWaitMsMax: 100,
        prefixCaching: true,
        dynamicRopeMaxPositions: undefined,
        ...limits,
      },
      residency,
    );
  }

  submit(spec: GroupSpec): SequenceGroup {
    const order = this.#numGroups++;
    const request = engineRequest(spec, String(order));
    const { adapters } = request;
    const lane = this.scheduler.waiting.laneFor(adapters);
    const root = rootHash({ adapters, cacheSalt: '' });
    const group = new SequenceGroup(request, order, lane, root);
    this.scheduler.submit(group);
    return group;
  }

  plan(): StepPlan {
    return this.scheduler.plan(this.nowMs);
  }

  /** Plans a step and lets it succeed; every sampled token is `token`. What was scheduled. */
  step(token = 1): string[] {
    const plan = this.plan();
    const shown = show(plan);
    this.commit(plan, token);
    return shown;
  }

  commit(plan: StepPlan, token = 1): void {
    plan.reservation.commit();
    for (const entry of plan.entries) {
      this.scheduler.advance(entry);
      if (!entry.samples) continue;
      const { sequence } = entry;
      if (sequence.isCarrier) this.scheduler.fork(sequence.group);
      sequence.append(token);
      if (sequence.numOutput >= sequence.group.request.sampling.maxTokens) {
        this.scheduler.finish(sequence);
      }
    }
  }
}

/** Entries as "request[.choice]:start+count", in packet order. */
export function show(plan: StepPlan): string[] {
  return plan.entries.map(({ sequence, start, count }) => `${name(sequence)}:${start}+${count}`);
}

export function name(sequence: Sequence): string {
  const { group, index } = sequence;
  return group.sequences.length === 1 ? group.request.id : `${group.request.id}.${index}`;
}
