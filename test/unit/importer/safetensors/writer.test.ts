import { mkdtemp, readdir, readFile, rm, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { parseSafetensorsHeader } from '../../../../src/importer/safetensors/header.ts';
import {
  buildSafetensorsHeader,
  SafetensorsWriter,
} from '../../../../src/importer/safetensors/writer.ts';

let dir = '';
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'loramux-writer-'));
});
afterEach(async () => {
  await rm(dir, { recursive: true });
});

const specs = [
  { name: 'small', dtype: 'U8', shape: [3] },
  { name: 'large', dtype: 'F32', shape: [512, 1024] },
] as const;

describe('SafetensorsWriter', () => {
  it('writes what the reader reads, data aligned to 8 bytes', async () => {
    const path = join(dir, 'model.safetensors');
    const writer = await SafetensorsWriter.create(path, specs, { format: 'pt', note: 'é' });
    const large = new Uint8Array(512 * 1024 * 4).map((_, i) => i % 251);
    await writer.write(Uint8Array.of(1, 2, 3));
    await writer.write(large.subarray(0, 1_500_000));
    await writer.write(large.subarray(1_500_000));
    await writer.close();

    const bytes = await readFile(path);
    const header = parseSafetensorsHeader(bytes, bytes.length);
    expect(header.dataStart % 8).toBe(0);
    expect(header.metadata.get('note')).toBe('é');
    const { begin, end } = header.tensors.get('large')!;
    expect(bytes.subarray(begin, end).equals(large)).toBe(true);
    expect([...bytes.subarray(header.dataStart, header.dataStart + 3)]).toEqual([1, 2, 3]);
    expect(await readdir(dir)).toEqual(['model.safetensors']);
  });

  it('leaves nothing behind when data is missing or too much', async () => {
    const path = join(dir, 'x.safetensors');
    const short = await SafetensorsWriter.create(path, [specs[0]]);
    await short.write(Uint8Array.of(1));
    await expect(short.close()).rejects.toThrow('2 bytes are missing');
    const long = await SafetensorsWriter.create(path, [specs[0]]);
    await expect(long.write(new Uint8Array(4))).rejects.toThrow(RangeError);
    await long.abort();
    await long.abort();
    expect(await readdir(dir)).toEqual([]);
  });

  it('leaves nothing behind when the disk is full', async () => {
    const path = join(dir, 'x.safetensors');
    await symlink('/dev/full', `${path}.${process.pid}.partial`);
    await expect(SafetensorsWriter.create(path, specs)).rejects.toMatchObject({ code: 'ENOSPC' });
    expect(await readdir(dir)).toEqual([]);
  });

  it('refuses a name twice and reserved names', () => {
    expect(() => buildSafetensorsHeader([specs[0], specs[0]])).toThrow('cannot be written');
    expect(() => buildSafetensorsHeader([{ ...specs[0], name: '__metadata__' }])).toThrow();
  });
});
