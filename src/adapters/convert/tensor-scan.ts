/**
 * Loops over tensor elements: largest magnitude (and with it finiteness), exact widening to float32.
 * Little-endian hosts, as the whole project.
 */
import type { CanonicalDtype } from '../formats/canonical-file.ts';

/** Bit patterns of infinity without sign; larger ones are NaN. */
const INFINITY_BITS: Readonly<Record<CanonicalDtype, number>> = {
  F32: 0x7f80_0000,
  F16: 0x7c00,
  BF16: 0x7f80,
};

/**
 * Largest magnitude among the elements, as a bit pattern without sign: for IEEE formats these order
 * like the values. `bytes` must begin on the element's alignment.
 */
export function maxMagnitudeBits(dtype: CanonicalDtype, bytes: Uint8Array): number {
  let max = 0;
  if (dtype === 'F32') {
    const words = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
    for (let i = 0; i < words.length; i++) {
      const magnitude = words[i]! & 0x7fff_ffff;
      if (magnitude > max) max = magnitude;
    }
    return max;
  }
  const words = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2);
  for (let i = 0; i < words.length; i++) {
    const magnitude = words[i]! & 0x7fff;
    if (magnitude > max) max = magnitude;
  }
  return max;
}

/** False when the element with the largest magnitude is infinite or NaN. */
export function isFiniteBits(dtype: CanonicalDtype, bits: number): boolean {
  return bits < INFINITY_BITS[dtype];
}

const word = new Uint32Array(1);
const float = new Float32Array(word.buffer);

/** Value of a finite bit pattern without sign. */
export function magnitudeOf(dtype: CanonicalDtype, bits: number): number {
  word[0] = float32Bits(dtype, bits);
  return float[0]!;
}

/** Writes `source` as float32 into `target`, which must have room; both aligned. */
export function widen(dtype: CanonicalDtype, source: Uint8Array, target: Uint8Array): Uint8Array {
  if (dtype === 'F32') return source;
  const from = new Uint16Array(source.buffer, source.byteOffset, source.byteLength / 2);
  const to = new Uint32Array(target.buffer, target.byteOffset, from.length);
  for (let i = 0; i < from.length; i++) to[i] = float32Bits(dtype, from[i]!);
  return new Uint8Array(target.buffer, target.byteOffset, from.length * 4);
}

/** Bit pattern of the float32 with the same value (sign included). */
function float32Bits(dtype: CanonicalDtype, bits: number): number {
  if (dtype === 'F32') return bits;
  if (dtype === 'BF16') return (bits << 16) >>> 0;
  const sign = (bits & 0x8000) << 16;
  const exponent = (bits >> 10) & 0x1f;
  const mantissa = bits & 0x3ff;
  if (exponent === 0x1f) return (sign | 0x7f80_0000 | (mantissa << 13)) >>> 0;
  if (exponent > 0) return (sign | ((exponent + 112) << 23) | (mantissa << 13)) >>> 0;
  // Subnormal: mantissa * 2^-24, exact in float32.
  float[0] = mantissa * 2 ** -24;
  return (sign | word[0]!) >>> 0;
}
