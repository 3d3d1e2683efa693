import { describe, expect, it } from 'vitest';
import {
  isFiniteBits,
  magnitudeOf,
  maxMagnitudeBits,
  widen,
} from '../../../src/adapters/convert/tensor-scan.ts';

/** Value of a 16-bit float by its definition. */
function halfValue(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const mantissa = bits & 0x3ff;
  if (exponent === 0x1f) return mantissa ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  if (exponent === 0) return sign * mantissa * 2 ** -24;
  return sign * (1 + mantissa / 1024) * 2 ** (exponent - 15);
}

function bfloatValue(bits: number): number {
  return new Float32Array(Uint32Array.of(bits << 16).buffer)[0]!;
}

const all16 = Uint16Array.from({ length: 65_536 }, (_, i) => i);
const bytesOf = (array: Uint16Array | Float32Array) =>
  new Uint8Array(array.buffer, array.byteOffset, array.byteLength);

describe('tensor scan', () => {
  it.each([
    ['F16', halfValue],
    ['BF16', bfloatValue],
  ] as const)('widens every %s exactly', (dtype, value) => {
    const wide = widen(dtype, bytesOf(all16), new Uint8Array(65_536 * 4));
    const floats = new Float32Array(wide.buffer, wide.byteOffset, 65_536);
    for (let bits = 0; bits < 65_536; bits++) {
      if (!Object.is(floats[bits], value(bits))) {
        expect.fail(`${dtype} ${bits}: ${floats[bits]}, expected ${value(bits)}`);
      }
    }
    expect(floats[0x3c00]).toBe(value(0x3c00));
  });

  it.each([
    ['F16', halfValue],
    ['BF16', bfloatValue],
  ] as const)('tells finite %s from the rest', (dtype, value) => {
    for (let bits = 0; bits < 65_536; bits++) {
      const magnitude = maxMagnitudeBits(dtype, bytesOf(Uint16Array.of(0, bits, 0)));
      if (isFiniteBits(dtype, magnitude) !== Number.isFinite(value(bits))) {
        expect.fail(`${dtype} ${bits}`);
      }
    }
    expect(magnitudeOf(dtype, maxMagnitudeBits(dtype, bytesOf(Uint16Array.of(0x8001, 1))))).toBe(
      value(1),
    );
  });

  it('finds the largest magnitude of float32', () => {
    const bits = maxMagnitudeBits('F32', bytesOf(Float32Array.of(0.5, -3.25, 2)));
    expect(isFiniteBits('F32', bits)).toBe(true);
    expect(magnitudeOf('F32', bits)).toBe(3.25);
    for (const value of [Number.NaN, Infinity, -Infinity]) {
      expect(isFiniteBits('F32', maxMagnitudeBits('F32', bytesOf(Float32Array.of(1, value))))).toBe(
        false,
      );
    }
    expect(isFiniteBits('F32', maxMagnitudeBits('F32', bytesOf(Float32Array.of(3.4e38))))).toBe(
      true,
    );
  });

  it('takes an empty tensor as zero', () => {
    expect(maxMagnitudeBits('BF16', new Uint8Array(0))).toBe(0);
  });
});
