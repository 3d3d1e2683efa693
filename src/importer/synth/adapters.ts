/** Random LoRA adapters for a base model, as PEFT directories. */
import { mkdir, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { LoramuxError } from '../../errors.ts';
import { LORA_MODULES, type LoraModule } from '../../native/addon-types.ts';
import { openConfig } from '../import.ts';
import type { JsonObject } from '../json.ts';
import { modulePath, moduleShape } from '../modules.ts';
import { tensorBytes } from '../safetensors/header.ts';
import { SafetensorsWriter, type TensorSpec } from '../safetensors/writer.ts';
import type { ModelConfig, ProgressCallback } from '../types.ts';
import { NormalSource, Sfc32, type SynthDtype } from './random.ts';

const MAX_ADAPTERS = 100_000;
const MAX_RANK = 4_096;
/** The release whose fields the config follows. */
const PEFT_VERSION = '0.21.2';

export interface SynthAdapterOptions {
  count: number;
  /** Adapter i takes the i-th, cyclically. */
  ranks: readonly number[];
  /** Default: all seven modules. */
  targets?: readonly LoraModule[];
  seed?: number;
  /** Default F32, as PEFT saves. */
  dtype?: SynthDtype;
  /** Default 2 * rank, a common choice. */
  alpha?: number;
  /** Deviation of B; PEFT begins at 0, which would change nothing. Default 0.02. */
  stdB?: number;
  /** Directory names are prefix plus number; default `adapter-`. */
  prefix?: string;
  onProgress?: ProgressCallback;
}

export interface SynthAdapter {
  name: string;
  dir: string;
  rank: number;
}

/**
 * Writes `count` directories with adapter_config.json and adapter_model.safetensors.
 * @param modelDir base checkpoint; only its config.json is read.
 * @throws LoramuxError config_invalid, model_config_unsupported
 */
export async function synthesizeAdapters(
  modelDir: string,
  outDir: string,
  options: SynthAdapterOptions,
): Promise<SynthAdapter[]> {
  const { count, ranks, targets = LORA_MODULES, prefix = 'adapter-', onProgress } = options;
  checkRange('count', count, MAX_ADAPTERS);
  if (ranks.length === 0) throw new LoramuxError('config_invalid', 'ranks must not be empty.');
  for (const rank of ranks) checkRange('rank', rank, MAX_RANK);
  const modules = LORA_MODULES.filter((module) => targets.includes(module));
  if (modules.length === 0 || modules.length !== new Set(targets).size) {
    throw new LoramuxError(
      'config_invalid',
      `targets are ${targets.join(', ') || 'empty'}; allowed are ${LORA_MODULES.join(', ')}.`,
    );
  }
  const { config } = await openConfig(modelDir);
  const width = String(count - 1).length;
  const adapters: SynthAdapter[] = [];
  for (let i = 0; i < count; i++) {
    const rank = ranks[i % ranks.length]!;
    const name = `${prefix}${String(i).padStart(width, '0')}`;
    const dir = join(resolve(outDir), name);
    await mkdir(dir, { recursive: true });
    await writeAdapter(dir, modelDir, config, modules, rank, i, options);
    adapters.push({ name, dir, rank });
    onProgress?.(i + 1, count, name);
  }
  return adapters;
}

async function writeAdapter(
  dir: string,
  modelDir: string,
  config: ModelConfig,
  modules: readonly LoraModule[],
  rank: number,
  index: number,
  options: SynthAdapterOptions,
): Promise<void> {
  const { seed = 0, dtype = 'F32', alpha = 2 * rank, stdB = 0.02 } = options;
  const adapterConfig = peftConfig(resolve(modelDir), modules, rank, alpha);
  await writeFile(join(dir, 'adapter_config.json'), JSON.stringify(adapterConfig, null, 2));

  const tensors: (TensorSpec & { std: number })[] = [];
  for (let layer = 0; layer < config.numLayers; layer++) {
    for (const module of modules) {
      const [inFeatures, outFeatures] = moduleShape(config, module);
      const path = `base_model.model.${modulePath(layer, module)}`;
      // PEFT begins A at kaiming_uniform(a = sqrt(5)): variance 1 / (3 in).
      const stdA = 1 / Math.sqrt(3 * inFeatures);
      tensors.push({
        name: `${path}.lora_A.weight`,
        dtype,
        shape: [rank, inFeatures],
        std: stdA,
      });
      tensors.push({
        name: `${path}.lora_B.weight`,
        dtype,
        shape: [outFeatures, rank],
        std: stdB,
      });
    }
  }
  const writer = await SafetensorsWriter.create(join(dir, 'adapter_model.safetensors'), tensors);
  try {
    for (const { name, shape, std } of tensors) {
      const source = new NormalSource(new Sfc32(seed, index, name), dtype, 0, std);
      const bytes = new Uint8Array(tensorBytes(dtype, shape)!);
      source.fill(bytes);
      await writer.write(bytes);
    }
    await writer.close();
  } catch (error) {
    await writer.abort();
    throw error;
  }
}

/** The fields that PEFT's LoraConfig.save_pretrained writes, at their defaults but for ours. */
function peftConfig(
  base: string,
  modules: readonly LoraModule[],
  rank: number,
  alpha: number,
): JsonObject {
  return {
    alora_invocation_tokens: null,
    alpha_pattern: {},
    arrow_config: null,
    auto_mapping: null,
    base_model_name_or_path: base,
    bias: 'none',
    corda_config: null,
    ensure_weight_tying: false,
    eva_config: null,
    exclude_modules: null,
    fan_in_fan_out: false,
    inference_mode: true,
    init_lora_weights: true,
    kasa_config: null,
    layer_replication: null,
    layers_pattern: null,
    layers_to_transform: null,
    loftq_config: {},
    lora_alpha: alpha,
    lora_bias: false,
    lora_dropout: 0.0,
    lora_ga_config: null,
    megatron_config: null,
    megatron_core: 'megatron.core',
    modules_to_save: null,
    monteclora_config: null,
    peft_type: 'LORA',
    peft_version: PEFT_VERSION,
    qalora_group_size: 16,
    r: rank,
    rank_pattern: {},
    revision: null,
    target_modules: [...modules],
    target_parameters: null,
    task_type: 'CAUSAL_LM',
    trainable_token_indices: null,
    use_bdlora: null,
    use_dora: false,
    use_qalora: false,
    use_rslora: false,
    velora_config: null,
  };
}

function checkRange(name: string, value: number, max: number): void {
  if (!Number.isSafeInteger(value) || value < 1 || value > max) {
    throw new LoramuxError('config_invalid', `${name} is ${value}; it must be 1 to ${max}.`);
  }
}
