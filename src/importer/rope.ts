/**
 * Inverse frequencies of rotary position embedding, with the float32 roundings of Hugging Face
 * transformers (modeling_rope_utils.py), so that angles at far positions agree.
 */
import type { RopeParameters } from '../native/addon-types.ts';
import { ConfigReader } from './config-reader.ts';
import { isJsonObject, type JsonObject } from './json.ts';

/** What transformers assumes when a config names no base. */
const DEFAULT_ROPE_THETA = 10_000;
const { fround } = Math;

export interface RopeContext {
  headSize: number;
  maxPositionEmbeddings: number;
}

/**
 * Reads the rope settings of a config in either layout: `rope_parameters` (transformers 5, with
 * rope_theta inside) or `rope_scaling` beside a top-level `rope_theta`.
 * @throws LoramuxError model_config_unsupported
 */
export function readRope(config: ConfigReader, context: RopeContext): RopeParameters {
  config.mustBe('partial_rotary_factor', [1], 'the whole head is rotated');
  config.mustBe('rope_interleaved', [false], 'halves are rotated, not pairs');
  const topTheta = config.raw('rope_theta');
  const topOriginal = config.raw('original_max_position_embeddings');
  const scaling = readScaling(config);
  const label = 'rope_parameters (or rope_scaling) of config.json';
  const reader = new ConfigReader(scaling, label);
  reader.mustBe('partial_rotary_factor', [1], 'the whole head is rotated');

  const type = reader.string('rope_type', reader.has('type') ? reader.string('type') : 'default');
  reader.mustBe('type', [type], 'it contradicts rope_type');
  const fallback = typeof topTheta === 'number' ? topTheta : DEFAULT_ROPE_THETA;
  if (topTheta !== undefined && topTheta !== null && typeof topTheta !== 'number') {
    throw config.unsupported('rope_theta', 'must be a number');
  }
  const base = reader.number('rope_theta', { fallback, min: 1 });

  const rope = ropeOfType(type, base, reader, context, topOriginal);
  reader.finish();
  return rope;
}

function readScaling(config: ConfigReader): JsonObject {
  const legacy = config.raw('rope_scaling');
  const current = config.raw('rope_parameters');
  for (const [key, value] of [
    ['rope_scaling', legacy],
    ['rope_parameters', current],
  ] as const) {
    if (value !== undefined && value !== null && !isJsonObject(value)) {
      throw config.unsupported(key, 'must be an object');
    }
  }
  // transformers: `rope_scaling or rope_parameters`; an empty object counts as absent.
  if (isJsonObject(legacy) && Object.keys(legacy).length > 0) {
    if (isJsonObject(current) && JSON.stringify(current) !== JSON.stringify(legacy)) {
      throw config.unsupported('rope_scaling', 'contradicts rope_parameters; keep one of them');
    }
    return legacy;
  }
  return isJsonObject(current) ? current : {};
}

function ropeOfType(
  type: string,
  base: number,
  reader: ConfigReader,
  context: RopeContext,
  topOriginal: unknown,
): RopeParameters {
  const { headSize, maxPositionEmbeddings } = context;
  switch (type) {
    case 'default':
      return { invFreq: defaultInvFreq(base, headSize), attentionScaling: 1 };
    case 'linear': {
      const factor = reader.number('factor', { min: 1 });
      const invFreq = defaultInvFreq(base, headSize).map((f) => f / fround(factor));
      return { invFreq, attentionScaling: 1 };
    }
    case 'dynamic': {
      const factor = reader.number('factor', { min: 1 });
      // Written by some tools; transformers scales by max_position_embeddings alone.
      const original = reader.integer('original_max_position_embeddings', {
        fallback: maxPositionEmbeddings,
      });
      if (original !== maxPositionEmbeddings) {
        throw reader.unsupported(
          'original_max_position_embeddings',
          `it must equal max_position_embeddings (${maxPositionEmbeddings}) for dynamic scaling`,
        );
      }
      return {
        invFreq: defaultInvFreq(base, headSize),
        attentionScaling: 1,
        dynamic: { base, factor, maxPositions: maxPositionEmbeddings },
      };
    }
    case 'llama3':
      return { invFreq: llama3InvFreq(base, reader, context, topOriginal), attentionScaling: 1 };
    default:
      throw reader.unsupported('rope_type', 'only default, linear, dynamic and llama3 are known');
  }
}

/** 1 / base ** (2i / d), i = 0 to d/2 - 1 (Su et al. 2021). */
export function defaultInvFreq(base: number, headSize: number): Float32Array {
  const invFreq = new Float32Array(headSize / 2);
  for (let i = 0; i < invFreq.length; i++) {
    const exponent = fround((2 * i) / headSize);
    invFreq[i] = 1 / fround(fround(base) ** exponent);
  }
  return invFreq;
}

/** Llama 3.1: long wavelengths divided by `factor`, short ones kept, a ramp between. */
function llama3InvFreq(
  base: number,
  reader: ConfigReader,
  context: RopeContext,
  topOriginal: unknown,
): Float32Array {
  const factor = reader.number('factor', { min: 1 });
  const low = reader.number('low_freq_factor', { min: Number.MIN_VALUE });
  const high = reader.number('high_freq_factor', { min: Number.MIN_VALUE });
  if (high <= low) throw reader.unsupported('high_freq_factor', 'must exceed low_freq_factor');
  const inside = reader.integer('original_max_position_embeddings', {
    fallback: context.maxPositionEmbeddings,
    min: 1,
  });
  // transformers gives the top-level key priority.
  const original = typeof topOriginal === 'number' ? topOriginal : inside;
  const lowWavelength = original / low;
  const highWavelength = original / high;

  return defaultInvFreq(base, context.headSize).map((f) => {
    const wavelength = fround(fround(2 * Math.PI) / f);
    const scaled = fround(f / fround(factor));
    if (wavelength > fround(lowWavelength)) return scaled;
    if (wavelength < fround(highWavelength)) return f;
    const ramp = fround(fround(original) / wavelength);
    const smooth = fround(fround(ramp - fround(low)) / fround(high - low));
    const slow = fround(fround(fround(1 - smooth) * f) / fround(factor));
    return fround(slow + fround(smooth * f));
  });
}
