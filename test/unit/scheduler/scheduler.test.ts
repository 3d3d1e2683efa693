import { describe, expect, it } from 'vitest';
import { cacheViolations, snapshotCache, snapshotTable } from '../../../src/kvcache/invariants.ts';
import { generation } from '../../support/engine-harness.ts';
import { name, SchedulerHarness, show } from '../../support/scheduler-harness.ts';

const prompt = (length: number, first = 0) =>
  Array.from({ length }, (_, i) => (i === 0 ? first : i));

function violations({ scheduler }: SchedulerHarness): string[] {
  const tables = scheduler.running.map((sequence) =>
    snapshotTable(name(sequence), sequence.table, sequence.numComputed, []),
  );
  return cacheViolations(snapshotCache(scheduler.pool, scheduler.prefix, 4, tables));
}

describe('plan', () => {
  it('decodes first and gives prompts the rest of the budget in chunks', () => {
    const harness = new SchedulerHarness({ maxTokensPerStep: 8 });
    harness.submit({ prompt: prompt(3, 1) });
    expect(harness.step()).toEqual(['0:0+3']);
    harness.submit({ prompt: prompt(20, 2) });
    expect(harness.step()).toEqual(['0:3+1', '1:0+7']);
    expect(harness.step()).toEqual(['0:4+1', '1:7+7']);
    expect(harness.step()).toEqual(['0:5+1', '1:14+6']);
    expect(harness.step()).toEqual(['0:6+1', '1:20+1']);
  });

  it('admits no more than maxSequences, counting unborn choices', () => {
    const harness = new SchedulerHarness({ maxSequences: 4 });
    harness.submit({ prompt: prompt(2, 1), n: 3 });
    harness.submit({ prompt: prompt(2, 2), n: 2 });
    harness.submit({ prompt: prompt(2, 3) });
    // Two places would be needed and one is free: what came later does not slip past.
    expect(harness.step()).toEqual(['0.0:0+2']);
    expect(harness.scheduler.running).toHaveLength(3);
  });

  it('asks for one row per scored prompt token and limits chunks by rows', () => {
    const harness = new SchedulerHarness({ maxLogitRowsPerStep: 8, maxSequences: 4 });
    harness.submit({ prompt: prompt(12), sampling: { promptLogprobs: 0 } });
    const first = harness.plan();
    expect(show(first)).toEqual(['0:0+8']);
    expect(first.entries[0]).toMatchObject({ scoreFrom: 0, numScored: 8, samples: false });
    harness.commit(first);
    const second = harness.plan();
    expect(show(second)).toEqual(['0:8+4']);
    expect(second.entries[0]).toMatchObject({ scoreFrom: 8, numScored: 3, samples: true });
    expect(second.numRows).toBe(4);
  });

  it('leaves the last token of a prompt when no row is left to sample from', () => {
    const harness = new SchedulerHarness({ maxLogitRowsPerStep: 8, maxSequences: 4 });
    harness.submit({ prompt: prompt(20, 1), sampling: { promptLogprobs: 0 } });
    harness.submit({ prompt: prompt(5, 2) });
    expect(harness.step()).toEqual(['0:0+8', '1:0+4']);
    // Decoding comes first, so it gets its row now.
    const plan = harness.plan();
    expect(show(plan)).toEqual(['0:8+7', '1:4+1']);
    expect(plan.numRows).toBe(8);
  });

  it('preempts the latest arrival, which is recomputed with what it generated', () => {
    const harness = new SchedulerHarness({ numBlocks: 4, prefixCaching: false });
    const early = harness.submit({ prompt: prompt(7, 1), sampling: { maxTokens: 8 } });
    const late = harness.submit({ prompt: prompt(3, 2), sampling: { maxTokens: 8 } });
    expect(harness.step()).toEqual(['0:0+7', '1:0+3']);
    expect(harness.step()).toEqual(['0:7+1', '1:3+1']);
    // Request 0 takes the fourth block for its ninth token; request 1 would need one, too.
    expect(harness.step()).toEqual(['0:8+1']);
    expect(late.sequences[0]!.status).toBe('preempted');
    expect(late.numRunning).toBe(0);
    expect(violations(harness)).toEqual([]);
    while (early.numLive > 0) expect(harness.step()[0]).toMatch(/^0:\d+\+1$/);
    expect(harness.step()).toEqual(['1:0+5']);
    while (late.numLive > 0) harness.step();
    expect(late.sequences[0]!.numOutput).toBe(8);
    expect(harness.scheduler.preemptions).toBe(1);
    expect(harness.scheduler.pool.numFree).toBe(4);
  });

  it('does not admit into blocks that an admitted prompt still needs', () => {
    // Rows limit the first prompt to 8 tokens a step, so there is a token budget left for others.
    const harness = new SchedulerHarness({ numBlocks: 8, maxLogitRowsPerStep: 8 });
    harness.submit({ prompt: prompt(24, 1), sampling: { promptLogprobs: 0 } });
    harness.submit({ prompt: prompt(8, 2) });
    expect(harness.step()).toEqual(['0:0+8']);
    expect(harness.scheduler.pool.numFree).toBe(6);
    expect(harness.step()).toEqual(['0:8+8']);
  });

  it('admits nobody into the room of who was just preempted', () => {
    const resident = {
      maxSlots: 1,
      tryAcquire: () => [0],
      waitsForRoom: () => false,
      release() {},
      forget() {},
      prefetch() {},
      onChange() {},
    };
    const limits = { numBlocks: 12, maxTokensPerStep: 64, prefixCaching: false };
    const harness = new SchedulerHarness(limits, resident);
    harness.submit({ prompt: prompt(8, 1) });
    const large = harness.submit({ prompt: prompt(36, 2) });
    expect(harness.step()).toEqual(['0:0+8', '1:0+36']);
    // Another adapter, which is next in fairness.
    const small = harness.submit({ prompt: prompt(3, 3), adapter: generation('a') });
    small.lane.served = 0;
    expect(harness.step()).toEqual(['0:8+1']);
    expect(large.sequences[0]!.status).toBe('preempted');
    expect(harness.step()).toEqual(['0:9+1', '2:0+3']);
  });
});

