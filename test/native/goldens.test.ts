/** The native session alone, without engine, against transformers and PEFT. */
import { describe, expect, it } from 'vitest';
import {
  fixtureImage,
  fixtureSession,
  goldenCases,
  goldenLogits,
} from '../support/native-fixtures.ts';
import { generate, maxAbsDifference } from '../support/native-generate.ts';
import { packStep } from '../support/step-packets.ts';

const MODELS = {
  llama2: ['qv-r4', 'all-r8-rslora'],
  llama3: ['qv-r4', 'all-r8-rslora'],
  'llama-linear': [],
  'llama-dynamic': [],
  'llama-bf16': [],
  mistral: ['all-r8-rslora'],
  qwen2: [],
  'qwen2-f16': [],
  qwen3: ['qv-r4', 'all-r8-rslora'],
} as const;
const LOGIT_TOLERANCE = 1e-4;
const BLOCKS = [...Array(16).keys()].map((i) => 63 - i);

describe.each(Object.entries(MODELS))('%s', (model, adapters) => {
  it('gives the logits and the greedy tokens of the oracle', async () => {
    const session = await fixtureSession(model);
    const slots = new Map<string | null, number>([[null, -1]]);
    for (const [slot, adapter] of adapters.entries()) {
      await session.loadAdapter(slot, fixtureImage(model, adapter));
      slots.set(adapter, slot);
    }
    const cases = goldenCases(model).filter((golden) => slots.has(golden.adapter));
    expect(cases.length).toBeGreaterThanOrEqual(3);
    for (const golden of cases) {
      const slot = slots.get(golden.adapter)!;
      const rows = golden.promptIds.map((_, at) => ({ at }));
      const step = await session.step(
        packStep([
          {
            tokens: golden.promptIds,
            cached: 0,
            blocks: BLOCKS,
            slot,
            ropeLength: golden.promptIds.length,
            rows,
          },
        ]),
        true,
      );
      const expected = goldenLogits(model, golden.logits);
      const label = `${golden.adapter} ${golden.prompt}`;
      expect(maxAbsDifference(step.logits!, expected), label).toBeLessThan(LOGIT_TOLERANCE);
      const [alone] = await generate(
        session,
        [{ prompt: golden.promptIds, blocks: BLOCKS, slot }],
        golden.greedyIds.length,
      );
      expect(alone!.tokenIds, label).toEqual(golden.greedyIds);
      expect(maxAbsDifference(alone!.logprobs, golden.greedyLogprobs), label).toBeLessThan(
        LOGIT_TOLERANCE,
      );
    }
    await session.close();
  });
});
