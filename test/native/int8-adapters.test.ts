/** Adapters as int8 in their slots, against the same adapters in float32. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import {
  DEMO_ADAPTERS_DIR,
  DEMO_MODEL_DIR,
  loadTasks,
} from '../../examples/modular-arithmetic/tasks.ts';
import { importModel, readSequences } from '../../src/importer/index.ts';
import { createNativeSession, type NativeSession, probeNative } from '../../src/native/index.ts';
import { loadTokenizer } from '../../src/tokenizer/tokenizer.ts';
import {
  fixtureImage,
  fixtureOptions,
  fixtureSession,
  goldenCases,
} from '../support/native-fixtures.ts';
import { maxAbsDifference } from '../support/native-generate.ts';
import { Stack } from '../support/stack.ts';
import { type ChunkSpec, packStep } from '../support/step-packets.ts';

const QWEN3 = fileURLToPath(new URL('../fixtures/models/qwen3', import.meta.url));
const QUESTIONS = path.join(DEMO_MODEL_DIR, '..', 'questions.jsonl');
const MODELS = {
  llama2: ['qv-r4', 'all-r8-rslora'],
  llama3: ['qv-r4', 'all-r8-rslora'],
  mistral: ['all-r8-rslora'],
  qwen3: ['qv-r4', 'all-r8-rslora'],
} as const;
/** Root mean square of what rounding changes, as a part of what the adapter itself changes. */
const LOGIT_ERROR = 0.03;
const blocksOf = (sequence: number) => [...Array(4).keys()].map((i) => sequence * 4 + i);

/** A piece of a prompt, with logits of every token. */
function piece(all: number[], from: number, to: number, sequence: number, slot: number): ChunkSpec {
  const tokens = all.slice(from, to);
  const rows = tokens.map((_, at) => ({ at }));
  return { tokens, cached: from, blocks: blocksOf(sequence), slot, rows };
}

async function logits(session: NativeSession, chunks: ChunkSpec[]): Promise<Float32Array> {
  return (await session.step(packStep(chunks), true)).logits!.slice();
}

function rms(a: Float32Array, b: Float32Array): number {
  return Math.sqrt(a.reduce((sum, value, i) => sum + (value - b[i]!) ** 2, 0) / a.length);
}

describe.each(Object.entries(MODELS))('%s', (model, adapters) => {
  it('answers nearly as in float32, from a quarter of the memory', async () => {
    const plain = await fixtureSession(model);
    const small = await fixtureSession(model, { loraDtype: 'int8' });
    for (const [slot, adapter] of adapters.entries()) {
      const image = fixtureImage(model, adapter);
      const { bytes } = await plain.loadAdapter(slot, image);
      const ratio = (await small.loadAdapter(slot, image)).bytes / bytes;
      expect(ratio).toBeGreaterThan(0.25);
      // Modules so narrow that the scale of their only group counts.
      expect(ratio).toBeLessThan(0.33);
      const { promptIds } = goldenCases(model).find((golden) => golden.adapter === adapter)!;
      const whole = piece(promptIds, 0, promptIds.length, 0, slot);
      const base = await logits(plain, [{ ...whole, slot: -1 }]);
      for (const scale of [1, 0.5]) {
        const want = await logits(plain, [{ ...whole, scale }]);
        const error = rms(await logits(small, [{ ...whole, scale }]), want) / rms(want, base);
        const label = `${adapter} times ${scale}`;
        expect(error, label).toBeLessThan(LOGIT_ERROR);
        expect(error, label).toBeGreaterThan(0);
      }
    }
    await plain.close();
    await small.close();
  });
});

