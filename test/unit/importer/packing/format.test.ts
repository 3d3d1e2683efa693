import { describe, expect, it } from 'vitest';
import {
  choosePacking,
  headSpec,
  packedBytes,
  specProblem,
} from '../../../../src/importer/packing/format.ts';

describe('choosePacking', () => {
  it('has a default for everything', () => {
    const int8 = { format: 'int8', groupSize: 256, zeroPoints: false, rotated: true };
    const bf16 = { format: 'bf16', groupSize: 0, zeroPoints: false };
    const int4 = { format: 'int4', groupSize: 64, zeroPoints: false, rotated: true };
    expect(choosePacking('bf16')).toEqual({ linears: bf16, lmHead: bf16 });
    expect(choosePacking('int8')).toEqual({ linears: int8, lmHead: int8 });
    expect(choosePacking('int4')).toEqual({ linears: int4, lmHead: int8 });
  });

  it('gives the head the same packing, or the defaults of another format', () => {
    const options = { groupSize: 128, zeroPoints: true, lmHead: 'same' } as const;
    const { linears, lmHead } = choosePacking('int4', options);
    expect(lmHead).toEqual(linears);
    expect(headSpec(linears, 'int4')).toEqual(linears);
    expect(headSpec(linears, 'bf16')).toEqual({ format: 'bf16', groupSize: 0, zeroPoints: false });
  });

  it.each([
    ['bf16', { groupSize: 64 }],
    ['bf16', { zeroPoints: true }],
    ['int8', { zeroPoints: true }],
    ['int8', { groupSize: 48 }],
    ['int8', { groupSize: -32 }],
    ['int4', { groupSize: 16 }],
    ['int4', { groupSize: 384 }],
    ['int4', { groupSize: 2 ** 30 }],
    ['int4', { groupSize: 0, zeroPoints: true }],
  ] as const)('refuses %s with %j', (format, options) => {
    expect(() => choosePacking(format, options)).toThrow(
      expect.objectContaining({ code: 'config_invalid' }),
    );
  });

  it('takes every width of the layout', () => {
    for (const groupSize of [0, 32, 64, 128, 256, 512, 768]) {
      expect(specProblem({ format: 'int4', groupSize, zeroPoints: false })).toBeUndefined();
    }
  });
});

describe('packedBytes', () => {
  it.each([
    // 2 panels of 16 columns, depth 100 padded to 128.
    [{ format: 'bf16', group: 0, zeroPoints: false }, 2 * 128 * 16 * 2],
    [{ format: 'int8', group: 0, zeroPoints: false }, 2 * 128 * 16 + 2 * 16 * 4],
    [{ format: 'int4', group: 0, zeroPoints: false }, 2 * 128 * 8 + 2 * 16 * 4],
    [{ format: 'int4', group: 32, zeroPoints: false }, 2 * 128 * 8 + 2 * 4 * 16 * 2 + 2 * 16 * 4],
    [
      { format: 'int4', group: 32, zeroPoints: true },
      2 * 128 * 8 + 2 * 4 * 16 * 2 + 2 * 4 * 16 + 2 * 16 * 4,
    ],
    // One group of 32 bytes of zero points takes 64.
    [{ format: 'int4', group: 256, zeroPoints: true }, 2 * 128 * 8 + 2 * 16 * 2 + 64 + 2 * 16 * 4],
  ] as const)('of %j', (shape, bytes) => {
    expect(packedBytes({ ...shape, n: 17, k: 100 })).toBe(bytes);
  });
});
