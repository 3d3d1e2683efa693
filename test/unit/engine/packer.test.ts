import { describe, expect, it } from 'vitest';
import type { StepPacket } from '../../../src/native/addon-types.ts';
import {
  createHarness,
  generation,
  type HarnessOptions,
  type RequestSpec,
} from '../../support/engine-harness.ts';

/** The packets of requests that are submitted together. */
async function packets(specs: RequestSpec[], options: HarnessOptions = {}): Promise<StepPacket[]> {
  const harness = createHarness(options);
  harness.native.recording = true;
  for (const spec of specs) harness.submit(spec);
  await harness.engine.idle();
  return harness.native.packets;
}

const ints = (array: Int32Array, length: number) => Array.from(array.subarray(0, length));

describe('step packets', () => {
  it('pack a prompt and its decode steps', async () => {
    const [prefill, decode] = await packets([
      { prompt: [5, 6, 7, 8, 9], sampling: { maxTokens: 2 } },
    ]);
    expect(ints(prefill!.inputIds, 5)).toEqual([5, 6, 7, 8, 9]);
    expect(ints(prefill!.positions, 5)).toEqual([0, 1, 2, 3, 4]);
    expect(ints(prefill!.slotMapping, 5)).toEqual([0, 1, 2, 3, 4]);
    expect(ints(prefill!.queryStart, 2)).toEqual([0, 5]);
    expect(ints(prefill!.contextLens, 1)).toEqual([5]);
    expect(ints(prefill!.blockTables, 2)).toEqual([0, 1]);
    expect(ints(prefill!.logitRows, 1)).toEqual([4]);
    expect(prefill).toMatchObject({ numTokens: 5, numSequences: 1, numSegments: 1, numRows: 1 });
    expect(ints(prefill!.segmentStart, 2)).toEqual([0, 5]);
    expect(ints(prefill!.segmentAdapterStart, 2)).toEqual([0, 0]);
    expect(decode).toMatchObject({ numTokens: 1, numRows: 1, maxBlocksPerSequence: 2 });
    expect(ints(decode!.positions, 1)).toEqual([5]);
    expect(ints(decode!.contextLens, 1)).toEqual([6]);
    expect(decode!.sampling.sampleIndex[0]).toBe(1);
  });

  it('have a top_p above 0 where single precision has none', async () => {
    const sampling = { maxTokens: 1, temperature: 1, topP: Number.MIN_VALUE };
    const [packet] = await packets([{ prompt: [5], sampling }]);
    expect(packet!.sampling.topP[0]).toBeGreaterThan(0);
  });

  it('keep the rope length of the prompt, also when output is recomputed', async () => {
    const specs = [
      { prompt: [1, 2, 3, 4, 5, 6, 7], sampling: { maxTokens: 8 } },
      { prompt: [9, 8, 7], sampling: { maxTokens: 8 } },
    ];
    const all = await packets(specs, { engine: { numBlocks: 4, prefixCaching: false } });
    const recompute = all.find(
      ({ numSequences, numTokens, inputIds }) =>
        numSequences === 1 && numTokens === 5 && inputIds[0] === 9,
    )!;
    expect(ints(recompute.ropeLengths, 5)).toEqual([3, 3, 3, 4, 5]);
    // Two tokens were sampled before, so the third one's counter is 2.
    expect(recompute.sampling.sampleIndex[0]).toBe(2);
  });

  it('join neighbours of one adapter and scale into one segment', async () => {
    const [a, b] = [generation('a'), generation('b')];
    const harness = createHarness();
    harness.native.recording = true;
    for (const adapter of [a, b]) harness.submit({ prompt: [1], adapter });
    await harness.engine.idle();
    harness.native.packets.length = 0;
    const specs = [
      { prompt: [3], adapter: b },
      { prompt: [4], adapter: a },
      { prompt: [5] },
      { prompt: [6], adapter: a, scale: 0.5 },
      { prompt: [7], adapter: a },
      { prompt: [8] },
    ];
    for (const spec of specs) harness.submit({ ...spec, sampling: { maxTokens: 1 } });
    await harness.engine.idle();
    const packet = harness.native.packets[0]!;
    expect(ints(packet.inputIds, 6)).toEqual([5, 8, 6, 4, 7, 3]);
    expect(packet.numSegments).toBe(4);
    expect(ints(packet.segmentStart, 5)).toEqual([0, 2, 3, 5, 6]);
    expect(ints(packet.segmentAdapterStart, 5)).toEqual([0, 0, 1, 2, 3]);
    expect(ints(packet.adapterSlot, 3)).toEqual([0, 0, 1]);
    expect(Array.from(packet.adapterScale.subarray(0, 3))).toEqual([0.5, 1, 1]);
    expect(harness.engine.stats().maxAdaptersInOneStep).toBe(2);
  });

  it('give a run all of its adapters, in the order of their digests', async () => {
    const [a, b] = [generation('a'), generation('b')];
    const harness = createHarness();
    harness.native.recording = true;
    // In slots 0 and 1, but the other way round.
    for (const adapter of [b, a]) harness.submit({ prompt: [1], adapter });
    await harness.engine.idle();
    harness.native.packets.length = 0;
    const both = (first: number, second: number) => [
      { generation: b, weight: second },
      { generation: a, weight: first },
    ];
    const specs = [
      { prompt: [3], adapters: both(1, 2) },
      { prompt: [4], adapter: a },
      { prompt: [5], adapters: both(1, 0.5) },
      { prompt: [6], adapters: both(1, 2).reverse() },
      { prompt: [7], adapter: b },
      { prompt: [8], adapters: [...both(1, 1), { generation: a, weight: 3 }] },
    ];
    for (const spec of specs) harness.submit({ ...spec, sampling: { maxTokens: 1 } });
    await harness.engine.idle();
    const packet = harness.native.packets[0]!;
    expect(ints(packet.inputIds, 6)).toEqual([7, 4, 5, 3, 6, 8]);
    expect(ints(packet.segmentStart, 6)).toEqual([0, 1, 2, 3, 5, 6]);
    expect(ints(packet.segmentAdapterStart, 6)).toEqual([0, 1, 2, 4, 6, 8]);
    expect(ints(packet.adapterSlot, 8)).toEqual([0, 1, 1, 0, 1, 0, 1, 0]);
    expect(Array.from(packet.adapterScale.subarray(0, 8))).toEqual([1, 1, 1, 0.5, 1, 2, 4, 1]);
    expect(harness.engine.stats().maxAdaptersInOneStep).toBe(2);
  });

  it('carry sampling parameters, seeds per choice and 64-bit seeds', async () => {
    const sampling = {
      temperature: 0.5,
      topK: 7,
      topP: 0.75,
      minP: 0.25,
      seed: 0xffff_ffff_ffff_ffffn,
      logprobs: 3,
      maxTokens: 2,
    };
    const all = await packets([{ prompt: [1, 2], n: 2, sampling }]);
    const { sampling: arrays, numRows } = all[1]!;
    expect(numRows).toBe(2);
    expect(arrays.temperature[0]).toBe(0.5);
    expect([arrays.topK[1], arrays.topP[1], arrays.minP[1]]).toEqual([7, 0.75, 0.25]);
    // Choice 0 uses the seed itself, choice 1 the next one, which wraps to 0.
    expect(Array.from(arrays.seed.subarray(0, 4))).toEqual([0xffff_ffff, 0xffff_ffff, 0, 0]);
    expect(ints(arrays.sampleIndex, 2)).toEqual([1, 0]);
    expect(arrays.numTopLogprobs[0]).toBe(3);
    expect(arrays.historyStart[2]).toBe(0);
    expect(arrays.biasStart[2]).toBe(0);
  });

  it('carry history only for rows with penalties', async () => {
    const all = await packets([
      { prompt: [1, 2], sampling: { maxTokens: 3 } },
      { prompt: [3, 4, 5], sampling: { maxTokens: 3, presencePenalty: 0.5 } },
    ]);
    const { sampling, inputIds } = all[2]!;
    expect(ints(sampling.historyStart, 3)).toEqual([0, 0, 5]);
    const outputs = [all[1]!.inputIds[1], inputIds[1]];
    expect(ints(sampling.history, 5)).toEqual([3, 4, 5, ...outputs]);
    expect(ints(sampling.historyPromptLength, 2)).toEqual([0, 3]);
  });

  it('mask stop tokens until minTokens are there, over any bias on them', async () => {
    const all = await packets([
      {
        prompt: [1],
        sampling: {
          maxTokens: 3,
          minTokens: 2,
          stopTokenIds: new Set([4, 5]),
          logitBias: new Map([
            [4, 100],
            [6, -1],
          ]),
        },
      },
    ]);
    const bias = ({ sampling }: StepPacket) =>
      ints(sampling.biasIds, sampling.biasStart[1]!).map((id, i) => [id, sampling.biasValues[i]]);
    const minus = Number.NEGATIVE_INFINITY;
    expect(bias(all[0]!)).toEqual([
      [6, -1],
      [4, minus],
      [5, minus],
    ]);
    expect(bias(all[2]!)).toEqual([
      [4, 100],
      [6, -1],
    ]);
  });

  it('score prompt tokens and sample in one row order', async () => {
    const [packet] = await packets([
      { prompt: [1, 2, 3], sampling: { promptLogprobs: 2, maxTokens: 1 } },
      { prompt: [4, 5], sampling: { maxTokens: 1 } },
    ]);
    expect(ints(packet!.logitRows, 4)).toEqual([0, 1, 2, 4]);
    expect(ints(packet!.sampling.targetIds, 4)).toEqual([2, 3, -1, -1]);
    expect(ints(packet!.sampling.numTopLogprobs, 4)).toEqual([2, 2, -1, -1]);
  });

  it('grow the variable arrays and keep what is in them', async () => {
    const logitBias = new Map(Array.from({ length: 50 }, (_, id) => [id, id / 10] as const));
    const prompt = Array.from({ length: 200 }, (_, i) => i % 61);
    const spec = { prompt, sampling: { maxTokens: 1, logitBias, repetitionPenalty: 1.5 } };
    const all = await packets([spec, spec, spec], {
      engine: { maxTokensPerStep: 600, numBlocks: 200 },
    });
    const { sampling } = all.at(-1)!;
    const rows = all.at(-1)!.numRows;
    expect(rows).toBe(3);
    for (let r = 0; r < rows; r++) {
      const from = sampling.historyStart[r]!;
      expect(Array.from(sampling.history.subarray(from, from + 200))).toEqual(prompt);
      const bias = sampling.biasStart[r]!;
      expect(ints(sampling.biasIds.subarray(bias), 50)).toEqual([...logitBias.keys()]);
    }
  });
});