it('gives the answers of float32 to every question of the demo', async () => {
  const sequences = await readSequences(QUESTIONS, await loadTokenizer(DEMO_MODEL_DIR), {
    windowTokens: 64,
    maxPositions: 4096,
  });
  const prompts = sequences.map(({ tokenIds, compareFrom }) => [
    ...tokenIds.subarray(0, compareFrom + 1),
  ]);
  const stack = await Stack.open(DEMO_MODEL_DIR);
  const small = await createNativeSession({
    ...(await fixtureOptions('llama3')),
    model: (await importModel(DEMO_MODEL_DIR, { weights: 'float32' })).native,
    numBlocks: 256,
    maxSlots: 1,
    loraDtype: 'int8',
  });
  let [divergence, positions, largest] = [0, 0, 0];
  for (const { adapter } of (await loadTasks()).tasks) {
    if (adapter === null) continue;
    await stack.put(adapter, path.join(DEMO_ADAPTERS_DIR, adapter));
    const opened = await stack.adapters.openImage(stack.adapters.resolve(adapter).generation);
    for (const session of [stack.session, small]) await session.loadAdapter(0, opened.image);
    opened.release();
    for (let at = 0; at < prompts.length; at += 64) {
      const chunks = prompts.slice(at, at + 64).map((tokens, i) => ({
        tokens,
        cached: 0,
        blocks: blocksOf(i),
        slot: 0,
      }));
      const want = await logits(stack.session, chunks);
      const got = await logits(small, chunks);
      const vocab = want.length / chunks.length;
      for (let row = 0; row < chunks.length; row++) {
        const span = [row * vocab, (row + 1) * vocab] as const;
        const [p, q] = [want.subarray(...span), got.subarray(...span)];
        expect(q.indexOf(Math.max(...q)), adapter).toBe(p.indexOf(Math.max(...p)));
        largest = Math.max(largest, maxAbsDifference(q, p));
        divergence += kl(p, q);
        positions++;
      }
    }
    for (const session of [stack.session, small]) session.freeAdapter(0);
  }
  expect(positions).toBe(6 * 961);
  expect(divergence / positions).toBeLessThan(2e-5);
  expect(largest).toBeLessThan(1);
  await small.close();
  await stack.close();
});

/** Of the distributions that two rows of logits mean. */
function kl(p: Float32Array, q: Float32Array): number {
  const logs = (row: Float32Array): number[] => {
    const max = Math.max(...row);
    const sum = row.reduce((total, logit) => total + Math.exp(logit - max), 0);
    return [...row].map((logit) => logit - max - Math.log(sum));
  };
  const [a, b] = [logs(p), logs(q)];
  return a.reduce((total, log, i) => total + Math.exp(log) * (log - b[i]!), 0);
}

it.each(probeNative().isas)(
  'gives a row the same bits alone and beside others on %s',
  async (isa) => {
    const { native } = await importModel(QWEN3, { weights: 'int8' });
    const session = await createNativeSession({
      ...(await fixtureOptions('qwen3')),
      model: native,
      loraDtype: 'int8',
      isa,
    });
    const prompt = Array.from({ length: 40 }, (_, i) => (i * 37 + 11) % 256);
    const other = prompt.map((token) => (token * 7 + 3) % 256);
    await session.loadAdapter(0, fixtureImage('qwen3', 'all-r8-rslora'));
    await session.loadAdapter(1, fixtureImage('qwen3', 'qv-r4'));
    for (const slot of [-1, 0, 1]) {
      const alone = await logits(session, [piece(prompt, 0, prompt.length, 0, slot)]);
      let at = 0;
      for (const [round, size] of [1, 15, 2, 17, 1, 4].entries()) {
        const rest = [
          piece(other, 6 * round, 6 * (round + 1), 2, 1),
          piece(other, 3 * round, 3 * (round + 1), 3, 0),
          piece(other, round, round + 1, 4, -1),
        ];
        const got = await logits(session, [piece(prompt, at, at + size, 1, slot), ...rest]);
        const want = alone.subarray(at * native.vocabSize, (at + size) * native.vocabSize);
        expect(got.subarray(0, want.length), `slot ${slot}, from ${at}`).toEqual(want);
        at += size;
      }
      expect(at).toBe(prompt.length);
    }
    await session.close();
  },
);

it('takes turns in a slot, and refuses what is not finite', async () => {
  const session = await fixtureSession('llama3', { loraDtype: 'int8' });
  const whole = piece(goldenCases('llama3')[0]!.promptIds, 0, 5, 0, 0);
  const image = fixtureImage('llama3', 'qv-r4');
  await session.loadAdapter(0, image);
  const before = await logits(session, [whole]);
  session.freeAdapter(0);
  await session.loadAdapter(0, fixtureImage('llama3', 'all-r8-rslora'));
  expect(await logits(session, [whole])).not.toEqual(before);
  session.freeAdapter(0);
  await session.loadAdapter(0, image);
  expect(await logits(session, [whole])).toEqual(before);
  for (const [tensor, offset] of [
    ['A', image.pairs[0]!.offsetA],
    ['B', image.pairs[0]!.offsetB],
  ] as const) {
    for (const value of [Number.NaN, Number.NEGATIVE_INFINITY]) {
      const bytes = new Uint8Array(readFileSync(image.path));
      new DataView(bytes.buffer).setFloat32(offset + 4, value, true);
      const load = session.loadAdapter(1, { ...image, bytes });
      await expect(load).rejects.toThrow(`${tensor} has NaN or infinite values in int8`);
    }
  }
  await session.close();
});
