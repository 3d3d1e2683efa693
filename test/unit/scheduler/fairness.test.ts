import { describe, expect, it } from 'vitest';
import { OUTPUT_TOKEN_WEIGHT } from '../../../src/scheduler/fairness.ts';
import { generation, weighted } from '../../support/engine-harness.ts';
import { SchedulerHarness } from '../../support/scheduler-harness.ts';

/** All adapters are always resident. */
const resident = (maxSlots: number) => {
  const slots = new Map<string, number>();
  return {
    maxSlots,
    tryAcquire(generations: readonly { digest: string }[]) {
      return generations.map(({ digest }) => {
        if (!slots.has(digest)) slots.set(digest, slots.size);
        return slots.get(digest)!;
      });
    },
    waitsForRoom: () => false,
    release() {},
    forget() {},
    prefetch() {},
    onChange() {},
  };
};

const prompt = (length: number, first: number) =>
  Array.from({ length }, (_, i) => (i === 0 ? first : i));

describe('fair share', () => {
  it('serves adapters in turn, however many requests one of them has', () => {
    const harness = new SchedulerHarness({ maxSequences: 1 }, resident(4));
    const [busy, rare] = [generation('busy'), generation('rare')];
    for (let i = 0; i < 4; i++) {
      harness.submit({ prompt: prompt(8, i), adapter: busy, sampling: { maxTokens: 1 } });
    }
    harness.submit({ prompt: prompt(8, 9), adapter: rare, sampling: { maxTokens: 1 } });
    harness.submit({ prompt: prompt(8, 10), sampling: { maxTokens: 1 } });
    const order = Array.from({ length: 6 }, () => harness.step()[0]!.split(':')[0]);
    expect(order).toEqual(['0', '4', '5', '1', '2', '3']);
  });

  it('lifts who comes back to those that waited, so that absence earns nothing', () => {
    const harness = new SchedulerHarness({ maxSequences: 1 }, resident(4));
    const [steady, late] = [generation('steady'), generation('late')];
    for (let i = 0; i < 6; i++) {
      harness.submit({ prompt: prompt(8, i), adapter: steady, sampling: { maxTokens: 1 } });
    }
    for (let i = 0; i < 3; i++) harness.step();
    for (let i = 0; i < 3; i++) {
      harness.submit({ prompt: prompt(8, 20 + i), adapter: late, sampling: { maxTokens: 1 } });
    }
    const order = Array.from({ length: 6 }, () => harness.step()[0]!.split(':')[0]);
    expect(order).toEqual(['3', '6', '4', '7', '5', '8']);
  });

  it('keeps the service of backlogged adapters within the stated bound', () => {
    const limits = { maxSequences: 4, numBlocks: 24, blockSize: 4 };
    const harness = new SchedulerHarness(limits, resident(4));
    const adapters = [generation('a'), generation('b'), undefined];
    const maxPrompt = 24;
    const shapes = [
      { length: 24, maxTokens: 2 },
      { length: 3, maxTokens: 20 },
      { length: 9, maxTokens: 6 },
    ];
    for (let i = 0; i < 60; i++) {
      for (const [k, adapter] of adapters.entries()) {
        const { length, maxTokens } = shapes[k]!;
        harness.submit({
          prompt: prompt(length, 100 * k + i),
          ...(adapter === undefined ? {} : { adapter }),
          sampling: { maxTokens },
        });
      }
    }
    const lanes = adapters.map((adapter) => harness.scheduler.waiting.laneFor(weighted(adapter)));
    const kvTokens = limits.numBlocks * limits.blockSize;
    const bound = 2 * Math.max(maxPrompt, OUTPUT_TOKEN_WEIGHT * kvTokens);
    let widest = 0;
    while (lanes.every((lane) => lane.queue.length > 0)) {
      const plan = harness.plan();
      const outputs = plan.entries.filter(({ samples }) => samples);
      for (const { sequence } of outputs) {
        harness.scheduler.waiting.fairShare.chargeOutput(sequence.group.lane, 1);
      }
      harness.commit(plan);
      const served = lanes.map((lane) => lane.served);
      widest = Math.max(widest, Math.max(...served) - Math.min(...served));
    }
    expect(widest).toBeGreaterThan(0);
    expect(widest).toBeLessThanOrEqual(bound);
  });
});
