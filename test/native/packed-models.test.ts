/** Graphs over packed weights against the float32 graph of the same checkpoint. */
import { mkdtemp, open, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  importModel,
  packModel,
  readSafetensorsHeader,
  synthesizeModel,
} from '../../src/importer/index.ts';
import type { JsonObject } from '../../src/importer/json.ts';
import {
  createNativeSession,
  type Isa,
  type NativeModel,
  type NativeSession,
  PACKED_FORMATS,
  probeNative,
} from '../../src/native/index.ts';
import { modelFamilies } from '../support/model-families.ts';
import { fixtureImage } from '../support/native-fixtures.ts';
import { BLOCK_SIZE, type ChunkSpec, packStep } from '../support/step-packets.ts';

const MAX_TOKENS = 128;
const BLOCKS_EACH = 4;
const FIXTURES = fileURLToPath(new URL('../fixtures/', import.meta.url));

const BASE: JsonObject = {
  hidden_size: 96,
  intermediate_size: 200,
  num_hidden_layers: 3,
  num_attention_heads: 6,
  num_key_value_heads: 2,
  vocab_size: 325,
  max_position_embeddings: 128,
  rms_norm_eps: 1e-5,
};
const FAMILIES = modelFamilies(BASE);
Object.assign(FAMILIES.qwen2!, {
  use_sliding_window: true,
  sliding_window: 20,
  max_window_layers: 1,
});
FAMILIES.qwen3!.head_dim = 24;
const PROMPT = Array.from({ length: 40 }, (_, i) => (i * 37 + 11) % 256);

/**
 * Root mean square of the logits' error, relative to the logits'. bf16 rounds activations to 8 bits
 * of mantissa, int8 weights and activations to 127 levels, int4 weights to 15; three layers of random
 * weights add up to 0.012, 0.041 and 0.35 at most.
 */
const TOLERANCE = { bf16: 0.02, int8: 0.06, int4: 0.5 } as const;

let root = '';
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'loramux-native-packed-'));
  for (const [family, config] of Object.entries(FAMILIES)) {
    await writeFile(join(root, `${family}.json`), JSON.stringify(config));
    await synthesizeModel(join(root, `${family}.json`), join(root, family), {
      seed: 11,
      dtype: 'BF16',
    });
  }
});
afterAll(async () => {
  await rm(root, { recursive: true });
});

async function withSession<T>(
  model: NativeModel,
  body: (session: NativeSession) => Promise<T>,
  options: { threads?: number; isa?: Isa } = {},
): Promise<T> {
  const session = await createNativeSession({
    model,
    intraOpThreads: options.threads ?? 1,
    numBlocks: 8 * BLOCKS_EACH,
    blockSize: BLOCK_SIZE,
    kvDtype: 'f32',
    maxSlots: 2,
    maxTokensPerStep: MAX_TOKENS,
    maxLogitRowsPerStep: MAX_TOKENS,
    ...(options.isa === undefined ? {} : { isa: options.isa }),
  });
  try {
    return await body(session);
  } finally {
    await session.close();
  }
}

const blocksOf = (sequence: number): number[] =>
  Array.from({ length: BLOCKS_EACH }, (_, i) => sequence * BLOCKS_EACH + i);

/** A piece of a prompt, with logits of every token. */
function piece(tokens: number[], from: number, to: number, sequence: number): ChunkSpec {
  return {
    tokens: tokens.slice(from, to),
    cached: from,
    blocks: blocksOf(sequence),
    rows: Array.from({ length: to - from }, (_, at) => ({ at })),
  };
}

/** Logits float32 [tokens, vocab] of one step. */
async function logits(session: NativeSession, chunks: ChunkSpec[]): Promise<Float32Array> {
  return (await session.step(packStep(chunks), true)).logits!.slice();
}

const promptLogits = (model: NativeModel, options?: { threads?: number; isa?: Isa }) =>
  withSession(model, (session) => logits(session, [piece(PROMPT, 0, 40, 0)]), options);

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

describe.each(Object.keys(FAMILIES))('%s', (family) => {
  it('gives the logits of the float32 graph, within what rounding costs', async () => {
    const dir = join(root, family);
    const { native } = await importModel(dir, { weights: 'float32' });
    const want = await promptLogits(native);
    for (const weights of PACKED_FORMATS) {
      const packed = await importModel(dir, {
        weights,
        ...(weights === 'int4' && { weightsGroupSize: 32 }),
      });
      const error = relativeError(await promptLogits(packed.native), want);
      expect(error, weights).toBeLessThan(TOLERANCE[weights]);
      // A step of the float graph would be exact.
      expect(error, weights).toBeGreaterThan(0);
    }
  });

  it('gives the same bits from a directory as from a checkpoint', async () => {
    const dir = join(root, family);
    for (const [format, groupSize] of [
      ['bf16', undefined],
      ['int8', undefined],
      ['int8', 64],
      ['int4', 128],
    ] as const) {
      const name = `${family}-${format}-${groupSize}`;
      const { dir: out } = await packModel(dir, join(root, name), { format, groupSize });
      const checkpoint = await importModel(dir, { weights: format, weightsGroupSize: groupSize });
      const directory = await importModel(out);
      expect(await promptLogits(directory.native), name).toEqual(
        await promptLogits(checkpoint.native),
      );
    }
  });
});

