/** A copy of the engine's state between events, and what must always hold of it. */
import {
  type CacheSnapshot,
  cacheViolations,
  idleCacheViolations,
  snapshotCache,
  snapshotTable,
} from '../kvcache/invariants.ts';
import type { Scheduler } from '../scheduler/scheduler.ts';
import type { Sequence, SequenceGroup, SequenceStatus } from '../scheduler/sequence.ts';

export interface SequenceSnapshot {
  holder: string;
  status: SequenceStatus;
  numTokens: number;
  numComputed: number;
  numBlocks: number;
}

export interface EngineSnapshot {
  cache: CacheSnapshot;
  sequences: SequenceSnapshot[];
  numRunning: number;
  numWaiting: number;
  maxSequences: number;
  /** Adapter references the engine holds, by generation digest. */
  adapterReferences: Map<string, number>;
}

export function takeSnapshot(scheduler: Scheduler, groups: SequenceGroup[]): EngineSnapshot {
  const all = groups.flatMap((group) => group.sequences);
  const holding = all.filter(({ table }) => table.length > 0 || table.copySource >= 0);
  const tables = holding.map((sequence) =>
    snapshotTable(
      holderName(sequence),
      sequence.table,
      sequence.numComputed,
      sequence.hashes.slice(0, sequence.numRegistered),
    ),
  );
  const adapterReferences = new Map<string, number>();
  for (const { slots, lane } of groups) {
    if (slots.length === 0) continue;
    for (const { digest } of lane.generations) {
      adapterReferences.set(digest, (adapterReferences.get(digest) ?? 0) + 1);
    }
  }
  return {
    cache: snapshotCache(scheduler.pool, scheduler.prefix, scheduler.limits.blockSize, tables),
    sequences: all.map((sequence) => ({
      holder: holderName(sequence),
      status: sequence.status,
      numTokens: sequence.numTokens,
      numComputed: sequence.numComputed,
      numBlocks: sequence.table.length,
    })),
    numRunning: scheduler.running.length,
    numWaiting: scheduler.waiting.length,
    maxSequences: scheduler.limits.maxSequences,
    adapterReferences,
  };
}

/** Every violated invariant, as sentences; `idle` also demands that nothing is left. */
export function engineViolations(snapshot: EngineSnapshot, idle = false): string[] {
  const violations = idle ? idleCacheViolations(snapshot.cache) : cacheViolations(snapshot.cache);
  const count = (...statuses: SequenceStatus[]) =>
    snapshot.sequences.filter(({ status }) => statuses.includes(status)).length;
  if (count('running') !== snapshot.numRunning) {
    violations.push(`${count('running')} sequences run, the batch has ${snapshot.numRunning}`);
  }
  if (count('waiting', 'preempted') !== snapshot.numWaiting) {
    violations.push(
      `${count('waiting', 'preempted')} sequences wait, the queue has ${snapshot.numWaiting}`,
    );
  }
  if (snapshot.numRunning > snapshot.maxSequences) {
    violations.push(`${snapshot.numRunning} run, ${snapshot.maxSequences} may`);
  }
  for (const sequence of snapshot.sequences) {
    if (sequence.status !== 'running' && sequence.numBlocks > 0) {
      violations.push(`${sequence.holder} is ${sequence.status} but holds blocks`);
    }
    if (sequence.numComputed > sequence.numTokens) {
      violations.push(`${sequence.holder} computed more tokens than it has`);
    }
  }
  if (idle && snapshot.adapterReferences.size > 0) {
    violations.push(`idle, but ${snapshot.adapterReferences.size} adapters are referenced`);
  }
  if (idle && snapshot.sequences.length > 0) violations.push('idle, but requests live');
  return violations;
}

function holderName(sequence: Sequence): string {
  return `request ${sequence.group.request.id} choice ${sequence.index}`;
}
