/**
 * A request's tokens do not depend on what runs beside it: alone, in mixed batches of 2 to 32, in
 * any order, in other prompt chunks, after its adapter was evicted and loaded again, and after it
 * was preempted and recomputed.
 */
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Random } from '../support/random.ts';
import { type Answer, type Ask, FIXTURES, Stack, type StackOptions } from '../support/stack.ts';

const MODEL = 'qwen3';
const ADAPTERS = ['qv-r4', 'all-r8-rslora', 'pattern-r16'];
const SUMS = [
  [
    ['qv-r4', 0.5],
    ['pattern-r16', -0.75],
  ],
  [
    ['all-r8-rslora', 0.5],
    ['qv-r4', 1],
  ],
] as const;
const LOGPROB_ERROR_MAX = 1e-5;
const TOKENS = 24;
const SEED = Number(process.env.LORAMUX_FUZZ_SEED ?? 20_261_122);
const BATCHES = [2, 3, 5, 8, 16, 32];

async function openStack(options: StackOptions = {}): Promise<Stack> {
  const stack = await Stack.open(path.join(FIXTURES, 'models', MODEL), options);
  for (const name of ADAPTERS) {
    await stack.put(name, path.join(FIXTURES, 'adapters', MODEL, name));
  }
  return stack;
}

/**
 * 32 requests over three adapters, the base, and sums of two adapters; half greedy, half sampled, some
 * with penalties.
 */
function requests(): Ask[] {
  const random = new Random(SEED);
  return Array.from({ length: 32 }, (_, i): Ask => {
    const length = random.int(3, 62);
    const sampled = i % 2 === 1;
    return {
      prompt: Array.from({ length }, () => random.int(4, 303)),
      adapter: [undefined, ...ADAPTERS][i % 4],
      ...(i % 8 >= 6 && { adapters: SUMS[i % 2]! }),
      sampling: {
        maxTokens: TOKENS,
        temperature: sampled ? 0.8 : 0,
        topP: i % 3 === 0 ? 0.95 : 1,
        topK: i % 5 === 0 ? 40 : 0,
        repetitionPenalty: i % 7 === 0 ? 1.1 : 1,
        frequencyPenalty: i % 6 === 0 ? 0.3 : 0,
        seed: BigInt(i) + 0x1234_5678_9abc_def0n,
        logprobs: 2,
      },
    };
  });
}

function expectSame(got: Answer, alone: Answer, label: string): void {
  expect(got.tokens, label).toEqual(alone.tokens);
  const error = Math.max(
    ...got.logprobs[0]!.map((entry, i) => Math.abs(entry.logprob - alone.logprobs[0]![i]!.logprob)),
  );
  expect(error, label).toBeLessThanOrEqual(LOGPROB_ERROR_MAX);
  expect(got.finishes.map(({ reason }) => reason)).toEqual(['length']);
}

function shuffled<T>(items: readonly T[], random: Random): T[] {
  const result = [...items];
  for (let i = result.length - 1; i > 0; i--) {
    const j = random.int(0, i);
    [result[i], result[j]] = [result[j]!, result[i]!];
  }
  return result;
}

describe(`answers do not depend on the batch (seed ${SEED})`, () => {
  const asks = requests();
  let alone: Answer[];

  beforeAll(async () => {
    // No prefix reuse: each request computes everything itself.
    const stack = await openStack({ engine: { prefixCaching: false } });
    alone = [];
    for (const ask of asks) alone.push(await stack.ask(ask).answer);
    expect(stack.engine.stats().maxSequencesInOneStep).toBe(1);
    await stack.close();
  });

  describe('one stack', () => {
    let stack: Stack;
    beforeAll(async () => {
      stack = await openStack();
    });
    afterAll(() => stack?.close());

    it.each(BATCHES)('in mixed batches of %i, in any order', async (size) => {
      const random = new Random(SEED + size);
      for (let round = 0; round < 2; round++) {
        const order = shuffled([...asks.keys()], random);
        for (let from = 0; from < order.length; from += size) {
          const batch = order.slice(from, from + size);
          const answers = await stack.askAll(batch.map((i) => asks[i]!));
          for (const [k, i] of batch.entries()) {
            expectSame(answers[k]!, alone[i]!, `request ${i} in ${batch}`);
          }
        }
      }
      expect(stack.engine.stats().maxSequencesInOneStep).toBeGreaterThanOrEqual(size);
      expect(await stack.violations()).toEqual([]);
    });
  });

  it.each([1, 2])(
    'with adapter slots: %i, so that adapters are evicted and loaded again',
    async (maxSlots) => {
      const stack = await openStack({ maxSlots });
      // Sums of two need two.
      const fits = (ask: Ask) => (ask.adapters?.length ?? 1) <= maxSlots;
      const some = [...asks.keys()].filter((i) => fits(asks[i]!));
      expect(some.some((i) => asks[i]!.adapters !== undefined)).toBe(maxSlots > 1);
      for (let round = 0; round < 2; round++) {
        const answers = await stack.askAll(some.map((i) => asks[i]!));
        for (const [k, i] of some.entries()) {
          expectSame(answers[k]!, alone[i]!, `request ${i}, round ${round}`);
        }
      }
      const { loads, evictions } = stack.residency.stats();
      expect(loads).toBeGreaterThan(2 * maxSlots);
      expect(evictions).toBeGreaterThanOrEqual(loads - maxSlots);
      expect(await stack.violations()).toEqual([]);
      await stack.close();
    },
  );

  it('with a cache so small that sequences are preempted and recomputed', async () => {
    const stack = await openStack({ engine: { numBlocks: 24, maxModelLen: 256 } });
    const answers = await stack.askAll(asks);
    for (const [i, answer] of answers.entries()) expectSame(answer, alone[i]!, `request ${i}`);
    expect(stack.engine.stats().preemptions).toBeGreaterThan(0);
    expect(await stack.violations()).toEqual([]);
    await stack.close();
  });

  it('with prompts cut into chunks of 16 tokens', async () => {
    const stack = await openStack({
      engine: { maxTokensPerStep: 16, maxSequences: 16, maxLogitRowsPerStep: 16 },
    });
    const answers = await stack.askAll(asks);
    for (const [i, answer] of answers.entries()) expectSame(answer, alone[i]!, `request ${i}`);
    expect(await stack.violations()).toEqual([]);
    await stack.close();
  });

  it.each([
    ['a bfloat16 cache', { kvDtype: 'bf16' }],
    ['adapters as int8 that take turns in two slots', { loraDtype: 'int8', maxSlots: 2 }],
  ] as const)('with %s, against itself alone', async (_, options) => {
    const single = await openStack({ ...options, engine: { prefixCaching: false } });
    const each: Answer[] = [];
    for (const ask of asks) each.push(await single.ask(ask).answer);
    await single.close();
    const stack = await openStack({
      ...options,
      engine: { maxTokensPerStep: 40, maxSequences: 32, maxLogitRowsPerStep: 32, numBlocks: 96 },
    });
    for (let round = 0; round < 2; round++) {
      const answers = await stack.askAll(asks);
      for (const [i, answer] of answers.entries()) expectSame(answer, each[i]!, `request ${i}`);
    }
    expect(await stack.violations()).toEqual([]);
    await stack.close();
  });

  it('with one thread', async () => {
    const stack = await openStack({ threads: 1 });
    const answers = await stack.askAll(asks);
    for (const [i, answer] of answers.entries()) expectSame(answer, alone[i]!, `request ${i}`);
    await stack.close();
  });
});
