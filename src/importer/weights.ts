/** Which tensors a checkpoint must have, and that it has exactly those. */
import { LoramuxError } from '../errors.ts';
import { LORA_MODULES } from '../native/addon-types.ts';
import type { Checkpoint } from './checkpoint.ts';
import { modulePath, moduleShape } from './modules.ts';
import { BLOB_ALIGNMENT, packedBytes, packedShape } from './packing/format.ts';
import { PACKING_KEY, packingLabel } from './quantization-config.ts';
import type { SafetensorsDtype } from './safetensors/header.ts';
import type { CheckpointQuantization, ModelConfig, PackedDirectory, PackedSpec } from './types.ts';

export const EMBEDDING = 'model.embed_tokens.weight';
export const FINAL_NORM = 'model.norm.weight';
export const LM_HEAD = 'lm_head';

/** Element types that are widened to float32 exactly. */
export const FLOAT_DTYPES: readonly SafetensorsDtype[] = ['F32', 'F16', 'BF16'];

/** Buffers that older checkpoints saved; recomputed from the config. */
const IGNORED_TENSORS = /^model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq$/;
const MAX_LISTED = 5;

export interface ExpectedTensor {
  name: string;
  shape: readonly number[];
  dtypes: readonly SafetensorsDtype[];
  /** May be absent. */
  optional?: true;
}

/** A linear layer of the model. */
export interface LinearSpec {
  /** Module path, e.g. `model.layers.0.mlp.up_proj`. */
  path: string;
  inFeatures: number;
  outFeatures: number;
  bias: boolean;
}

/** The adaptable linear layers, layer by layer in the order of LORA_MODULES. */
export function adaptableLinears(config: ModelConfig): LinearSpec[] {
  const linears: LinearSpec[] = [];
  for (let layer = 0; layer < config.numLayers; layer++) {
    for (const module of LORA_MODULES) {
      const [inFeatures, outFeatures] = moduleShape(config, module);
      const number = LORA_MODULES.indexOf(module);
      const bias =
        number < 3 ? config.bias.qkv : module === 'o_proj' ? config.bias.o : config.bias.mlp;
      linears.push({ path: modulePath(layer, module), inFeatures, outFeatures, bias });
    }
  }
  return linears;
}

/** The output head, whether or not its weights are the embedding's. */
export function lmHeadLinear(config: ModelConfig): LinearSpec {
  return {
    path: LM_HEAD,
    inFeatures: config.hiddenSize,
    outFeatures: config.vocabSize,
    bias: false,
  };
}

/** Name of the blob of a packed linear layer. */
export function packedName(path: string): string {
  return `${path}.packed`;
}

/** The blob of a packed linear layer. */
export function packedTensor(linear: LinearSpec, spec: PackedSpec): ExpectedTensor {
  return {
    name: packedName(linear.path),
    shape: [packedBytes(packedShape(spec, linear))],
    dtypes: ['U8'],
  };
}

/** Tensors of a linear layer of a GPTQ or AWQ checkpoint; layouts: checkpoint_levels.h. */
export function levelTensors(
  { path, inFeatures, outFeatures, bias }: LinearSpec,
  { method, bits, groupSize = inFeatures }: CheckpointQuantization,
): ExpectedTensor[] {
  const groups = Math.ceil(inFeatures / groupSize);
  const words = (features: number): number => (features * bits) / 32;
  const levels =
    method === 'gptq' ? [words(inFeatures), outFeatures] : [inFeatures, words(outFeatures)];
  const tensors: ExpectedTensor[] = [
    { name: `${path}.qweight`, shape: levels, dtypes: ['I32'] },
    { name: `${path}.qzeros`, shape: [groups, words(outFeatures)], dtypes: ['I32'] },
    { name: `${path}.scales`, shape: [groups, outFeatures], dtypes: FLOAT_DTYPES },
  ];
  if (method === 'gptq') {
    tensors.push({ name: `${path}.g_idx`, shape: [inFeatures], dtypes: ['I32'], optional: true });
    // Older tools gave every layer a bias; where the model has none it is zeros.
    if (!bias) {
      tensors.push({
        name: `${path}.bias`,
        shape: [outFeatures],
        dtypes: FLOAT_DTYPES,
        optional: true,
      });
    }
  }
  return tensors;
}

/** True when lm_head has weights of its own, false when it shares the embedding's. */
export function hasOwnLmHead(
  config: ModelConfig,
  tensors: { has(name: string): boolean },
): boolean {
  if (config.quantization?.method === 'loramux') return true;
  // A tied checkpoint that stores lm_head all the same: what it stores rules, as in transformers 5.
  return !config.tieWordEmbeddings || hasFloatLmHead(tensors) || hasQuantizedLmHead(tensors);
}

function hasFloatLmHead(tensors: { has(name: string): boolean }): boolean {
  return tensors.has(`${LM_HEAD}.weight`);
}

