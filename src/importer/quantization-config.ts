/** The `quantization_config` of config.json that our own quantizer writes. */
import { ConfigReader } from './config-reader.ts';
import { isJsonObject, type JsonObject } from './json.ts';
import type { QuantizationConfig } from './types.ts';

export const QUANT_METHOD = 'loramux';
/** Group sizes that MatMulNBits has packed kernels for. */
export const GROUP_SIZES = [16, 32, 64, 128, 256] as const;

/**
 * Undefined when the checkpoint is not quantized.
 * @throws LoramuxError model_config_unsupported for foreign quantization (GPTQ, AWQ, ...).
 */
export function readQuantizationConfig(config: ConfigReader): QuantizationConfig | undefined {
  const json = config.raw('quantization_config');
  if (json === undefined || json === null) return undefined;
  if (!isJsonObject(json)) throw config.unsupported('quantization_config', 'must be an object');
  if (json.quant_method !== QUANT_METHOD) {
    throw config.unsupported(
      'quantization_config',
      `only quant_method "${QUANT_METHOD}" is supported; import the unquantized checkpoint instead`,
    );
  }
  const reader = new ConfigReader(json, 'quantization_config of config.json');
  reader.ignore(['quant_method']);
  const bits = reader.integer('bits');
  if (bits !== 4 && bits !== 8) throw reader.unsupported('bits', 'must be 4 or 8');
  const groupSize = reader.integer('group_size');
  if (!(GROUP_SIZES as readonly number[]).includes(groupSize)) {
    throw reader.unsupported('group_size', `must be one of ${GROUP_SIZES.join(', ')}`);
  }
  const quantization: QuantizationConfig = {
    bits,
    groupSize,
    symmetric: reader.boolean('symmetric', true),
    lmHead: reader.boolean('lm_head', false),
    sourceDigest: reader.string('source_digest'),
  };
  reader.finish();
  return quantization;
}

/** The JSON form of a quantization config. */
export function quantizationConfigJson(config: QuantizationConfig): JsonObject {
  return {
    quant_method: QUANT_METHOD,
    bits: config.bits,
    group_size: config.groupSize,
    symmetric: config.symmetric,
    lm_head: config.lmHead,
    source_digest: config.sourceDigest,
  };
}
