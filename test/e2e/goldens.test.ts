/**
 * The whole stack against transformers and PEFT: every fixture model, its base and every adapter.
 * All requests of a model run at once, so adapters, ranks and base share steps.
 */
import { readdirSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type GoldenCase, goldenCases, goldenLogits } from '../support/native-fixtures.ts';
import { maxAbsDifference } from '../support/native-generate.ts';
import { FIXTURES, Stack } from '../support/stack.ts';
import { BLOCK_SIZE, type ChunkSpec, packStep } from '../support/step-packets.ts';

const MODELS = readdirSync(path.join(FIXTURES, 'models')).sort();
/** The bar for float32 logits. */
const LOGIT_ERROR_MAX = 1e-4;

describe.each(MODELS)('%s', (model) => {
  let stack: Stack;
  let cases: GoldenCase[];
  const names = new Set<string>();

  beforeAll(async () => {
    stack = await Stack.open(path.join(FIXTURES, 'models', model), {
      engine: { maxTokensPerStep: 1024, maxLogitRowsPerStep: 1024 },
    });
    cases = goldenCases(model);
    for (const { adapter } of cases) if (adapter !== null) names.add(adapter);
    for (const name of names) await stack.put(name, path.join(FIXTURES, 'adapters', model, name));
  });
  afterAll(() => stack?.close());

  it('covers every adapter of the model', () => {
    expect([...names].sort()).toEqual(readdirSync(path.join(FIXTURES, 'adapters', model)).sort());
    expect(cases.filter(({ adapter }) => adapter === null).length).toBeGreaterThanOrEqual(3);
  });

  it('generates the same 128 greedy tokens, all adapters and the base together', async () => {
    // Resident first, so that all of them meet in one step.
    const warm = [...names].map((adapter) => ({
      prompt: [1],
      adapter,
      sampling: { maxTokens: 1 },
    }));
    await stack.askAll(warm);
    const answers = await stack.askAll(
      cases.map((golden) => ({
        prompt: golden.promptIds,
        adapter: golden.adapter ?? undefined,
        sampling: { maxTokens: golden.greedyIds.length },
      })),
    );
    for (const [i, golden] of cases.entries()) {
      const label = `${golden.adapter ?? 'base'} ${golden.prompt}`;
      expect(golden.greedyIds).toHaveLength(128);
      expect(answers[i]!.tokens[0], label).toEqual(golden.greedyIds);
      const logprobs = answers[i]!.logprobs[0]!.map(({ logprob }) => logprob);
      expect(maxAbsDifference(logprobs, golden.greedyLogprobs), label).toBeLessThan(
        LOGIT_ERROR_MAX,
      );
    }
    const { maxAdaptersInOneStep } = stack.engine.stats();
    expect(maxAdaptersInOneStep).toBe(names.size);
    expect(await stack.violations()).toEqual([]);
  });

  it('gives the logits of every prompt position, adapters mixed in one step', async () => {
    await stack.engine.idle();
    const slots = new Map<string, number>();
    for (const name of names) {
      const { generation } = stack.adapters.resolve(name);
      const [slot] = stack.residency.tryAcquire([generation]) as readonly number[];
      slots.set(name, slot!);
    }
    for (const prompt of new Set(cases.map((golden) => golden.prompt))) {
      await checkOneStep(
        cases.filter((golden) => golden.prompt === prompt),
        slots,
      );
    }
    for (const name of names) stack.residency.release([stack.adapters.resolve(name).generation]);
  });

  /** The same prompt of the base and of every adapter in one step, all rows scored. */
  async function checkOneStep(mixed: GoldenCase[], slots: ReadonlyMap<string, number>) {
    expect(mixed).toHaveLength(names.size + 1);
    const slotOf = (golden: GoldenCase) =>
      golden.adapter === null ? -1 : slots.get(golden.adapter)!;
    const order = [...mixed].sort((a, b) => slotOf(a) - slotOf(b));
    const blocksEach = Math.ceil(mixed[0]!.promptIds.length / BLOCK_SIZE);
    const chunks = order.map(
      (golden, i): ChunkSpec => ({
        tokens: golden.promptIds,
        cached: 0,
        blocks: Array.from({ length: blocksEach }, (_, k) => i * blocksEach + k),
        slot: slotOf(golden),
        ropeLength: golden.promptIds.length,
        rows: golden.promptIds.map((_, at) => ({ at })),
      }),
    );
    const { logits } = await stack.session.step(packStep(chunks), true);
    let offset = 0;
    for (const golden of order) {
      const expected = goldenLogits(model, golden.logits);
      const got = logits!.subarray(offset, offset + expected.length);
      offset += expected.length;
      const label = `${golden.adapter ?? 'base'} ${golden.prompt}`;
      expect(maxAbsDifference(got, expected), label).toBeLessThanOrEqual(LOGIT_ERROR_MAX);
    }
  }
});
