/** Packed formats as the importer sees them: defaults, limits, sizes. Layout: packed_linear.h. */
import { LoramuxError } from '../../errors.ts';
import type { PackedFormat, PackedShape } from '../../native/addon-types.ts';
import type { PackedSpec, Packing } from '../types.ts';

/** Inputs that share an activation scale, of formats that round activations. */
export const ACTIVATION_GROUP = 256;
/** Besides 0 (one scale per output) and multiples of 256. */
const SMALL_GROUP_SIZES: readonly number[] = [32, 64, 128];
const LARGE_GROUP_STEP = 256;
/** Longest group: beyond it there is one scale per output anyway. */
const MAX_GROUP_SIZE = 1 << 20;
const DEFAULT_GROUP_SIZES: Record<PackedFormat, number> = { bf16: 0, int8: 256, int4: 64 };

/** Offsets within a blob are multiples of this, and so must be its own in the file. */
export const BLOB_ALIGNMENT = 64;
export const PANEL_COLUMNS = 16;
const DEPTH_MULTIPLE = 64;
const BITS: Record<PackedFormat, number> = { bf16: 16, int8: 8, int4: 4 };

export interface PackingOptions {
  /** Input features per scale; 0 is one scale per output. Default: int8 256, int4 64. */
  groupSize?: number | undefined;
  /** int4: zero points; default false. */
  zeroPoints?: boolean | undefined;
  /** Format of lm_head; default int8 for int4 and int8 models, bf16 for bf16. */
  lmHead?: 'same' | PackedFormat | undefined;
}

/**
 * The packing of a whole model.
 * @throws LoramuxError config_invalid for combinations that do not exist.
 */
export function choosePacking(format: PackedFormat, options: PackingOptions = {}): Packing {
  const linears = checkedSpec({
    format,
    groupSize: options.groupSize ?? DEFAULT_GROUP_SIZES[format],
    zeroPoints: options.zeroPoints ?? false,
    ...rotationOf(format),
  });
  return { linears, lmHead: headSpec(linears, options.lmHead) };
}

/** The head of a model whose other layers are packed as `linears`. */
export function headSpec(linears: PackedSpec, choice?: 'same' | PackedFormat): PackedSpec {
  const head = choice ?? (linears.format === 'bf16' ? 'bf16' : 'int8');
  if (head === 'same' || head === linears.format) return linears;
  const groupSize = DEFAULT_GROUP_SIZES[head];
  return { format: head, groupSize, zeroPoints: false, ...rotationOf(head) };
}

/** Formats that round activations are rotated, unless their levels are given. */
function rotationOf(format: PackedFormat): Pick<PackedSpec, 'rotated'> {
  return format === 'bf16' ? {} : { rotated: true };
}

/** What is wrong with a spec, in words; undefined when nothing is. */
export function specProblem(spec: PackedSpec): string | undefined {
  const { format, groupSize, zeroPoints, rotated = false } = spec;
  if (rotated && format === 'bf16') return 'bf16 weights are not rotated';
  if (zeroPoints && format !== 'int4') return 'zero points exist for int4 only';
  if (zeroPoints && groupSize === 0) return 'zero points need groups';
  if (format === 'bf16') {
    return groupSize === 0 ? undefined : 'bf16 weights have no scales, so their group size is 0';
  }
  const known =
    groupSize === 0 ||
    SMALL_GROUP_SIZES.includes(groupSize) ||
    (groupSize > 0 && groupSize % LARGE_GROUP_STEP === 0 && groupSize <= MAX_GROUP_SIZE);
  return known
    ? undefined
    : `group sizes are 0, ${SMALL_GROUP_SIZES.join(', ')} and multiples of ${LARGE_GROUP_STEP} up to ` +
        `${MAX_GROUP_SIZE}, not ${groupSize}`;
}

function checkedSpec(spec: PackedSpec): PackedSpec {
  const problem = specProblem(spec);
  if (problem !== undefined) throw new LoramuxError('config_invalid', `Packing: ${problem}.`);
  return spec;
}

/** The blob of a linear layer [outFeatures, inFeatures]. */
export function packedShape(
  spec: PackedSpec,
  linear: { inFeatures: number; outFeatures: number },
): PackedShape {
  return {
    format: spec.format,
    n: linear.outFeatures,
    k: linear.inFeatures,
    group: spec.groupSize,
    zeroPoints: spec.zeroPoints,
    rotated: spec.rotated ?? false,
  };
}

/** Bytes of a blob, a multiple of 64; LayoutOf in C++, which checks it. */
export function packedBytes({ format, n, k, group, zeroPoints }: PackedShape): number {
  const panels = Math.ceil(n / PANEL_COLUMNS);
  const depth = roundUp(k, DEPTH_MULTIPLE);
  const groups = group === 0 ? 0 : Math.ceil(depth / group);
  const scales = panels * groups * PANEL_COLUMNS;
  let bytes = (panels * depth * PANEL_COLUMNS * BITS[format]) / 8;
  bytes += roundUp(scales * 2, BLOB_ALIGNMENT);
  if (zeroPoints) bytes += roundUp(scales, BLOB_ALIGNMENT);
  if (format !== 'bf16') bytes += panels * PANEL_COLUMNS * 4;
  return bytes;
}

function roundUp(value: number, step: number): number {
  return Math.ceil(value / step) * step;
}
