import { describe, expect, it } from 'vitest';
import { BLOCK, encode, ggufBytes, ggufHeader, toHalf } from '../../../bench/peers/gguf.ts';
import { ggufName, pairNeighbours } from '../../../bench/peers/gguf-model.ts';

/** Independent of the writer: float16 bits to a number. */
function fromHalf(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

const WEIGHTS = Float32Array.from(
  { length: 4 * BLOCK },
  (_, i) => Math.sin(i * 1.7) * (1 + i / 50),
);

describe('float16', () => {
  it('rounds to nearest, ties to even', () => {
    expect(fromHalf(toHalf(1))).toBe(1);
    expect(fromHalf(toHalf(-65_504))).toBe(-65_504);
    expect(toHalf(1 + 2 ** -11)).toBe(toHalf(1));
    expect(toHalf(1 + 3 * 2 ** -11)).toBe(toHalf(1 + 2 ** -9));
    expect(fromHalf(toHalf(65_536))).toBe(Number.POSITIVE_INFINITY);
    expect(fromHalf(toHalf(3 * 2 ** -24))).toBe(3 * 2 ** -24);
    expect(fromHalf(toHalf(Number.NaN))).toBeNaN();
  });

  it('comes back from every finite bit pattern', () => {
    for (let bits = 0; bits < 0x7c00; bits++) expect(toHalf(fromHalf(bits))).toBe(bits);
  });
});

describe('block formats', () => {
  it('keeps Q8_0 within half a level, and the scale first', () => {
    const bytes = encode(WEIGHTS, 'Q8_0');
    expect(bytes.length).toBe(4 * 34);
    for (let i = 0; i < WEIGHTS.length; i++) {
      const at = Math.floor(i / BLOCK) * 34;
      const scale = fromHalf(bytes[at]! | (bytes[at + 1]! << 8));
      const value = new Int8Array(bytes.buffer)[at + 2 + (i % BLOCK)]! * scale;
      expect(Math.abs(value - WEIGHTS[i]!)).toBeLessThanOrEqual(scale * 0.57);
    }
  });

  it('keeps Q4_0 within a level, low halves before high ones', () => {
    const bytes = encode(WEIGHTS, 'Q4_0');
    expect(bytes.length).toBe(4 * 18);
    for (let i = 0; i < WEIGHTS.length; i++) {
      const at = Math.floor(i / BLOCK) * 18;
      const scale = fromHalf(bytes[at]! | (bytes[at + 1]! << 8));
      const j = i % BLOCK;
      const byte = bytes[at + 2 + (j % 16)]!;
      const level = j < 16 ? byte & 15 : byte >> 4;
      expect(Math.abs((level - 8) * scale - WEIGHTS[i]!)).toBeLessThanOrEqual(
        Math.abs(scale) * 1.02,
      );
    }
  });

  it('encodes blocks of zeros', () => {
    expect(encode(new Float32Array(BLOCK), 'Q8_0').every((byte) => byte === 0)).toBe(true);
    expect(
      encode(new Float32Array(BLOCK), 'Q4_0')
        .slice(2)
        .every((b) => b === 0x88),
    ).toBe(true);
  });

  it('refuses rows that do not fill blocks', () => {
    expect(() => ggufBytes({ name: 'x', type: 'Q8_0', shape: [32, 33] })).toThrow(RangeError);
  });
});

describe('files', () => {
  it('writes dimensions backwards and aligns the data', () => {
    const header = ggufHeader({ 'general.architecture': { type: 'string', value: 'llama' } }, [
      { name: 'a', type: 'F32', shape: [3] },
      { name: 'b', type: 'Q8_0', shape: [5, 64] },
    ]);
    expect(header.length % 32).toBe(0);
    expect(header.toString('latin1', 0, 4)).toBe('GGUF');
    expect(header.readUInt32LE(4)).toBe(3);
    expect(header.readBigUInt64LE(8)).toBe(2n);
    const second = header.indexOf(Buffer.from([1, 0, 0, 0, 0, 0, 0, 0, 'b'.charCodeAt(0)])) + 9;
    expect(header.readUInt32LE(second)).toBe(2);
    expect(header.readBigUInt64LE(second + 4)).toBe(64n);
    expect(header.readBigUInt64LE(second + 12)).toBe(5n);
    expect(header.readUInt32LE(second + 20)).toBe(8);
    // 12 bytes of the first tensor end on the next multiple of 32.
    expect(header.readBigUInt64LE(second + 24)).toBe(32n);
  });

  it('knows the names of llama.cpp', () => {
    expect(ggufName('model.layers.7.self_attn.o_proj.weight')).toBe('blk.7.attn_output.weight');
    expect(ggufName('lm_head.weight')).toBe('output.weight');
    expect(ggufName('model.layers.7.unknown.weight')).toBeUndefined();
  });

  it('brings the halves of each head together', () => {
    // Two heads of four rows with one column: rows 0, 1 | 2, 3 become 0, 2, 1, 3.
    const rows = Float32Array.from([0, 1, 2, 3, 10, 11, 12, 13]);
    expect([...pairNeighbours(rows, 2, 1)]).toEqual([0, 2, 1, 3, 10, 12, 11, 13]);
  });
});
