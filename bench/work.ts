/** What a forward pass must do at least: bytes it reads and operations it performs. */
import type { ModelConfig } from '../src/importer/index.ts';
import { moduleShape } from '../src/importer/index.ts';
import { type KvDtype, LORA_MODULES } from '../src/native/addon-types.ts';
import type { Ceiling } from './ceiling.ts';

/** Number formats of weights, ours and the peers'. */
export type WeightFormat = 'float32' | 'bf16' | 'int8' | 'int4' | 'q8_0' | 'q4_0';

/** Bytes of one weight with its share of scales. */
const WEIGHT_BYTES: Record<WeightFormat, number> = {
  float32: 4,
  bf16: 2,
  // A float16 scale for 256 weights.
  int8: 1 + 2 / 256,
  // A float16 scale for 64 weights.
  int4: 0.5 + 2 / 64,
  // Blocks of 32 with a float16 scale.
  q8_0: 34 / 32,
  q4_0: 18 / 32,
};

/** Weights of all linear layers and the output head: what each token is multiplied with. */
export function linearWeights(config: ModelConfig): number {
  const layer = LORA_MODULES.reduce((sum, module) => {
    const [inFeatures, outFeatures] = moduleShape(config, module);
    return sum + inFeatures * outFeatures;
  }, 0);
  return config.numLayers * layer + headWeights(config);
}

function headWeights(config: ModelConfig): number {
  return config.hiddenSize * config.vocabSize;
}

/** Bytes of weights that every step reads. */
export function weightBytes(config: ModelConfig, format: WeightFormat): number {
  return linearWeights(config) * WEIGHT_BYTES[format];
}

/** Operations of a prompt's matrix products; the output head is needed for its last token only. */
export function promptOps(config: ModelConfig, tokens: number): number {
  return 2 * ((linearWeights(config) - headWeights(config)) * tokens + headWeights(config));
}

/** Bytes of one adapter on the given modules. */
export function adapterBytes(
  config: ModelConfig,
  targets: readonly (typeof LORA_MODULES)[number][],
  rank: number,
  elementBytes: number,
): number {
  const width = targets.reduce((sum, module) => {
    const [inFeatures, outFeatures] = moduleShape(config, module);
    return sum + inFeatures + outFeatures;
  }, 0);
  return config.numLayers * width * rank * elementBytes;
}

/** Bytes of one key or value, and of the scales of one head of them. */
const KV_BYTES: Readonly<Record<KvDtype, { element: number; scales: number }>> = {
  f32: { element: 4, scales: 0 },
  bf16: { element: 2, scales: 0 },
  int8: { element: 1, scales: 4 },
};
export const KV_DTYPES = Object.keys(KV_BYTES) as KvDtype[];

/** Bytes of keys and values of one token. */
export function kvBytes(config: ModelConfig, dtype: KvDtype): number {
  const { element, scales } = KV_BYTES[dtype];
  return config.numLayers * config.numKvHeads * 2 * (config.headSize * element + scales);
}

/** 10^12 operations per second of the instructions that suit a weight format. */
export function arithmeticCeiling(ceiling: Ceiling, format: WeightFormat): number | undefined {
  if (format === 'float32') return ceiling.value(ceiling.float32);
  if (format === 'bf16') return ceiling.value(ceiling.bf16);
  return ceiling.value(ceiling.int8);
}