/** GPTQ tools may quantize the head too. */
export function hasQuantizedLmHead(tensors: { has(name: string): boolean }): boolean {
  return tensors.has(`${LM_HEAD}.qweight`);
}

/** Every tensor the model needs. */
export function expectedTensors(
  config: ModelConfig,
  tensors: { has(name: string): boolean },
): ExpectedTensor[] {
  const { hiddenSize, quantization } = config;
  const float = (name: string, shape: number[]): ExpectedTensor => ({
    name,
    shape,
    dtypes: FLOAT_DTYPES,
  });
  const linear = (spec: LinearSpec): ExpectedTensor[] => {
    const list: ExpectedTensor[] = [];
    const isHead = spec.path === LM_HEAD;
    if (quantization?.method === 'loramux') {
      list.push(packedTensor(spec, isHead ? quantization.lmHead : quantization.linears));
    } else if (quantization !== undefined && (!isHead || hasQuantizedLmHead(tensors))) {
      list.push(...levelTensors(spec, quantization));
    } else {
      list.push(float(`${spec.path}.weight`, [spec.outFeatures, spec.inFeatures]));
    }
    if (spec.bias) list.push(float(`${spec.path}.bias`, [spec.outFeatures]));
    return list;
  };
  const expected: ExpectedTensor[] = [float(EMBEDDING, [config.vocabSize, hiddenSize])];
  for (const spec of adaptableLinears(config)) expected.push(...linear(spec));
  for (let layer = 0; layer < config.numLayers; layer++) {
    const prefix = `model.layers.${layer}`;
    expected.push(float(`${prefix}.input_layernorm.weight`, [hiddenSize]));
    expected.push(float(`${prefix}.post_attention_layernorm.weight`, [hiddenSize]));
    if (config.qkNorm) {
      expected.push(float(`${prefix}.self_attn.q_norm.weight`, [config.headSize]));
      expected.push(float(`${prefix}.self_attn.k_norm.weight`, [config.headSize]));
    }
  }
  expected.push(float(FINAL_NORM, [hiddenSize]));
  if (hasOwnLmHead(config, tensors)) expected.push(...linear(lmHeadLinear(config)));
  return expected;
}

/**
 * Checks that the checkpoint has exactly the model's tensors, with their shapes; that a packed
 * directory's blobs are those of its config.json, and lie where kernels can read them.
 * @throws LoramuxError model_weights_invalid, safetensors_dtype_unsupported
 */
export function checkWeights(config: ModelConfig, checkpoint: Checkpoint): void {
  const { tensors, dir } = checkpoint;
  const expected = expectedTensors(config, tensors);
  const missing = expected
    .filter(({ name, optional }) => optional !== true && !tensors.has(name))
    .map(({ name }) => name);
  if (missing.length > 0) throw invalid(dir, `lacks ${list(missing)}`);

  const known = new Set(expected.map(({ name }) => name));
  const extra = [...tensors.keys()].filter(
    (name) => !known.has(name) && !IGNORED_TENSORS.test(name),
  );
  if (extra.length > 0) {
    throw invalid(
      dir,
      `has tensors that a ${config.architecture} with this config.json does not use: ${list(extra)}`,
    );
  }
  for (const { name, shape, dtypes } of expected) {
    const tensor = tensors.get(name);
    if (tensor === undefined) continue;
    if (tensor.shape.length !== shape.length || shape.some((d, i) => tensor.shape[i] !== d)) {
      throw invalid(
        dir,
        `has ${name} of shape [${tensor.shape.join(', ')}], config.json needs [${shape.join(', ')}]`,
      );
    }
    if (!dtypes.includes(tensor.dtype)) {
      throw new LoramuxError(
        'safetensors_dtype_unsupported',
        `The checkpoint ${dir} has ${name} as ${tensor.dtype}; supported are ${dtypes.join(', ')}.`,
      );
    }
  }
  if (config.quantization?.method === 'loramux') checkBlobs(config.quantization, checkpoint);
}

function checkBlobs(packing: PackedDirectory, { dir, tensors, metadata }: Checkpoint): void {
  const label = packingLabel(packing);
  if (metadata.some((entries) => entries.get(PACKING_KEY) !== label)) {
    throw invalid(dir, 'has weights that were not packed as its config.json says');
  }
  for (const [name, { dtype, begin }] of tensors) {
    if (dtype !== 'U8' || begin % BLOB_ALIGNMENT === 0) continue;
    throw invalid(dir, `has ${name} at byte ${begin}, which is no multiple of ${BLOB_ALIGNMENT}`);
  }
}

function list(names: readonly string[]): string {
  const shown = names.slice(0, MAX_LISTED).join(', ');
  return names.length > MAX_LISTED ? `${shown} and ${names.length - MAX_LISTED} more` : shown;
}

function invalid(dir: string, what: string): LoramuxError {
  return new LoramuxError('model_weights_invalid', `The checkpoint ${dir} ${what}.`);
}
