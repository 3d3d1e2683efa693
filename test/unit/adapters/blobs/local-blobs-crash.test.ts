/** Power loss, failing operations and a full disk at every point of the work on local blobs. */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { createLocalBlobs } from '../../../../src/adapters/blobs/local-blobs.ts';
import type { LocalBlobs } from '../../../../src/adapters/blobs/types.ts';
import type { StoreFs } from '../../../../src/adapters/store/store-fs.ts';
import { TempDir } from '../../../support/adapter-files.ts';
import { contentOf, sha256 } from '../../../support/blob-store-conformance.ts';
import { CrashFs, type Fault } from '../../../support/crash-fs.ts';
import { Random } from '../../../support/random.ts';

const temp = new TempDir();
afterAll(() => temp.remove());

const MAX_BYTES = 250;
const content = (seed: number) => contentOf(seed, 100);
const digestOf = (seed: number) => sha256(content(seed));
type Step = { commit: number } | { remove: number };
/** With the budget, the fourth commit evicts; a content comes twice and comes back. */
const SCENARIO: Step[] = [
  { commit: 1 },
  { commit: 2 },
  { commit: 2 },
  { remove: 1 },
  { commit: 3 },
  { commit: 4 },
  { commit: 1 },
  { remove: 4 },
];
const SEEDS = [1, 2, 3, 4];

async function perform(blobs: LocalBlobs, step: Step, onWrite: (file: string) => void) {
  if ('remove' in step) return blobs.remove(digestOf(step.remove));
  const staged = blobs.stage();
  onWrite(staged);
  writeFileSync(staged, content(step.commit));
  await blobs.commit(staged, digestOf(step.commit));
}

const create = (root: string, maxBytes: number | undefined, fs?: StoreFs) =>
  createLocalBlobs({ root, maxBytes, onWarning: () => {}, ...(fs === undefined ? {} : { fs }) });

/** Runs the scenario with a fault at one operation. */
async function play(root: string, maxBytes: number | undefined, fs: CrashFs) {
  const blobs = create(root, maxBytes, fs);
  /** Committed and neither removed nor, without a budget, evicted since. */
  const sure = new Set<number>();
  let failed = false;
  try {
    await blobs.open();
    for (const step of SCENARIO) {
      if ('remove' in step) sure.delete(step.remove);
      await perform(blobs, step, (file) => fs.noteUnsynced(file));
      if ('commit' in step) sure.add(step.commit);
    }
  } catch {
    failed = true;
  }
  const known = SEEDS.filter((seed) => blobs.has(digestOf(seed)));
  await blobs.close();
  return { sure, failed, known };
}

/** Opens on a sound disk: every file is whole, nothing is left over. */
async function inspect(root: string, maxBytes: number | undefined): Promise<number[]> {
  const blobs = create(root, maxBytes);
  await blobs.open();
  const files = readdirSync(path.join(root, 'blobs'));
  for (const file of files) {
    expect(`${sha256(readFileSync(path.join(root, 'blobs', file)))}.safetensors`).toBe(file);
  }
  expect(files).toHaveLength(blobs.stats().files);
  expect(readdirSync(path.join(root, 'tmp'))).toEqual([]);
  const found = SEEDS.filter((seed) => blobs.has(digestOf(seed)));
  await blobs.close();
  return found;
}

describe.each<[string, number | undefined]>([
  ['without a budget', undefined],
  ['with a budget', MAX_BYTES],
])('local blobs %s', (_label, maxBytes) => {
  it.each<Fault>(['power-loss', 'error'])('survive a %s at every operation', async (fault) => {
    const first = new CrashFs(new Random(1));
    await play(temp.fresh(), maxBytes, first);
    first.dispose();
    expect(first.operations).toBeGreaterThan(20);
    for (let faultAt = 1; faultAt <= first.operations; faultAt++) {
      for (let seed = 1; seed <= 4; seed++) {
        const root = temp.fresh();
        const fs = new CrashFs(new Random(seed * 1000 + faultAt));
        fs.fault = fault;
        fs.faultAt = faultAt;
        const { sure, failed, known } = await play(root, maxBytes, fs);
        if (fault === 'power-loss') fs.losePower();
        const where = `operation ${faultAt}, seed ${seed}`;
        const found = existsSync(root) ? await inspect(root, maxBytes) : [];
        if (maxBytes === undefined) expect(found, where).toEqual(expect.arrayContaining([...sure]));
        // What a process that goes on after an error believes is what is there.
        if (fault === 'error' && failed) {
          expect(found, where).toEqual(expect.arrayContaining(known));
        }
        fs.dispose();
      }
    }
  });
});

describe('a full disk', () => {
  it('is named, and leaves nothing half', async (context) => {
    const root = temp.fresh();
    mkdirSync(root);
    try {
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', root], { stdio: 'ignore' });
    } catch {
      context.skip('this process may not mount a small disk');
    }
    try {
      const blobs = create(root, undefined);
      await blobs.open();
      await perform(blobs, { commit: 1 }, () => {});
      expect(() => writeFileSync(blobs.stage(), contentOf(9, 2 ** 21))).toThrow(/ENOSPC/);
      await blobs.close();
      expect(await inspect(root, undefined)).toEqual([1]);
    } finally {
      execFileSync('umount', ['-l', root]);
    }
  });

  it.each(['syncFile', 'rename', 'syncDir'] as const)(
    'at %s undoes the commit',
    async (operation) => {
      const fs = new CrashFs(new Random(1));
      const full = Object.assign(new Error('no space left on device'), { code: 'ENOSPC' });
      let armed = false;
      const failing = new Proxy(fs, {
        get(target, property) {
          if (armed && property === operation) return () => Promise.reject(full);
          const value = Reflect.get(target, property) as unknown;
          return typeof value === 'function' ? value.bind(target) : value;
        },
      });
      const root = temp.fresh();
      const blobs = create(root, MAX_BYTES, failing);
      await blobs.open();
      await perform(blobs, { commit: 1 }, () => {});
      armed = true;
      const commit = perform(blobs, { commit: 2 }, () => {});
      await expect(commit).rejects.toThrow(/The disk of .* is full, nothing was stored/);
      await expect(commit).rejects.toMatchObject({ code: 'blob_unavailable' });
      expect(blobs.stats()).toMatchObject({ files: 1, bytes: 100 });
      expect(blobs.has(digestOf(2))).toBe(false);
      expect(readdirSync(path.join(root, 'tmp'))).toEqual([]);
      expect(readdirSync(path.join(root, 'blobs'))).toEqual([`${digestOf(1)}.safetensors`]);
      armed = false;
      await perform(blobs, { commit: 2 }, () => {});
      expect(blobs.stats()).toMatchObject({ files: 2, bytes: 200 });
      await blobs.close();
      fs.dispose();
    },
  );
});
