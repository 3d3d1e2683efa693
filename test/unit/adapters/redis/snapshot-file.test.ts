/** The registry's copy on disk: whole or ignored. */
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  type SavedRegistry,
  SnapshotFile,
} from '../../../../src/adapters/registry/snapshot-file.ts';
import { Random } from '../../../support/random.ts';
import { nameEntry } from '../../../support/registry-entries.ts';

let dir: string;
let file: string;
let warnings: string[];
beforeEach(async () => {
  dir = await mkdtemp(path.join(tmpdir(), 'loramux-snapshot-'));
  file = path.join(dir, 'deep', 'registry.json');
  warnings = [];
});
afterEach(() => rm(dir, { recursive: true, force: true }));

const snapshotFile = () =>
  new SnapshotFile({ file, debounceMs: 5, onWarning: (message) => void warnings.push(message) });

const saved = (names: number): SavedRegistry => ({
  id: 'f'.repeat(32),
  revision: names,
  changeId: 'a'.repeat(32),
  completeAtMs: 1_700_000_000_123,
  entries: Array.from({ length: names }, (_, i) => ({
    revision: i + 1,
    changeId: 'b'.repeat(32),
    entry: nameEntry(`n${i}`, `content ${i}`),
  })),
  damaged: [{ name: 'broken', reason: 'its key is a "list"' }],
});

describe('the cached registry', () => {
  it('is what was saved', async () => {
    for (const names of [0, 1, 300]) {
      const one = snapshotFile();
      one.schedule(() => saved(names));
      await one.flush();
      expect(await snapshotFile().load()).toEqual(saved(names));
    }
    expect(await readdir(path.dirname(file))).toEqual(['registry.json']);
    expect(warnings).toEqual([]);
  });

  it('is nothing where there is no file', async () => {
    expect(await snapshotFile().load()).toBeUndefined();
    expect(warnings).toEqual([]);
  });

  it('is written once for several changes, with the last of them', async () => {
    const one = snapshotFile();
    let taken = 0;
    for (let i = 1; i <= 5; i++) {
      one.schedule(() => {
        taken++;
        return saved(i);
      });
    }
    await one.flush();
    await one.flush();
    expect(taken).toBe(1);
    expect((await one.load())?.revision).toBe(5);
  });

  it('is ignored with a warning when any byte of it is wrong', async () => {
    const one = snapshotFile();
    one.schedule(() => saved(3));
    await one.flush();
    const whole = await readFile(file);
    const seed = Number(process.env.LORAMUX_TEST_SEED ?? 20_261_103);
    const random = new Random(seed);
    const damages = [
      Buffer.alloc(0),
      Buffer.from('{}'),
      ...Array.from({ length: 20 }, () => whole.subarray(0, random.int(0, whole.length - 1))),
      ...Array.from({ length: 40 }, () => {
        const bytes = Buffer.from(whole);
        bytes[random.int(0, bytes.length - 1)]! ^= 1 << random.int(0, 7);
        return bytes;
      }),
    ];
    for (const [i, damaged] of damages.entries()) {
      await writeFile(file, damaged);
      expect(await snapshotFile().load(), `damage ${i}, seed ${seed}`).toBeUndefined();
      expect(warnings.length).toBe(i + 1);
    }
    expect(warnings[0]).toContain(file);
  });

  it('is set aside under another name', async () => {
    const one = snapshotFile();
    expect(await one.setAside()).toBeUndefined();
    one.schedule(() => saved(1));
    await one.flush();
    expect(await one.setAside()).toBe(`${file}.bak`);
    expect(await one.load()).toBeUndefined();
  });

  it('is a warning where it cannot be written', async () => {
    await writeFile(path.join(dir, 'deep'), 'a file');
    const one = snapshotFile();
    one.schedule(() => saved(1));
    await one.flush();
    expect(warnings[0]).toContain('could not be cached');
  });
});
