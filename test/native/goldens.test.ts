/** The native session alone, without engine, against transformers and PEFT. */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import type { AdapterImage } from '../../src/native/index.ts';
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

/** The adapter with its float32 tensors rounded to bfloat16, in memory. */
function asBfloat16(image: AdapterImage): AdapterImage {
  const floats = new Uint32Array(readFileSync(image.path).buffer.slice(0));
  const words = Uint16Array.from(floats, (bits) => (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16);
  return {
    path: image.path,
    fileBytes: words.byteLength,
    bytes: new Uint8Array(words.buffer),
    pairs: image.pairs.map((pair) => ({
      ...pair,
      dtype: 'BF16',
      offsetA: pair.offsetA / 2,
      offsetB: pair.offsetB / 2,
    })),
  };
}

it('keeps bfloat16 adapters exact in bfloat16 slots, in half the memory', async () => {
  const model = 'llama3';
  const plain = await fixtureSession(model);
  const half = await fixtureSession(model, { loraDtype: 'bfloat16' });
  for (const [slot, adapter] of MODELS[model].entries()) {
    const image = asBfloat16(fixtureImage(model, adapter));
    const { bytes } = await plain.loadAdapter(slot, image);
    const ratio = (await half.loadAdapter(slot, image)).bytes / bytes;
    expect(ratio).toBeGreaterThanOrEqual(0.5);
    // One module's 176 inputs are padded to 192.
    expect(ratio).toBeLessThan(0.51);
    const golden = goldenCases(model).find((each) => each.adapter === adapter)!;
    const tokens = golden.promptIds;
    const rows = tokens.map((_, at) => ({ at }));
    const step = packStep([{ tokens, cached: 0, blocks: BLOCKS, slot, rows }]);
    const base = await plain.step(
      packStep([{ tokens, cached: 0, blocks: BLOCKS, slot: -1, rows }]),
      true,
    );
    const [expected, got] = [await plain.step(step, true), await half.step(step, true)];
    expect(maxAbsDifference(got.logits!, expected.logits!), adapter).toBeLessThan(LOGIT_TOLERANCE);
    expect(maxAbsDifference(base.logits!, expected.logits!), adapter).toBeGreaterThan(0.1);
  }
  await plain.close();
  await half.close();
});

it('refuses values that bfloat16 cannot hold', async () => {
  const session = await fixtureSession('llama3', { loraDtype: 'bfloat16' });
  const image = fixtureImage('llama3', 'qv-r4');
  const bytes = new Uint8Array(readFileSync(image.path));
  new DataView(bytes.buffer).setFloat32(image.pairs[0]!.offsetA, 3.4e38, true);
  const error = await session.loadAdapter(0, { ...image, bytes }).catch((thrown: Error) => thrown);
  expect(error).toMatchObject({ message: expect.stringMatching(/A has NaN or inf.* in bfloat16/) });
  await session.close();
});
