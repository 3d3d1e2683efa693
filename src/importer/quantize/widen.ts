/** Exact conversion of stored weights to float32. */
import type { SafetensorsDtype } from '../safetensors/header.ts';

/** Every half-precision number as float32; built on first use (256 KiB). */
let halfTable: Float32Array | undefined;

/**
 * Widens `bytes` (little-endian, at any alignment) into `out`.
 * @throws RangeError for a dtype that is not F32, F16 or BF16.
 */
export function widenToFloat32(
  bytes: Uint8Array,
  dtype: SafetensorsDtype,
  out: Float32Array,
): void {
  if (dtype === 'F32') {
    new Uint8Array(out.buffer, out.byteOffset, bytes.byteLength).set(bytes);
    return;
  }
  // A copy only where the reader's buffer is not aligned to two bytes.
  const aligned = bytes.byteOffset % 2 === 0 ? bytes : new Uint8Array(bytes);
  const halves = new Uint16Array(aligned.buffer, aligned.byteOffset, out.length);
  if (dtype === 'BF16') {
    // The bits of bfloat16 are the upper half of a float32's.
    const words = new Uint32Array(out.buffer, out.byteOffset, out.length);
    for (let i = 0; i < words.length; i++) words[i] = halves[i]! << 16;
    return;
  }
  if (dtype !== 'F16') throw new RangeError(`${dtype} cannot be widened to float32`);
  halfTable ??= Float32Array.from({ length: 65_536 }, (_, bits) => halfToFloat(bits));
  const table = halfTable;
  for (let i = 0; i < out.length; i++) out[i] = table[halves[i]!]!;
}

function halfToFloat(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const mantissa = bits & 0x3ff;
  if (exponent === 0) return sign * mantissa * 2 ** -24;
  if (exponent === 31) return mantissa === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN;
  return sign * (1024 + mantissa) * 2 ** (exponent - 25);
}
