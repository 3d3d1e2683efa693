/** `quantization_config` of config.json: the one that the importer writes, GPTQ's and AWQ's. */
import { LoramuxError } from '../errors.ts';
import { PACKED_FORMATS, type PackedFormat } from '../native/addon-types.ts';
import { ConfigReader } from './config-reader.ts';
import { isJsonObject, type JsonObject } from './json.ts';
import { specProblem } from './packing/format.ts';
import type { CheckpointQuantization, ModelConfig, PackedDirectory, PackedSpec } from './types.ts';

export const QUANT_METHOD = 'loramux';
/** Version of the directories' layout: names, blobs and their formats. */
const LAYOUT_VERSION = 3;
const LABEL = 'quantization_config of config.json';

/** Keys of GPTQ and AWQ tools that say how the levels were found, not what they mean. */
const NO_EFFECT: Record<'gptq' | 'awq', readonly string[]> = {
  gptq: [
    'quant_method',
    'damp_percent',
    'damp_auto_increment',
    'static_groups',
    'true_sequential',
    'model_name_or_path',
    'model_file_base_name',
    'is_marlin_format',
    'meta',
    'mse',
    'act_group_aware',
    'offload_to_disk',
    'offload_to_disk_path',
    'pack_impl',
    'failsafe',
    'fallback',
    'gc_mode',
    // What the head is stored as shows in its tensors, the order of inputs in g_idx.
    'lm_head',
    'desc_act',
    // Options of transformers: calibration, and kernels of its own.
    'dataset',
    'tokenizer',
    'batch_size',
    'block_name_to_quantize',
    'module_name_preceding_first_block',
    'modules_in_block_to_quantize',
    'cache_block_outputs',
    'exllama_config',
    'use_exllama',
    'use_cuda_fp16',
    'max_input_length',
    'model_seqlen',
    'pad_token_id',
    'backend',
  ],
  awq: [
    'quant_method',
    'backend',
    'do_fuse',
    'fuse_max_seq_len',
    'modules_to_fuse',
    'exllama_config',
    'meta',
  ],
};

/**
 * Undefined when the checkpoint is not quantized.
 * @throws LoramuxError model_config_unsupported, model_quantization_unsupported (other tools),
 *   model_import_required (directories of older versions)
 */
export function readQuantizationConfig(config: ConfigReader): ModelConfig['quantization'] {
  const json = config.raw('quantization_config');
  if (json === undefined || json === null) return undefined;
  if (!isJsonObject(json)) throw config.unsupported('quantization_config', 'must be an object');
  switch (json.quant_method) {
    case QUANT_METHOD:
      return readPackedDirectory(json);
    case 'gptq':
    case 'awq':
      return readCheckpointQuantization(json, json.quant_method);
    default: {
      const method = JSON.stringify(json.quant_method) ?? 'absent';
      throw unsupported(
        `"quant_method" is ${method.slice(0, 100)}; known are "gptq" and "awq". Import the ` +
          'unquantized checkpoint instead',
      );
    }
  }
}

function readPackedDirectory(json: JsonObject): PackedDirectory {
  if (json.layout !== LAYOUT_VERSION) {
    const found = json.layout === undefined ? 'an older layout' : 'another layout';
    throw new LoramuxError(
      'model_import_required',
      `The directory has ${found} than this version of Loramux reads; import its source again ` +
        '(loramux import SOURCE --quantize FORMAT --out FOLDER).',
    );
  }
  const reader = new ConfigReader(json, LABEL);
  reader.ignore(['quant_method', 'layout']);
  const lmHead = reader.raw('lm_head');
  if (!isJsonObject(lmHead)) throw reader.unsupported('lm_head', 'must be an object');
  const head = new ConfigReader(lmHead, `lm_head in ${LABEL}`);
  const directory: PackedDirectory = {
    method: QUANT_METHOD,
    linears: readSpec(reader),
    lmHead: readSpec(head),
    sourceDigest: reader.string('source_digest'),
  };
  head.finish();
  reader.finish();
  return directory;
}

