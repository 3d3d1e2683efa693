import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { LoramuxError } from '../../../../src/errors.ts';
import {
  parseSafetensorsHeader,
  readSafetensorsHeader,
  tensorBytes,
} from '../../../../src/importer/safetensors/header.ts';
import { fc } from '../../../support/properties.ts';

/** A file from header text (padded to nothing) and data bytes. */
function file(header: string | object, dataBytes: number): Buffer {
  const text = typeof header === 'string' ? header : JSON.stringify(header);
  const json = Buffer.from(text);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.length));
  return Buffer.concat([length, json, Buffer.alloc(dataBytes)]);
}

const parse = (bytes: Buffer) => parseSafetensorsHeader(bytes, bytes.length);
const tensor = (dtype: string, shape: unknown, begin: unknown, end: unknown) => ({
  dtype,
  shape,
  data_offsets: [begin, end],
});

function codeOf(run: () => unknown): string {
  try {
    run();
  } catch (error) {
    if (error instanceof LoramuxError) return error.code;
    throw error;
  }
  return 'accepted';
}

describe('parseSafetensorsHeader', () => {
  it('gives absolute offsets, shapes, dtypes and metadata', () => {
    const bytes = file(
      {
        __metadata__: { format: 'pt' },
        b: tensor('F32', [2, 3], 6, 30),
        a: tensor('BF16', [3], 0, 6),
        scalar: tensor('U8', [], 30, 31),
        empty: tensor('F16', [0, 7], 6, 6),
      },
      31,
    );
    const header = parse(bytes);
    expect(header.dataStart).toBe(bytes.length - 31);
    expect(header.metadata).toEqual(new Map([['format', 'pt']]));
    expect([...header.tensors.keys()]).toEqual(['b', 'a', 'scalar', 'empty']);
    expect(header.tensors.get('b')).toEqual({
      dtype: 'F32',
      shape: [2, 3],
      begin: header.dataStart + 6,
      end: header.dataStart + 30,
    });
  });

  it('accepts a header padded with spaces and a file without tensors', () => {
    expect(parse(file('{}   ', 0)).tensors.size).toBe(0);
  });

  const f32 = tensor('F32', [1], 0, 4);
  it.each<[string, string | object, number]>([
    ['an unknown dtype', { a: tensor('F31', [1], 0, 4) }, 4],
    ['a dtype from the prototype', { a: tensor('constructor', [1], 0, 4) }, 4],
    ['a negative dimension', { a: tensor('F32', [-1], 0, 4) }, 4],
    ['a fractional dimension', { a: tensor('F32', [0.5], 0, 2) }, 2],
    ['a dimension as text', { a: tensor('F32', ['1'], 0, 4) }, 4],
    ['a shape that is no list', { a: tensor('F32', 1, 0, 4) }, 4],
    ['too many dimensions', { a: tensor('F32', new Array(17).fill(1), 0, 4) }, 4],
    ['a product that overflows', { a: tensor('F32', [2 ** 40, 2 ** 40], 0, 4) }, 4],
    ['half a byte', { a: tensor('F4', [3], 0, 2) }, 2],
    ['offsets in the wrong order', { a: tensor('F32', [1], 4, 0) }, 4],
    ['negative offsets', { a: tensor('F32', [1], -4, 0) }, 4],
    ['three offsets', { a: { ...f32, data_offsets: [0, 4, 4] } }, 4],
    ['a length that disagrees with the shape', { a: tensor('F32', [2], 0, 4) }, 4],
    ['an unknown field', { a: { ...f32, stride: 1 } }, 4],
    ['a missing dtype', { a: { shape: [1], data_offsets: [0, 4] } }, 4],
    ['an overlap', { a: f32, b: tensor('F32', [1], 2, 6) }, 6],
    ['the same range twice', { a: f32, b: f32 }, 4],
    ['a hole', { a: f32, b: tensor('F32', [1], 8, 12) }, 12],
    ['a hole at the beginning', { a: tensor('F32', [1], 4, 8) }, 8],
    ['trailing bytes', { a: f32 }, 5],
    ['missing bytes', { a: f32 }, 3],
    ['a repeated tensor', `{"a":${JSON.stringify(f32)},"a":${JSON.stringify(f32)}}`, 4],
    ['metadata that is no object', { __metadata__: [] }, 0],
    ['metadata that is no string', { __metadata__: { a: 1 } }, 0],
    ['a header that is no object', '[]', 0],
    ['a header that begins with a space', ' {}', 0],
    ['a header cut off', '{"a":', 0],
    ['text after the header', '{}x', 0],
  ])('refuses %s', (_, header, dataBytes) => {
    expect(codeOf(() => parse(file(header, dataBytes)))).toBe('safetensors_invalid');
  });

  it('refuses header lengths beyond the file or the limit', () => {
    const bytes = file({ a: f32 }, 4);
    for (const length of [0n, 1n, BigInt(bytes.length - 7), 1n << 40n, (1n << 64n) - 1n]) {
      const changed = Buffer.from(bytes);
      changed.writeBigUInt64LE(length);
      expect(codeOf(() => parse(changed))).toBe('safetensors_invalid');
    }
    const limited = () => parseSafetensorsHeader(bytes, bytes.length, { maxHeaderBytes: 16 });
    expect(codeOf(limited)).toBe('safetensors_invalid');
    for (const short of [0, 7]) {
      expect(codeOf(() => parse(bytes.subarray(0, short)))).toBe('safetensors_invalid');
    }
  });

  it('never fails with anything but its own error, whatever byte is flipped', () => {
    const bytes = file({ __metadata__: { k: 'v' }, a: tensor('F32', [2, 2], 0, 16) }, 16);
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat(bytes.length - 1), fc.nat(255)), { minLength: 1, maxLength: 4 }),
        (flips) => {
          const changed = Buffer.from(bytes);
          for (const [offset, value] of flips) changed[offset] = value;
          expect(['accepted', 'safetensors_invalid']).toContain(codeOf(() => parse(changed)));
        },
      ),
      { numRuns: 2_000 },
    );
  });
});

describe('readSafetensorsHeader', () => {
  it('reads only what parse needs and passes file system errors on', async () => {
    const dir = await mkdtemp(join(tmpdir(), 'loramux-header-'));
    try {
      const path = join(dir, 'a.safetensors');
      const bytes = file({ a: tensor('F16', [4], 0, 8) }, 8);
      await writeFile(path, bytes);
      expect(await readSafetensorsHeader(path)).toEqual(parse(bytes));
      await expect(readSafetensorsHeader(join(dir, 'none'))).rejects.toThrow('ENOENT');
      await expect(readSafetensorsHeader(dir)).rejects.toMatchObject({
        code: 'safetensors_invalid',
      });
      await writeFile(path, bytes.subarray(0, -1));
      await expect(readSafetensorsHeader(path)).rejects.toThrow('truncated');
    } finally {
      await rm(dir, { recursive: true });
    }
  });
});

describe('tensorBytes', () => {
  it('counts bits and refuses overflow', () => {
    expect(tensorBytes('F32', [])).toBe(4);
    expect(tensorBytes('F4', [4])).toBe(2);
    expect(tensorBytes('F4', [1])).toBeUndefined();
    expect(tensorBytes('I64', [2 ** 30, 2 ** 30])).toBeUndefined();
  });
});
