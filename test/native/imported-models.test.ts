/** Imported graphs run by the native session, against Hugging Face's logits. */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  type ImportOptions,
  importModel,
  quantizeModel,
  readSafetensorsHeader,
  SafetensorsWriter,
  synthesizeModel,
} from '../../src/importer/index.ts';
import type { JsonObject } from '../../src/importer/json.ts';
import type { TensorSpec } from '../../src/importer/safetensors/writer.ts';
import { createNativeSession } from '../../src/native/index.ts';
import { BLOCK_SIZE, packStep } from '../support/step-packets.ts';

const FIXTURES = fileURLToPath(new URL('../fixtures/', import.meta.url));
const MODELS = [
  'llama2',
  'llama3',
  'llama-linear',
  'llama-dynamic',
  'llama-bf16',
  'mistral',
  'qwen2',
  'qwen2-f16',
  'qwen3',
];
const MAX_TOKENS = 128;
/** The bar for float32 logits against the oracle. */
const MAX_ABS_ERROR = 1e-4;

let root = '';
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'loramux-native-import-'));
});
afterAll(async () => {
  await rm(root, { recursive: true });
});

/** Logits float32 [tokens, vocab] of each prompt, every token in one step. */
async function baseLogits(
  dir: string,
  prompts: number[][],
  options: ImportOptions = {},
): Promise<Float32Array[]> {
  const { native } = await importModel(dir, options);
  const session = await createNativeSession({
    model: native,
    intraOpThreads: 1,
    numBlocks: MAX_TOKENS / BLOCK_SIZE,
    blockSize: BLOCK_SIZE,
    kvDtype: 'f32',
    maxSlots: 1,
    maxTokensPerStep: MAX_TOKENS,
    maxLogitRowsPerStep: MAX_TOKENS,
  });
  try {
    const results: Float32Array[] = [];
    for (const tokens of prompts) {
      const blocks = Array.from({ length: Math.ceil(tokens.length / BLOCK_SIZE) }, (_, i) => i);
      const rows = tokens.map((_, at) => ({ at }));
      const packet = packStep([{ tokens, cached: 0, blocks, rows }]);
      packet.ropeLengths.fill(tokens.length);
      results.push((await session.step(packet, true)).logits!.slice());
    }
    return results;
  } finally {
    await session.close();
  }
}

function maxAbsError(got: Float32Array, want: Float32Array): number {
  expect(got.length).toBe(want.length);
  return got.reduce((worst, value, i) => Math.max(worst, Math.abs(value - want[i]!)), 0);
}

/** Root mean square of the difference, relative to that of `want`. */
function relativeError(got: Float32Array, want: Float32Array): number {
  expect(got.length).toBe(want.length);
  let difference = 0;
  let norm = 0;
  want.forEach((value, i) => {
    difference += (got[i]! - value) ** 2;
    norm += value ** 2;
  });
  return Math.sqrt(difference / norm);
}

async function floatTensor(path: string, name: string): Promise<Float32Array> {
  const { begin, end } = (await readSafetensorsHeader(path)).tensors.get(name)!;
  return new Float32Array(new Uint8Array((await readFile(path)).subarray(begin, end)).buffer);
}

describe('imported models', () => {
  it.each(MODELS)('%s gives the logits of transformers', async (name) => {
    const golden = JSON.parse(
      await readFile(join(FIXTURES, 'goldens', `${name}.json`), 'utf8'),
    ) as { cases: { adapter: string | null; promptIds: number[]; logits: string }[] };
    const cases = golden.cases.filter(({ adapter }) => adapter === null);
    expect(cases.length).toBeGreaterThan(0);
    const got = await baseLogits(
      join(FIXTURES, 'models', name),
      cases.map(({ promptIds }) => promptIds),
    );
    for (const [i, { logits }] of cases.entries()) {
      const want = await floatTensor(join(FIXTURES, 'goldens', `${name}.safetensors`), logits);
      expect(maxAbsError(got[i]!, want)).toBeLessThanOrEqual(MAX_ABS_ERROR);
    }
  });
});

const PROMPT = Array.from({ length: 40 }, (_, i) => (i * 37 + 11) % 256);

/** Everything at once: biases everywhere, weights of every kind, llama3 scaling. */
const SYNTH_CONFIG: JsonObject = {
  model_type: 'llama',
  architectures: ['LlamaForCausalLM'],
  hidden_size: 96,
  intermediate_size: 200,
  num_hidden_layers: 3,
  num_attention_heads: 6,
  num_key_value_heads: 2,
  vocab_size: 320,
  max_position_embeddings: 128,
  rms_norm_eps: 1e-5,
  attention_bias: true,
  mlp_bias: true,
  rope_scaling: {
    rope_type: 'llama3',
    factor: 4,
    low_freq_factor: 1,
    high_freq_factor: 4,
    original_max_position_embeddings: 32,
  },
};

