/**
 * The same weights for llama.cpp: a Hugging Face checkpoint and PEFT adapters as GGUF files, with
 * the names and orders that convert_hf_to_gguf.py and convert_lora_to_gguf.py of llama.cpp give
 * them. The vocabulary is left out: benchmarks speak token ids.
 */
import { existsSync } from 'node:fs';
import { mkdir, open, readFile, rename } from 'node:fs/promises';
import path from 'node:path';
import { importModel, type ModelConfig, readSafetensorsHeader } from '../../src/importer/index.ts';
import { cached } from '../checkpoints.ts';
import { type GgmlType, type GgufTensor, type GgufValue, GgufWriter } from './gguf.ts';

/** llama.cpp's numbers of general.file_type. */
const FILE_TYPE = { F32: 0, F16: 1, Q4_0: 2, Q8_0: 7 } as const;

const LAYER_NAMES: Readonly<Record<string, string>> = {
  'input_layernorm.weight': 'attn_norm.weight',
  'post_attention_layernorm.weight': 'ffn_norm.weight',
  'self_attn.q_proj.weight': 'attn_q.weight',
  'self_attn.k_proj.weight': 'attn_k.weight',
  'self_attn.v_proj.weight': 'attn_v.weight',
  'self_attn.o_proj.weight': 'attn_output.weight',
  'self_attn.q_proj.bias': 'attn_q.bias',
  'self_attn.k_proj.bias': 'attn_k.bias',
  'self_attn.v_proj.bias': 'attn_v.bias',
  'mlp.gate_proj.weight': 'ffn_gate.weight',
  'mlp.up_proj.weight': 'ffn_up.weight',
  'mlp.down_proj.weight': 'ffn_down.weight',
};

const MODEL_NAMES: Readonly<Record<string, string>> = {
  'model.embed_tokens.weight': 'token_embd.weight',
  'model.norm.weight': 'output_norm.weight',
  'lm_head.weight': 'output.weight',
};

/** llama.cpp's name of a tensor; undefined: it has none. */
export function ggufName(name: string): string | undefined {
  const layer = /^model\.layers\.(\d+)\.(.+)$/.exec(name);
  if (layer === null) return MODEL_NAMES[name];
  const inside = LAYER_NAMES[layer[2]!];
  return inside === undefined ? undefined : `blk.${layer[1]}.${inside}`;
}

/**
 * Rows of a q or k projection in llama.cpp's order for the llama family, whose rotary embedding
 * pairs neighbours: within a head, row i of the first half comes before row i of the second.
 */
export function pairNeighbours(values: Float32Array, heads: number, columns: number): Float32Array {
  const out = new Float32Array(values.length);
  const half = values.length / columns / heads / 2;
  for (let head = 0; head < heads; head++) {
    for (let part = 0; part < 2; part++) {
      for (let i = 0; i < half; i++) {
        const from = (head * 2 * half + part * half + i) * columns;
        const to = (head * 2 * half + 2 * i + part) * columns;
        out.set(values.subarray(from, from + columns), to);
      }
    }
  }
  return out;
}

/** Heads whose rows have to change order in a tensor; 0: none. */
function headsOf(name: string, config: ModelConfig): number {
  if (config.family !== 'llama' && config.family !== 'mistral') return 0;
  if (/\bq_proj\b/.test(name)) return config.numHeads;
  return /\bk_proj\b/.test(name) ? config.numKvHeads : 0;
}

function architecture(config: ModelConfig): string {
  return config.family === 'mistral' ? 'llama' : config.family;
}

function modelMetadata(
  config: ModelConfig,
  type: GgmlType,
  ropeTheta: number,
): Record<string, GgufValue> {
  const name = architecture(config);
  const u32 = (value: number): GgufValue => ({ type: 'u32', value });
  const f32 = (value: number): GgufValue => ({ type: 'f32', value });
  return {
    'general.architecture': { type: 'string', value: name },
    'general.type': { type: 'string', value: 'model' },
    'general.file_type': u32(FILE_TYPE[type]),
    [`${name}.block_count`]: u32(config.numLayers),
    [`${name}.context_length`]: u32(config.maxPositionEmbeddings),
    [`${name}.embedding_length`]: u32(config.hiddenSize),
    [`${name}.feed_forward_length`]: u32(config.intermediateSize),
    [`${name}.attention.head_count`]: u32(config.numHeads),
    [`${name}.attention.head_count_kv`]: u32(config.numKvHeads),
    [`${name}.attention.key_length`]: u32(config.headSize),
    [`${name}.attention.value_length`]: u32(config.headSize),
    [`${name}.attention.layer_norm_rms_epsilon`]: f32(config.rmsNormEps),
    [`${name}.rope.dimension_count`]: u32(config.headSize),
    [`${name}.rope.freq_base`]: f32(ropeTheta),
    [`${name}.vocab_size`]: u32(config.vocabSize),
    'tokenizer.ggml.model': { type: 'string', value: 'no_vocab' },
  };
}