describe('prefix cache', () => {
  it('starts after the cached blocks', () => {
    const harness = new SchedulerHarness();
    const first = harness.submit({ prompt: prompt(10), sampling: { maxTokens: 1 } });
    harness.step();
    expect(first.numLive).toBe(0);
    const second = harness.submit({ prompt: [...prompt(8), 50, 51, 52] });
    expect(harness.step()).toEqual(['1:8+3']);
    expect(second.cachedPromptTokens).toBe(8);
    expect(harness.scheduler.prefixHitTokens).toBe(8);
    expect(harness.scheduler.prefixQueryTokens).toBe(21);
  });

  it('offers a block only after the step that filled it', () => {
    const harness = new SchedulerHarness();
    harness.submit({ prompt: prompt(8) });
    harness.submit({ prompt: prompt(8) });
    const plan = harness.plan();
    expect(show(plan)).toEqual(['0:0+8', '1:0+8']);
    expect([...harness.scheduler.prefix.entries()]).toEqual([]);
    harness.commit(plan);
    expect([...harness.scheduler.prefix.entries()]).toHaveLength(2);
    expect(violations(harness)).toEqual([]);
  });

  it('recomputes only the last token, in a copy, when everything is cached', () => {
    const harness = new SchedulerHarness();
    harness.submit({ prompt: prompt(8), sampling: { maxTokens: 1 } });
    harness.step();
    const again = harness.submit({ prompt: prompt(8) });
    const plan = harness.plan();
    expect(show(plan)).toEqual(['1:7+1']);
    const copies = new Int32Array(4);
    expect(plan.reservation.copies(copies)).toBe(1);
    const table = again.sequences[0]!.table;
    expect(copies[1]).toBe(table.blocks[1]);
    expect(copies[0]).not.toBe(copies[1]);
    harness.commit(plan);
    expect(violations(harness)).toEqual([]);
  });

  it('recomputes the last block when there is no room for a copy of it', () => {
    const harness = new SchedulerHarness({ numBlocks: 2 });
    harness.submit({ prompt: prompt(8), sampling: { maxTokens: 1 } });
    harness.step();
    harness.submit({ prompt: prompt(8), sampling: { maxTokens: 1 } });
    expect(harness.step()).toEqual(['1:4+4']);
    expect(harness.scheduler.pool.numFree).toBe(2);
  });

  it('is not read for prompts that are scored, until they are', () => {
    const harness = new SchedulerHarness();
    harness.submit({ prompt: prompt(8), sampling: { maxTokens: 1 } });
    harness.step();
    harness.submit({ prompt: prompt(8), sampling: { promptLogprobs: 0 } });
    expect(harness.step()).toEqual(['1:0+8']);
    expect(harness.scheduler.prefixQueryTokens).toBe(8);
  });

  it('is neither read nor written beyond the trained length of dynamic rope', () => {
    const harness = new SchedulerHarness({ dynamicRopeMaxPositions: 10 });
    harness.submit({ prompt: prompt(12), sampling: { maxTokens: 1 } });
    harness.step();
    expect([...harness.scheduler.prefix.entries()]).toEqual([]);
    harness.submit({ prompt: prompt(6), sampling: { maxTokens: 8 } });
    for (let i = 0; i < 8; i++) harness.step();
    // Blocks of positions 0-3 and 4-7; the next would reach position 11.
    expect([...harness.scheduler.prefix.entries()]).toHaveLength(2);
    expect(harness.scheduler.pool.numFree).toBe(32);
  });

  it('forgets the blocks of a sequence whose values were bad', () => {
    const harness = new SchedulerHarness();
    const group = harness.submit({ prompt: prompt(9) });
    harness.step();
    harness.scheduler.finish(group.sequences[0]!, true);
    expect([...harness.scheduler.prefix.entries()]).toEqual([]);
    expect(harness.scheduler.pool.numFreeCached).toBe(0);
  });
});

