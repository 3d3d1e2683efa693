import { describe, expect, it } from 'vitest';
import type { AdapterGeneration } from '../../../src/adapters/types.ts';
import { LoramuxError } from '../../../src/errors.ts';
import { generation } from '../../support/engine-harness.ts';
import { SchedulerHarness, show } from '../../support/scheduler-harness.ts';

const names = (generations: readonly AdapterGeneration[]) =>
  generations.map(({ digest }) => digest).join('+');

/** Says who is resident by hand and writes down what it is asked. */
class ManualResidency {
  readonly maxSlots = 4;
  readonly resident = new Map<string, number>();
  readonly failed = new Set<string>();
  /** Their load is under way. */
  readonly loading = new Set<string>();
  readonly calls: string[] = [];

  tryAcquire(
    generations: readonly AdapterGeneration[],
  ): readonly number[] | undefined | LoramuxError {
    this.calls.push(`acquire ${names(generations)}`);
    const slots: number[] = [];
    for (const { digest } of generations) {
      if (this.failed.has(digest)) return new LoramuxError('adapter_load_failed', digest);
      const slot = this.resident.get(digest);
      if (slot === undefined) return undefined;
      slots.push(slot);
    }
    return slots;
  }

  waitsForRoom(generations: readonly AdapterGeneration[]): boolean {
    return generations.some(
      ({ digest }) => !this.loading.has(digest) && !this.resident.has(digest),
    );
  }

  release(generations: readonly AdapterGeneration[]): void {
    this.calls.push(`release ${names(generations)}`);
  }

  forget(generations: readonly AdapterGeneration[]): void {
    this.calls.push(`forget ${names(generations)}`);
  }

  prefetch(): void {}

  onChange(): void {}

  take(): string[] {
    return this.calls.splice(0);
  }
}

function setUp(limits = {}) {
  const residency = new ManualResidency();
  return { residency, harness: new SchedulerHarness(limits, residency) };
}

const [a, b] = [generation('a'), generation('b')];
const prompt = (first: number) => [first, 1, 2];

