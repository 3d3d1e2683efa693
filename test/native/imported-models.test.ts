/** Imported graphs run by the native session, against Hugging Face's logits. */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { importModel, readSafetensorsHeader, synthesizeModel } from '../../src/importer/index.ts';
import type { JsonObject } from '../../src/importer/json.ts';
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
async function baseLogits(dir: string, prompts: number[][]): Promise<Float32Array[]> {
  const { native } = await importModel(dir, { weights: 'float32' });
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