function readSpec(reader: ConfigReader): PackedSpec {
  const format = reader.string('format');
  if (!(PACKED_FORMATS as readonly string[]).includes(format)) {
    throw reader.unsupported('format', `must be one of ${PACKED_FORMATS.join(', ')}`);
  }
  const spec: PackedSpec = {
    format: format as PackedFormat,
    groupSize: reader.integer('group_size', { min: 0 }),
    zeroPoints: reader.boolean('zero_points', false),
    ...(reader.boolean('rotated', false) && { rotated: true }),
  };
  const problem = specProblem(spec);
  if (problem !== undefined) throw reader.unsupported('group_size', problem);
  return spec;
}

/** The JSON form of a packed directory's settings, but for the digest. */
export function packedDirectoryJson(packing: Pick<PackedDirectory, 'linears' | 'lmHead'>) {
  const spec = ({ format, groupSize, zeroPoints, rotated }: PackedSpec): JsonObject => ({
    format,
    group_size: groupSize,
    zero_points: zeroPoints,
    ...(rotated && { rotated }),
  });
  return {
    quant_method: QUANT_METHOD,
    layout: LAYOUT_VERSION,
    ...spec(packing.linears),
    lm_head: spec(packing.lmHead),
  } satisfies JsonObject;
}

/** Key of the weight file's `__metadata__` that says how its blobs are packed. */
export const PACKING_KEY = 'loramux_packing';

/**
 * Value of PACKING_KEY. Blobs of other settings may have the same sizes, so that only this shows
 * when config.json and weights do not belong together.
 */
export function packingLabel(packing: Pick<PackedDirectory, 'linears' | 'lmHead'>): string {
  return JSON.stringify(packedDirectoryJson(packing));
}

/** AutoGPTQ, GPTQModel, AutoAWQ, and transformers, which writes the same keys. */
function readCheckpointQuantization(
  json: JsonObject,
  method: 'gptq' | 'awq',
): CheckpointQuantization {
  const reader = new ConfigReader(json, LABEL);
  reader.ignore(NO_EFFECT[method]);
  const bits = reader.integer('bits');
  const groupSize = reader.integer('group_size', { fallback: 128 });
  if (groupSize !== -1 && groupSize < 1) {
    throw reader.unsupported('group_size', 'must be positive, or -1');
  }
  const common = { method, groupSize: groupSize === -1 ? undefined : groupSize };
  if (method === 'awq') {
    if (bits !== 4) throw unsupported(`AWQ checkpoints have 4 bits, not ${bits}`);
    const version = reader.string('version', 'gemm').toLowerCase();
    if (version !== 'gemm') throw unsupported(`of AWQ's versions only "gemm", not "${version}"`);
    if (!reader.boolean('zero_point', true)) {
      throw unsupported('AWQ checkpoints without zero points');
    }
    reader.mustBeEmpty('modules_to_not_convert', 'layers that were left out are not supported');
    reader.finish();
    return { ...common, bits, symmetric: false, zeroOffset: 0 };
  }
  if (bits !== 4 && bits !== 8) throw unsupported(`GPTQ checkpoints of 4 or 8 bits, not ${bits}`);
  const symmetric = reader.boolean('sym', true);
  if (bits === 8 && !symmetric) {
    throw unsupported('GPTQ checkpoints of 8 bits with zero points ("sym" false)');
  }
  const format = reader.raw('checkpoint_format') ?? reader.raw('format') ?? 'gptq';
  reader.ignore(['checkpoint_format', 'format']);
  if (format !== 'gptq' && format !== 'gptq_v2') {
    throw unsupported(`GPTQ's "checkpoint_format" ${JSON.stringify(format)}`);
  }
  reader.mustBe('pack_dtype', ['int32'], 'levels lie in words of 32 bits');
  reader.mustBeEmpty('dynamic', 'rules for single layers are not supported');
  for (const key of ['rotation', 'adapter']) {
    reader.mustBeEmpty(key, 'the weights are not those of the model then');
  }
  reader.finish();
  return { ...common, bits, symmetric, zeroOffset: format === 'gptq' ? 1 : 0 };
}

function unsupported(what: string): LoramuxError {
  return new LoramuxError('model_quantization_unsupported', `${LABEL}: unsupported: ${what}.`);
}