describe('choices', () => {
  it('share the prompt and each compute its last token', () => {
    const harness = new SchedulerHarness();
    const group = harness.submit({ prompt: prompt(7), n: 3 });
    expect(harness.step()).toEqual(['0.0:0+7']);
    const plan = harness.plan();
    expect(show(plan)).toEqual(['0.0:7+1', '0.1:6+1', '0.2:6+1']);
    const tables = group.sequences.map(({ table }) => Array.from(table.blocks.subarray(0, 2)));
    expect(new Set(tables.map((blocks) => blocks[0])).size).toBe(1);
    expect(new Set(tables.map((blocks) => blocks[1])).size).toBe(3);
    expect(plan.reservation.copies(new Int32Array(8))).toBe(2);
    expect(harness.scheduler.pool.numFree).toBe(32 - 4);
    harness.commit(plan);
    expect(violations(harness)).toEqual([]);
  });

  it('need no copy when the last prompt token begins a block', () => {
    const harness = new SchedulerHarness();
    harness.submit({ prompt: prompt(5), n: 2 });
    harness.step();
    const plan = harness.plan();
    expect(show(plan)).toEqual(['0.0:5+1', '0.1:4+1']);
    expect(plan.reservation.copies(new Int32Array(8))).toBe(0);
  });

  it('survive the end of the choice that computes the prompt', () => {
    const harness = new SchedulerHarness({ maxTokensPerStep: 8 });
    const group = harness.submit({ prompt: prompt(12), n: 2 });
    harness.step();
    const [first, second] = group.sequences;
    second!.endRequested = undefined;
    first!.endRequested = 'stop';
    harness.scheduler.finish(first!);
    expect(group.numLive).toBe(1);
    expect(group.sequences[0]!.status).toBe('finished');
    expect(group.sequences[0]!.endRequested).toBe('stop');
    expect(group.sequences[1]).toMatchObject({ status: 'running', endRequested: undefined });
    // The same sequence goes on, as choice 1.
    expect(group.sequences[1]).toBe(first);
    expect(harness.step()).toEqual(['0.1:8+4']);
    expect(harness.step()).toEqual(['0.1:12+1']);
  });

  it('take a copy that was planned out of the step when they are preempted', () => {
    const harness = new SchedulerHarness();
    const group = harness.submit({ prompt: prompt(7), n: 2 });
    harness.step();
    const plan = harness.plan();
    const [tokens, rows] = [plan.numTokens, plan.numRows];
    plan.remove(group.sequences[1]!);
    expect(show(plan)).toEqual(['0.0:7+1']);
    expect(plan.reservation.copies(new Int32Array(8))).toBe(0);
    expect([plan.numTokens, plan.numRows]).toEqual([tokens - 1, rows - 1]);
    plan.remove(group.sequences[1]!);
    expect(plan.numTokens).toBe(tokens - 1);
  });
});
