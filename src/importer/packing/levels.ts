/** Quantized linear layers of GPTQ and AWQ checkpoints, and what of them cannot be expressed. */
import { LoramuxError } from '../../errors.ts';
import type { FloatDtype, PackedShape } from '../../native/addon-types.ts';
import { packLevels } from '../../native/pack.ts';
import type { CheckpointQuantization, ModelConfig, PackedSpec } from '../types.ts';
import { adaptableLinears, type LinearSpec } from '../weights.ts';
import { packedBytes, specProblem } from './format.ts';
import type { JobContext } from './jobs.ts';

const SUFFIXES = ['qweight', 'qzeros', 'scales', 'g_idx'];
/** Group sizes beyond the largest input are one group; zero points need a real one. */
const WHOLE_GROUP_STEP = 256;

/** Tensors of the layer that its blob replaces; a bias that the model lacks is among them. */
export function levelsOf(
  { path, bias }: LinearSpec,
  tensors: { has(name: string): boolean },
): string[] {
  const suffixes = bias ? SUFFIXES : [...SUFFIXES, 'bias'];
  return suffixes.map((suffix) => `${path}.${suffix}`).filter((name) => tensors.has(name));
}

/**
 * The packing that keeps a quantized checkpoint's levels.
 * @throws LoramuxError model_quantization_unsupported
 */
export function packingOfLevels(
  config: ModelConfig,
  quantization: CheckpointQuantization,
): PackedSpec {
  const { bits, groupSize, symmetric } = quantization;
  const inputs = Math.max(...adaptableLinears(config).map(({ inFeatures }) => inFeatures));
  const whole = symmetric ? 0 : Math.ceil(inputs / WHOLE_GROUP_STEP) * WHOLE_GROUP_STEP;
  const spec: PackedSpec = {
    format: bits === 8 ? 'int8' : 'int4',
    groupSize: groupSize === undefined ? whole : groupSize,
    zeroPoints: !symmetric,
  };
  const problem = specProblem(spec);
  if (problem !== undefined) throw unsupported(problem);
  return spec;
}

/** The blob of one layer. */
export async function packLevelsOf(
  context: JobContext,
  spec: LinearSpec,
  shape: PackedShape,
): Promise<Uint8Array> {
  const { source, threads } = context;
  const { quantization } = source.model.config;
  if (quantization === undefined || quantization.method === 'loramux') {
    throw new Error('The checkpoint has no levels');
  }
  const { path } = spec;
  const { tensors } = source.model.checkpoint;
  const group = quantization.groupSize ?? spec.inFeatures;
  if (tensors.has(`${path}.g_idx`)) checkOrder(path, await source.read(`${path}.g_idx`), group);
  if (!spec.bias && tensors.has(`${path}.bias`)) {
    const bias = await source.read(`${path}.bias`);
    // Zeros of every float type, negative ones included.
    if (bias.some((byte) => byte !== 0 && byte !== 0x80)) {
      throw unsupported(`${path} has a bias, which the model does not`);
    }
  }
  const blob = new Uint8Array(packedBytes(shape));
  const result = await packLevels({
    shape,
    order: quantization.method,
    bits: quantization.bits,
    group,
    zeroOffset: quantization.zeroOffset,
    qweight: await source.read(`${path}.qweight`),
    qzeros: await source.read(`${path}.qzeros`),
    scales: await source.read(`${path}.scales`),
    scaleDtype: source.tensor(`${path}.scales`).dtype as FloatDtype,
    blob,
    threads,
  });
  if (result.oddZeros > 0) {
    throw unsupported(`${path} has zero points although the checkpoint is said to be symmetric`);
  }
  if (!result.finite) {
    throw new LoramuxError(
      'model_weights_invalid',
      `${path}.scales has NaN or infinite values; it cannot be packed.`,
    );
  }
  context.clamped += result.clamped;
  return blob;
}

/**
 * Inputs must be grouped in their own order. With activation order (`desc_act` without
 * `static_groups`) they are not, and then no reordering helps: the residual stream and the adapters
 * would have to be reordered too, differently for each layer.
 */
function checkOrder(path: string, bytes: Buffer, group: number): void {
  for (let i = 0; i < bytes.length / 4; i++) {
    if (bytes.readInt32LE(4 * i) === Math.floor(i / group)) continue;
    throw unsupported(
      `${path} has its inputs grouped in activation order ("desc_act" true); quantize with ` +
        '"desc_act" false or "static_groups" true',
    );
  }
}

function unsupported(what: string): LoramuxError {
  return new LoramuxError('model_quantization_unsupported', `The checkpoint: ${what}.`);
}
