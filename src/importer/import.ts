/** A Hugging Face directory -> ONNX graph in memory. Nothing is written. */
import { join, resolve } from 'node:path';
import { LoramuxError } from '../errors.ts';
import { LORA_MODULES, type NativeModel } from '../native/addon-types.ts';
import { type Checkpoint, externalDataLayout, openCheckpoint, weightDigest } from './checkpoint.ts';
import { parseModelConfig, readSpecialTokens } from './config.ts';
import { buildFloatGraph } from './graph.ts';
import type { JsonObject } from './json.ts';
import { readJsonFile } from './json-file.ts';
import { describeModules, moduleShape } from './modules.ts';
import { buildPackedGraph } from './packed-graph.ts';
import { choosePacking } from './packing/format.ts';
import type { ImportedModel, ModelConfig, Packing, WeightsMode } from './types.ts';
import { checkWeights } from './weights.ts';

export const CONFIG_FILE = 'config.json';
export const GENERATION_CONFIG_FILE = 'generation_config.json';

export interface ImportOptions {
  /**
   * Default `auto`: the format of a packed directory; else bf16 when most bytes of the weights are
   * BF16, float32 otherwise. Packed formats of other checkpoints are packed when the session is
   * made; nothing is written.
   */
  weights?: WeightsMode | undefined;
  /** Inputs per weight scale of int8 and int4, as PackingOptions has it. */
  weightsGroupSize?: number | undefined;
}

/**
 * Reads and checks a checkpoint and builds its graph; weights stay in their files.
 * @param dir a directory with config.json and safetensors weights, as transformers writes it.
 * @throws LoramuxError model_config_unsupported, model_weights_invalid, safetensors_invalid,
 *   safetensors_dtype_unsupported, model_import_required, config_invalid (options)
 */
export async function importModel(
  dir: string,
  options: ImportOptions = {},
): Promise<ImportedModel> {
  const source = await openModel(dir);
  const { checkpoint, config } = source;
  const layout = externalDataLayout(checkpoint);
  const dtype = mainDtype(checkpoint);
  const packing = resolvePacking(checkpoint.dir, config, dtype, options);
  const graph = { config, tensors: checkpoint.tensors, location: layout.location };
  const modelBytes =
    packing === undefined ? buildFloatGraph(graph) : buildPackedGraph(graph, packing);
  return {
    dir: checkpoint.dir,
    native: nativeModel(config, modelBytes, layout.dir, packing !== undefined),
    metadata: {
      config,
      ...readSpecialTokens(source.configJson, source.generationConfig, config.vocabSize),
      weightDigest: await weightDigest(checkpoint, source.configBytes),
      modules: describeModules(config),
      weightBytes: checkpoint.weightBytes,
      dtype,
      weights: packing?.linears.format ?? 'float32',
    },
  };
}

/** How the linear layers are packed; undefined for the float32 graph. */
function resolvePacking(
  dir: string,
  config: ModelConfig,
  dtype: string,
  { weights = 'auto', weightsGroupSize: groupSize }: ImportOptions,
): Packing | undefined {
  const { quantization } = config;
  if (quantization?.method === 'loramux') {
    const { linears } = quantization;
    if (
      (weights !== 'auto' && weights !== linears.format) ||
      (groupSize !== undefined && groupSize !== linears.groupSize)
    ) {
      throw new LoramuxError(
        'config_invalid',
        `${dir} holds weights packed as ${linears.format} with group size ${linears.groupSize}; ` +
          `they cannot be used as ${weights}${groupSize === undefined ? '' : ` with group size ${groupSize}`}.`,
      );
    }
    return quantization;
  }
  if (quantization !== undefined) {
    const method = quantization.method.toUpperCase();
    throw new LoramuxError(
      'model_import_required',
      `${dir} is a ${method} checkpoint. Pack it once and serve the result: ` +
        `loramux import ${dir} --out FOLDER`,
    );
  }
  const kind = weights !== 'auto' ? weights : dtype === 'BF16' ? 'bf16' : 'float32';
  if (kind === 'float32') {
    if (groupSize === undefined) return undefined;
    throw new LoramuxError('config_invalid', 'float32 weights have no group size.');
  }
  return choosePacking(kind, { groupSize });
}

/** A checkpoint whose config and headers were read and agree. */
export interface OpenedModel {
  checkpoint: Checkpoint;
  config: ModelConfig;
  configJson: JsonObject;
  configBytes: Uint8Array;
  generationConfig: JsonObject | undefined;
}

/** @throws as importModel */
export async function openModel(dir: string): Promise<OpenedModel> {
  const opened = await openConfig(dir);
  const checkpoint = await openCheckpoint(resolve(dir));
  checkWeights(opened.config, checkpoint);
  return { checkpoint, ...opened };
}

/**
 * Reads the configs alone, without the weights.
 * @throws LoramuxError model_config_unsupported
 */
export async function openConfig(dir: string): Promise<Omit<OpenedModel, 'checkpoint'>> {
  const absolute = resolve(dir);
  const configFile = await readJsonFile(join(absolute, CONFIG_FILE), 'model_config_unsupported');
  if (configFile === undefined) {
    throw new LoramuxError(
      'model_config_unsupported',
      `${absolute} is not a checkpoint: it has no ${CONFIG_FILE}.`,
    );
  }
  const generationConfig = await readJsonFile(
    join(absolute, GENERATION_CONFIG_FILE),
    'model_config_unsupported',
  );
  return {
    config: parseModelConfig(configFile.json),
    configJson: configFile.json,
    configBytes: configFile.bytes,
    generationConfig: generationConfig?.json,
  };
}

function nativeModel(
  config: ModelConfig,
  modelBytes: Uint8Array,
  externalDataDir: string,
  packedWeights: boolean,
): NativeModel {
  return {
    modelBytes,
    externalDataDir,
    numLayers: config.numLayers,
    numHeads: config.numHeads,
    numKvHeads: config.numKvHeads,
    headSize: config.headSize,
    hiddenSize: config.hiddenSize,
    vocabSize: config.vocabSize,
    moduleShapes: Int32Array.from(LORA_MODULES.flatMap((module) => moduleShape(config, module))),
    rope: config.rope,
    packedWeights,
  };
}

/** The element type that takes the most bytes. */
function mainDtype(checkpoint: Checkpoint): string {
  const bytes = new Map<string, number>();
  for (const { dtype, begin, end } of checkpoint.tensors.values()) {
    bytes.set(dtype, (bytes.get(dtype) ?? 0) + end - begin);
  }
  return [...bytes].sort(([, a], [, b]) => b - a)[0]?.[0] ?? 'F32';
}