describe('adapters in the schedule', () => {
  it('passes over a request whose adapter is not resident, which holds nothing', () => {
    const { residency, harness } = setUp();
    const cold = harness.submit({ prompt: prompt(1), adapter: a });
    harness.submit({ prompt: prompt(2) });
    expect(harness.step()).toEqual(['1:0+3']);
    expect(cold.sequences[0]!.table.length).toBe(0);
    expect(harness.scheduler.running).toHaveLength(1);
    // Parked: nobody asks again before something changed.
    expect(residency.take()).toEqual(['acquire digest-a']);
    harness.step();
    expect(residency.take()).toEqual([]);
    residency.resident.set(a.digest, 2);
    harness.scheduler.waiting.unparkAll();
    const plan = harness.plan();
    expect(show(plan)).toEqual(['1:4+1', '0:0+3']);
    expect(cold.slots).toEqual([2]);
  });

  it('orders a packet by slot, base first', () => {
    const { residency, harness } = setUp();
    residency.resident.set(a.digest, 1).set(b.digest, 0);
    harness.submit({ prompt: prompt(1), adapter: a });
    harness.submit({ prompt: prompt(2), adapter: b });
    harness.submit({ prompt: prompt(3) });
    harness.submit({ prompt: prompt(4), adapter: a });
    expect(harness.step().map((entry) => entry.split(':')[0])).toEqual(['2', '1', '0', '3']);
  });

  it('holds one reference per request, however many choices run', () => {
    const { residency, harness } = setUp();
    residency.resident.set(a.digest, 0);
    const group = harness.submit({
      prompt: prompt(1),
      adapter: a,
      n: 3,
      sampling: { maxTokens: 3 },
    });
    for (let i = 0; i < 4; i++) harness.step();
    expect(group.numLive).toBe(0);
    expect(residency.take()).toEqual(['acquire digest-a', 'release digest-a']);
    expect(group.slots).toEqual([]);
  });

  it('gives an acquired adapter back when the request does not fit now', () => {
    const { residency, harness } = setUp({ numBlocks: 4 });
    residency.resident.set(a.digest, 0);
    harness.submit({ prompt: [1, 2, 3, 4, 5, 6, 7, 8, 9] });
    harness.submit({ prompt: [9, 2, 3, 4, 5], adapter: a });
    expect(harness.step()).toEqual(['0:0+9']);
    expect(residency.take()).toEqual(['acquire digest-a', 'release digest-a']);
  });

  it('forgets a load when the last request for it is gone', () => {
    const { residency, harness } = setUp();
    const [first, second] = [1, 2].map((i) => harness.submit({ prompt: prompt(i), adapter: a }));
    harness.plan();
    harness.scheduler.finish(first!.sequences[0]!);
    expect(residency.take()).toEqual(['acquire digest-a']);
    harness.scheduler.finish(second!.sequences[0]!);
    expect(residency.take()).toEqual(['forget digest-a']);
    expect(harness.scheduler.waiting.length).toBe(0);
  });

  it('rejects everything that waited for a load that failed', () => {
    const { residency, harness } = setUp();
    const groups = [1, 2].map((i) => harness.submit({ prompt: prompt(i), adapter: a }));
    harness.submit({ prompt: prompt(3) });
    residency.failed.add(a.digest);
    const plan = harness.plan();
    expect(show(plan)).toEqual(['2:0+3']);
    expect(plan.rejected.map(({ group }) => group)).toEqual(groups);
    expect(plan.rejected[0]!.error.code).toBe('adapter_load_failed');
    expect(residency.take()).toEqual(['acquire digest-a']);
  });

  it('stops later admissions when a request was passed over for too long', () => {
    const { residency, harness } = setUp({ adapterWaitMsMax: 100 });
    residency.resident.set(b.digest, 1);
    harness.submit({ prompt: prompt(1), adapter: a });
    harness.submit({ prompt: prompt(2), adapter: b });
    expect(harness.step()).toEqual(['1:0+3']);
    harness.nowMs = 100;
    harness.submit({ prompt: prompt(3), adapter: b });
    expect(harness.step()).toContain('2:0+3');
    harness.nowMs = 101;
    harness.submit({ prompt: prompt(4), adapter: b });
    harness.submit({ prompt: prompt(5) });
    expect(harness.step().join()).not.toMatch(/[34]:/);
    residency.resident.set(a.digest, 0);
    harness.scheduler.waiting.unparkAll();
    // The starved one is in, so the others may follow.
    expect(harness.step()).toContain('0:0+3');
    const next = harness.step().join();
    expect(next).toContain('3:');
    expect(next).toContain('4:');
  });

  it('goes on while a load takes long, and stops when it turns out to wait for room', () => {
    const { residency, harness } = setUp({ adapterWaitMsMax: 100 });
    residency.loading.add(a.digest);
    harness.submit({ prompt: prompt(1), adapter: a });
    harness.plan();
    harness.nowMs = 10_000;
    harness.submit({ prompt: prompt(2) });
    expect(harness.step()).toEqual(['1:0+3']);
    residency.loading.delete(a.digest);
    harness.submit({ prompt: prompt(3) });
    expect(harness.step().join()).not.toContain('2:');
  });

  it('withdraws a later load that would keep the starved one out', () => {
    const { residency, harness } = setUp({ adapterWaitMsMax: 100 });
    harness.submit({ prompt: prompt(1), adapter: a });
    harness.plan();
    harness.nowMs = 50;
    harness.submit({ prompt: prompt(2), adapter: b });
    harness.plan();
    harness.nowMs = 101;
    residency.resident.set(b.digest, 0);
    residency.take();
    harness.scheduler.waiting.unparkAll();
    expect(show(harness.plan())).toEqual([]);
    expect(residency.take().sort()).toEqual(['acquire digest-a', 'forget digest-b']);
  });
});
