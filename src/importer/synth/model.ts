/** Checkpoints of a real shape with seeded random weights, for tests and benchmarks. */
import { mkdir, readdir, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { LoramuxError } from '../../errors.ts';
import { WEIGHTS_FILE, WEIGHTS_INDEX_FILE } from '../checkpoint.ts';
import { parseModelConfig, readSpecialTokens } from '../config.ts';
import { CONFIG_FILE, GENERATION_CONFIG_FILE } from '../import.ts';
import type { JsonObject } from '../json.ts';
import { readJsonFile } from '../json-file.ts';
import { tensorBytes } from '../safetensors/header.ts';
import { SafetensorsWriter, type TensorSpec } from '../safetensors/writer.ts';
import type { ModelConfig, ProgressCallback } from '../types.ts';
import { EMBEDDING, expectedTensors } from '../weights.ts';
import { NormalSource, Sfc32, type SynthDtype } from './random.ts';
import { SYNTH_SHAPES, type SynthShape } from './shapes.ts';
import { synthTokenizer } from './tokenizer.ts';

/** Bytes generated and written at a time. */
const CHUNK_BYTES = 4 * 1024 * 1024;
const TORCH_DTYPE: Record<SynthDtype, string> = {
  F32: 'float32',
  F16: 'float16',
  BF16: 'bfloat16',
};

export interface SynthModelOptions {
  /** Equal seeds give equal files. */
  seed?: number;
  /** Default BF16. */
  dtype?: SynthDtype;
  /** Splits the weights into files of at most this many bytes, with an index. */
  maxShardBytes?: number;
  onProgress?: ProgressCallback;
}

export interface SynthModelResult {
  dir: string;
  parameters: number;
  weightBytes: number;
}

/**
 * Writes config.json, generation_config.json, tokenizer.json, tokenizer_config.json and weights.
 * @param shape a known shape or the path of a config.json.
 * @param outDir created; must be empty if it exists.
 * @throws LoramuxError config_invalid, model_config_unsupported
 */
export async function synthesizeModel(
  shape: string,
  outDir: string,
  options: SynthModelOptions = {},
): Promise<SynthModelResult> {
  const dtype = options.dtype ?? 'BF16';
  const json: JsonObject = { ...(await shapeConfig(shape)), torch_dtype: TORCH_DTYPE[dtype] };
  delete json.dtype;
  const config = parseModelConfig(json);
  if (config.quantization !== undefined) {
    throw new LoramuxError('config_invalid', `${shape} is quantized; give its source's config.`);
  }
  const special = readSpecialTokens(json, undefined, config.vocabSize);
  const dir = resolve(outDir);
  await mkdir(dir, { recursive: true });
  if ((await readdir(dir)).length > 0) {
    throw new LoramuxError('config_invalid', `${outDir} is not empty; give a new directory.`);
  }

  await writeJson(join(dir, CONFIG_FILE), json);
  await writeJson(join(dir, GENERATION_CONFIG_FILE), {
    ...(special.bosTokenId === undefined ? {} : { bos_token_id: special.bosTokenId }),
    ...(special.eosTokenIds.length === 0 ? {} : { eos_token_id: special.eosTokenIds }),
  });
  await writeTokenizer(dir, config, special);
  return { dir, ...(await writeWeights(dir, config, dtype, options)) };
}

async function shapeConfig(shape: string): Promise<JsonObject> {
  if (Object.hasOwn(SYNTH_SHAPES, shape)) return SYNTH_SHAPES[shape as SynthShape];
  const file = await readJsonFile(shape, 'model_config_unsupported');
  if (file === undefined) {
    const known = Object.keys(SYNTH_SHAPES).join(', ');
    throw new LoramuxError(
      'config_invalid',
      `Shape ${shape} is neither a known one (${known}) nor the path of a config.json.`,
    );
  }
  return file.json;
}

async function writeTokenizer(
  dir: string,
  config: ModelConfig,
  special: { eosTokenIds: number[]; bosTokenId: number | undefined },
): Promise<void> {
  const tokens: Parameters<typeof synthTokenizer>[1] = [];
  const { bosTokenId: bos, eosTokenIds } = special;
  if (bos !== undefined && !eosTokenIds.includes(bos)) {
    tokens.push({ id: bos, content: '<s>', role: 'bos_token' });
  }
  // Qwen's tokenizer class adds its own end token when the vocabulary lacks it.
  const end = config.family.startsWith('qwen') ? '<|endoftext|>' : '</s>';
  eosTokenIds.forEach((id, i) => {
    tokens.push({ id, content: i === 0 ? end : `</s_${i}>`, role: 'eos_token' });
  });
  const made = synthTokenizer(config.vocabSize, tokens, config.maxPositionEmbeddings);
  const eos = tokens.find(({ role }) => role === 'eos_token');
  const tokenizerConfig = {
    ...made.tokenizerConfig,
    ...(eos === undefined ? {} : { eos_token: eos.content }),
    ...(bos !== undefined && eosTokenIds.includes(bos)
      ? { bos_token: tokens.find(({ id }) => id === bos)!.content }
      : {}),
  };
  await writeFile(join(dir, 'tokenizer.json'), JSON.stringify(made.tokenizer));
  await writeJson(join(dir, 'tokenizer_config.json'), tokenizerConfig);
}

async function writeWeights(
  dir: string,
  config: ModelConfig,
  dtype: SynthDtype,
  options: SynthModelOptions,
): Promise<{ parameters: number; weightBytes: number }> {
  const specs: TensorSpec[] = expectedTensors(config, new Map()).map(({ name, shape }) => ({
    name,
    dtype,
    shape,
  }));
  const sizes = new Map(specs.map((s) => [s.name, tensorBytes(s.dtype, s.shape)!]));
  const weightBytes = [...sizes.values()].reduce((sum, bytes) => sum + bytes, 0);
  const shards = splitShards(specs, sizes, options.maxShardBytes ?? Number.POSITIVE_INFINITY);
  const weightMap: Record<string, string> = {};
  let done = 0;
  for (const [i, shard] of shards.entries()) {
    const number = (n: number): string => String(n).padStart(5, '0');
    const file =
      shards.length === 1
        ? WEIGHTS_FILE
        : `model-${number(i + 1)}-of-${number(shards.length)}.safetensors`;
    const writer = await SafetensorsWriter.create(join(dir, file), shard);
    try {
      for (const spec of shard) {
        weightMap[spec.name] = file;
        await writeTensor(writer, spec, dtype, options.seed ?? 0, (bytes) => {
          done += bytes;
          options.onProgress?.(done, weightBytes, spec.name);
        });
      }
      await writer.close();
    } catch (error) {
      await writer.abort();
      throw error;
    }
  }
  if (shards.length > 1) {
    const index = { metadata: { total_size: weightBytes }, weight_map: weightMap };
    await writeJson(join(dir, WEIGHTS_INDEX_FILE), index);
  }
  const elementBytes = weightBytes / (tensorBytes(dtype, [1]) ?? 1);
  return { parameters: elementBytes, weightBytes };
}

function splitShards(
  specs: TensorSpec[],
  sizes: ReadonlyMap<string, number>,
  maxShardBytes: number,
): TensorSpec[][] {
  const shards: TensorSpec[][] = [[]];
  let bytes = 0;
  for (const spec of specs) {
    const size = sizes.get(spec.name)!;
    if (bytes > 0 && bytes + size > maxShardBytes) {
      shards.push([]);
      bytes = 0;
    }
    shards.at(-1)!.push(spec);
    bytes += size;
  }
  return shards;
}

/** Mean and deviation that keep activations and logits near 1. */
function distribution({ name, shape }: TensorSpec): { mean: number; std: number } {
  if (name.endsWith('norm.weight')) return { mean: 1, std: 0.05 };
  if (name.endsWith('.bias')) return { mean: 0, std: 0.02 };
  if (name === EMBEDDING) return { mean: 0, std: 0.02 };
  return { mean: 0, std: 1 / Math.sqrt(shape[1]!) };
}

/** The stream of a tensor depends on the seed and its name alone. */
async function writeTensor(
  writer: SafetensorsWriter,
  spec: TensorSpec,
  dtype: SynthDtype,
  seed: number,
  onBytes: (bytes: number) => void,
): Promise<void> {
  const { mean, std } = distribution(spec);
  const source = new NormalSource(new Sfc32(seed, spec.name), dtype, mean, std);
  const total = tensorBytes(dtype, spec.shape)!;
  const chunk = new Uint8Array(Math.min(CHUNK_BYTES, total));
  for (let done = 0; done < total; done += chunk.byteLength) {
    const part = chunk.subarray(0, Math.min(chunk.byteLength, total - done));
    source.fill(part);
    await writer.write(part);
    onBytes(part.byteLength);
  }
}

async function writeJson(path: string, json: unknown): Promise<void> {
  await writeFile(path, `${JSON.stringify(json, null, 2)}\n`);
}