async function synth(name: string, options: Parameters<typeof synthesizeModel>[2]) {
  const config = join(root, 'config.json');
  await writeFile(config, JSON.stringify(SYNTH_CONFIG));
  const dir = join(root, name);
  await synthesizeModel(config, dir, { seed: 11, ...options });
  return dir;
}

describe('storage', () => {
  it('does not change the logits when weights are sharded', async () => {
    const [whole] = await baseLogits(await synth('whole', { dtype: 'BF16' }), [PROMPT]);
    const [sharded] = await baseLogits(
      await synth('sharded', { dtype: 'BF16', maxShardBytes: 50_000 }),
      [PROMPT],
    );
    expect(sharded).toEqual(whole);
  });
});

/** The same checkpoint with its quantized weights written back as float32. */
async function dequantize(dir: string, out: string): Promise<string> {
  const target = await synth(out, { dtype: 'F32' });
  const path = join(dir, 'model.safetensors');
  const bytes = await readFile(path);
  const { tensors } = await readSafetensorsHeader(path);
  const part = (name: string): Uint8Array | undefined => {
    const tensor = tensors.get(name);
    return tensor && new Uint8Array(bytes.subarray(tensor.begin, tensor.end));
  };
  const config = JSON.parse(await readFile(join(dir, 'config.json'), 'utf8')) as {
    quantization_config: { bits: 4 | 8; group_size: number };
  };
  const { bits, group_size: groupSize } = config.quantization_config;
  const nibble = (data: Uint8Array, i: number): number =>
    bits === 8 ? data[i]! : (data[i >> 1]! >> (4 * (i & 1))) & 15;

  const header = await readSafetensorsHeader(join(target, 'model.safetensors'));
  const specs: TensorSpec[] = [...header.tensors].map(([name, t]) => ({ name, ...t }));
  const writer = await SafetensorsWriter.create(join(target, 'model.safetensors'), specs);
  for (const { name, shape } of specs) {
    const stem = name.replace(/\.weight$/, '');
    const packed = part(`${stem}.qweight`);
    if (packed === undefined) {
      await writer.write(part(name)!);
      continue;
    }
    const scales = new Float32Array(part(`${stem}.scales`)!.buffer);
    const zeroPoints = part(`${stem}.zero_points`);
    const [rows, inFeatures] = shape as [number, number];
    const blocks = scales.length / rows;
    const zeroStride = Math.ceil((blocks * bits) / 8) * (8 / bits);
    const weights = new Float32Array(rows * inFeatures);
    for (let i = 0; i < weights.length; i++) {
      const row = Math.floor(i / inFeatures);
      const column = i % inFeatures;
      const block = Math.floor(column / groupSize);
      const zero = zeroPoints ? nibble(zeroPoints, row * zeroStride + block) : 2 ** (bits - 1);
      const level = nibble(packed, row * blocks * groupSize + column);
      weights[i] = (level - zero) * scales[row * blocks + block]!;
    }
    await writer.write(new Uint8Array(weights.buffer));
  }
  await writer.close();
  return target;
}

describe('quantized models', () => {
  it.each([
    { bits: 8, symmetric: true, lmHead: false },
    { bits: 8, symmetric: false, lmHead: true },
    { bits: 4, symmetric: true, lmHead: true },
    { bits: 4, symmetric: false, lmHead: false },
  ] as const)('compute with the weights they store: %j', async (options) => {
    const name = `${options.bits}-${options.symmetric}`;
    const source = await synth(`source-${name}`, { dtype: 'F32' });
    const { dir } = await quantizeModel(source, join(root, `quantized-${name}`), options);
    const floats = await dequantize(dir, `floats-${name}`);
    const [want] = await baseLogits(floats, [PROMPT]);
    const [precise] = await baseLogits(dir, [PROMPT], { quantizedActivations: 'float32' });
    expect(maxAbsError(precise!, want!)).toBeLessThanOrEqual(MAX_ABS_ERROR);
    // Rounding activations to 8 bits costs about 0.7 % per product; over a few layers of random
    // weights that stays below these.
    const [fast] = await baseLogits(dir, [PROMPT]);
    expect(relativeError(fast!, want!)).toBeLessThan(0.05);
    const [source32] = await baseLogits(source, [PROMPT]);
    expect(relativeError(precise!, source32!)).toBeLessThan(options.bits === 8 ? 0.05 : 0.5);
  });
});