/** A tensor of a safetensors file as float32. */
async function readFloats(
  file: string,
  { begin, end, dtype }: { begin: number; end: number; dtype: string },
): Promise<Float32Array> {
  const bytes = new Uint8Array(end - begin);
  const handle = await open(file, 'r');
  try {
    const { bytesRead } = await handle.read(bytes, 0, bytes.length, begin);
    if (bytesRead !== bytes.length) throw new Error(`${file} is short`);
  } finally {
    await handle.close();
  }
  if (dtype === 'F32') return new Float32Array(bytes.buffer);
  if (dtype !== 'BF16') throw new Error(`${file} has ${dtype} tensors; bf16 and f32 can be read`);
  const halves = new Uint16Array(bytes.buffer);
  const out = new Uint32Array(halves.length);
  for (let i = 0; i < halves.length; i++) out[i] = halves[i]! << 16;
  return new Float32Array(out.buffer);
}

/** Factors on the wave lengths that scaled rotary embeddings have, or undefined. */
function ropeFactors(config: ModelConfig, theta: number): Float32Array | undefined {
  const { invFreq } = config.rope;
  const factors = invFreq.map((f, i) => theta ** ((-2 * i) / config.headSize) / f);
  return factors.some((factor) => Math.abs(factor - 1) > 1e-4) ? factors : undefined;
}

/** The checkpoint as a GGUF file whose matrices have one type; written now or before. */
export async function ggufModel(modelDir: string, cache: string, type: GgmlType): Promise<string> {
  const folder = path.join(cache, 'gguf', `${path.basename(modelDir)}-${type}`);
  await cached(folder, async (work) => {
    console.error(`writing ${path.basename(modelDir)} as ${type} GGUF ...`);
    await mkdir(work, { recursive: true });
    await writeModel(modelDir, path.join(work, 'model.gguf'), type);
  });
  return path.join(folder, 'model.gguf');
}

async function writeModel(modelDir: string, out: string, type: GgmlType): Promise<void> {
  const { config } = (await importModel(modelDir)).metadata;
  const file = path.join(modelDir, 'model.safetensors');
  const { tensors } = await readSafetensorsHeader(file);
  const specs = [...tensors].flatMap(([name, source]) => {
    const ggml = ggufName(name);
    if (ggml === undefined) throw new Error(`${name} has no name in llama.cpp`);
    const shape = source.shape;
    const spec: GgufTensor = { name: ggml, type: shape.length === 1 ? 'F32' : type, shape };
    return [{ name, source, spec }];
  });
  const theta = await ropeTheta(modelDir);
  const factors = ropeFactors(config, theta);
  const extra: GgufTensor[] =
    factors === undefined
      ? []
      : [{ name: 'rope_freqs.weight', type: 'F32', shape: [factors.length] }];
  const writer = await GgufWriter.create(out, modelMetadata(config, type, theta), [
    ...specs.map(({ spec }) => spec),
    ...extra,
  ]);
  for (const { name, source, spec } of specs) {
    const values = await readFloats(file, source);
    const heads = headsOf(name, config);
    const columns = spec.shape.length === 1 ? 1 : spec.shape[1]!;
    await writer.write(heads === 0 ? values : pairNeighbours(values, heads, columns));
  }
  if (factors !== undefined) await writer.write(factors);
  await writer.close();
}

async function ropeTheta(modelDir: string): Promise<number> {
  const json = JSON.parse(await readFile(path.join(modelDir, 'config.json'), 'utf8')) as {
    rope_theta?: number;
    rope_parameters?: { rope_theta?: number };
  };
  return json.rope_theta ?? json.rope_parameters?.rope_theta ?? 10_000;
}

/** A PEFT adapter as a GGUF file in float16, the converter's default; written now or before. */
export async function ggufAdapter(
  adapterDir: string,
  modelDir: string,
  alpha: number,
): Promise<string> {
  const out = path.join(adapterDir, 'adapter.gguf');
  if (existsSync(out)) return out;
  const { config } = (await importModel(modelDir)).metadata;
  const file = path.join(adapterDir, 'adapter_model.safetensors');
  const { tensors } = await readSafetensorsHeader(file);
  const specs = [...tensors].map(([name, source]) => {
    const parts = /^base_model\.model\.(.+)\.lora_([AB])\.weight$/.exec(name);
    const ggml = ggufName(`${parts?.[1]}.weight`);
    if (parts === null || ggml === undefined) throw new Error(`${name} has no name in llama.cpp`);
    const part = parts[2] === 'A' ? 'lora_a' : 'lora_b';
    const spec: GgufTensor = { name: `${ggml}.${part}`, type: 'F16', shape: source.shape };
    return { heads: parts[2] === 'B' ? headsOf(name, config) : 0, source, spec };
  });
  const work = `${out}.${process.pid}`;
  const writer = await GgufWriter.create(
    work,
    {
      'general.architecture': { type: 'string', value: architecture(config) },
      'general.type': { type: 'string', value: 'adapter' },
      'general.file_type': { type: 'u32', value: FILE_TYPE.F16 },
      'adapter.type': { type: 'string', value: 'lora' },
      'adapter.lora.alpha': { type: 'f32', value: alpha },
    },
    specs.map(({ spec }) => spec),
  );
  for (const { heads, source, spec } of specs) {
    const values = await readFloats(file, source);
    await writer.write(heads === 0 ? values : pairNeighbours(values, heads, spec.shape[1]!));
  }
  await writer.close();
  await rename(work, out);
  return out;
}