it('gives better logits with zero points than without', async () => {
  const dir = join(root, 'llama');
  const want = await promptLogits((await importModel(dir, { weights: 'float32' })).native);
  const errors: number[] = [];
  for (const zeroPoints of [false, true]) {
    const out = join(root, `zeros-${zeroPoints}`);
    await packModel(dir, out, { format: 'int4', groupSize: 32, zeroPoints });
    errors.push(relativeError(await promptLogits((await importModel(out)).native), want));
  }
  expect(errors[1]).toBeLessThan(errors[0]!);
});

/** Every packed format and instruction set; groups narrower and wider than those of activations. */
describe.each([
  { weights: 'bf16' },
  { weights: 'int8' },
  { weights: 'int8', weightsGroupSize: 32 },
  { weights: 'int4', weightsGroupSize: 32 },
  { weights: 'int4', weightsGroupSize: 512 },
] as const)('bits of a row, %j', (options) => {
  it('depend on nothing beside it', async () => {
    const { native } = await importModel(`${FIXTURES}models/qwen3`, options);
    const other = PROMPT.map((token) => (token * 7 + 3) % 256);
    const width = native.vocabSize;
    await withSession(
      native,
      async (session) => {
        await session.loadAdapter(0, fixtureImage('qwen3', 'all-r8-rslora'));
        await session.loadAdapter(1, fixtureImage('qwen3', 'qv-r4'));
        for (const slot of [-1, 0, 1]) {
          const own = (from: number, to: number, sequence: number): ChunkSpec => ({
            ...piece(PROMPT, from, to, sequence),
            slot,
          });
          const alone = await logits(session, [own(0, 40, 0)]);
          // In chunks, as a prompt of its own and beside others.
          for (const beside of [false, true]) {
            const parts: Float32Array[] = [];
            let at = 0;
            for (const [round, size] of [1, 15, 2, 17, 5].entries()) {
              const rest: ChunkSpec[] = beside
                ? [
                    { ...piece(other, 8 * round, 8 * (round + 1), 2), slot: 1 },
                    { ...piece(other, 3 * round, 3 * (round + 1), 3), slot: 0 },
                  ]
                : [];
              const got = await logits(session, [own(at, at + size, 1), ...rest]);
              parts.push(got.subarray(0, size * width));
              at += size;
            }
            const chunked = new Float32Array(alone.length);
            let filled = 0;
            for (const part of parts) {
              chunked.set(part, filled);
              filled += part.length;
            }
            expect(chunked, `slot ${slot}, beside others: ${beside}`).toEqual(alone);
          }
        }
      },
      { threads: 2 },
    );
  });
});

it('gives the same bits with any number of threads', async () => {
  for (const weights of PACKED_FORMATS) {
    const { native } = await importModel(join(root, 'llama'), { weights });
    const one = await promptLogits(native);
    for (const threads of [2, 3]) {
      expect(await promptLogits(native, { threads }), weights).toEqual(one);
    }
  }
});

it.each(probeNative().isas)('computes on %s', async (isa) => {
  for (const family of ['llama', 'qwen3']) {
    const dir = join(root, family);
    const { native } = await importModel(dir, { weights: 'float32' });
    const want = await promptLogits(native, { isa: 'scalar' });
    for (const weights of PACKED_FORMATS) {
      const packed = await importModel(dir, { weights });
      const error = relativeError(await promptLogits(packed.native, { isa }), want);
      expect(error, `${family} ${weights}`).toBeLessThan(TOLERANCE[weights]);
    }
  }
});

it('refuses matrices that are not finite', async () => {
  const dir = join(root, 'broken');
  await synthesizeModel(join(root, 'llama.json'), dir, { dtype: 'BF16' });
  const path = join(dir, 'model.safetensors');
  const { tensors } = await readSafetensorsHeader(path);
  const file = await open(path, 'r+');
  const nan = Buffer.from([0xc0, 0x7f]);
  await file.write(nan, 0, 2, tensors.get('model.layers.1.mlp.up_proj.weight')!.begin + 100);
  await file.close();
  const { native } = await importModel(dir, { weights: 'int8' });
  await expect(promptLogits(native)).rejects.toMatchObject({ code: 'engine_failed' });
});

it('refuses blobs with scales that are not finite', async () => {
  const { dir } = await packModel(join(root, 'llama'), join(root, 'scales'), { format: 'int8' });
  const path = join(dir, 'model.safetensors');
  const { tensors } = await readSafetensorsHeader(path);
  const { end } = tensors.get('model.layers.1.mlp.up_proj.packed')!;
  const { native } = await importModel(dir);
  const file = await open(path, 'r+');
  // The blob ends with the float32 scales of its columns; 200 of them fill 12.5 panels of 16.
  const lastColumn = end - 4 * (208 - 199);
  const before = Buffer.alloc(4);
  await file.read(before, 0, 4, lastColumn);
  const infinity = Buffer.alloc(4);
  infinity.writeFloatLE(Number.POSITIVE_INFINITY);
  await file.write(infinity, 0, 4, lastColumn);
  const refused = promptLogits(native);
  await expect(refused).rejects.toMatchObject({ code: 'engine_failed' });
  await expect(refused).rejects.toThrow('a scale that is not finite');
  await file.write(before, 0, 4, lastColumn);
  await file.close();
  await expect(promptLogits(native)).resolves.toBeDefined();
});
