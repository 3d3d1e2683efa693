/** Canonical files on local disk: the budget, holds, leftovers and concurrency. */
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import path from 'node:path';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import {
  createLocalBlobs,
  type LocalBlobsOptions,
} from '../../../../src/adapters/blobs/local-blobs.ts';
import type { LocalBlobs } from '../../../../src/adapters/blobs/types.ts';
import { nodeStoreFs, type StoreFs } from '../../../../src/adapters/store/store-fs.ts';
import { TempDir } from '../../../support/adapter-files.ts';
import { codeOf, contentOf, sha256 } from '../../../support/blob-store-conformance.ts';
import { Random } from '../../../support/random.ts';

const temp = new TempDir();
const opened: LocalBlobs[] = [];
afterEach(async () => {
  for (const blobs of opened.splice(0)) await blobs.close();
});
afterAll(() => temp.remove());

const warnings: string[] = [];
async function open(options: Partial<LocalBlobsOptions> = {}): Promise<LocalBlobs> {
  const blobs = createLocalBlobs({
    root: temp.fresh(),
    onWarning: (message) => void warnings.push(message),
    ...options,
  });
  opened.push(blobs);
  await blobs.open();
  return blobs;
}

const content = (seed: number, bytes = 100) => contentOf(seed, bytes);
const digestOf = (seed: number, bytes = 100) => sha256(content(seed, bytes));

async function commit(blobs: LocalBlobs, seed: number, bytes = 100): Promise<string> {
  const staged = blobs.stage();
  writeFileSync(staged, content(seed, bytes));
  await blobs.commit(staged, digestOf(seed, bytes));
  expect(existsSync(staged)).toBe(false);
  return digestOf(seed, bytes);
}

const rootOf = (blobs: LocalBlobs) => path.dirname(blobs.uploadDir);
const filesOf = (root: string) => readdirSync(path.join(root, 'blobs')).sort();
const here = (blobs: LocalBlobs, seeds: readonly number[]) =>
  seeds.filter((seed) => blobs.has(digestOf(seed)));

describe('local blobs', () => {
  it('keep a file under its digest, over a restart, and nothing else', async () => {
    const blobs = await open();
    const digest = await commit(blobs, 1);
    const root = rootOf(blobs);
    expect(blobs.path(digest)).toBe(path.join(root, 'blobs', `${digest}.safetensors`));
    writeFileSync(blobs.stage(), 'half');
    writeFileSync(path.join(blobs.uploadDir, 'config.json'), '{}');
    mkdirSync(path.join(blobs.uploadDir, 'an-archive'));
    await blobs.close();
    const again = await open({ root });
    expect(again.has(digest)).toBe(true);
    expect(readFileSync(again.path(digest)).equals(content(1))).toBe(true);
    expect(again.stats()).toEqual({ files: 1, bytes: 100, maxBytes: undefined, evictions: 0 });
    expect(readdirSync(path.join(root, 'tmp'))).toEqual([]);
    expect(readdirSync(again.uploadDir)).toEqual([]);
  });

  it('belong to one process at a time', async () => {
    const blobs = await open();
    const second = createLocalBlobs({ root: rootOf(blobs), onWarning: () => {} });
    expect(await codeOf(second.open())).toBe('config_invalid');
    await blobs.close();
    await second.open();
    opened.push(second);
  });

  it('leave unknown files alone', async () => {
    const root = temp.fresh();
    const unknown = [
      'notes.txt',
      `${digestOf(1)}.safetensors.bak`,
      `${digestOf(1)}`,
      'x.safetensors',
    ];
    mkdirSync(path.join(root, 'blobs', `${digestOf(9)}.safetensors`), { recursive: true });
    for (const file of unknown) writeFileSync(path.join(root, 'blobs', file), 'x'.repeat(1000));
    const blobs = await open({ root, maxBytes: 150 });
    expect(blobs.stats().files).toBe(0);
    await commit(blobs, 1);
    await commit(blobs, 2);
    await blobs.retainOnly(new Set());
    expect(filesOf(root)).toEqual([...unknown, `${digestOf(9)}.safetensors`].sort());
  });

  it('discard and remove what is there and what is not', async () => {
    const blobs = await open();
    const staged = blobs.stage();
    writeFileSync(staged, 'x');
    await blobs.discard(staged);
    await blobs.discard(staged);
    expect(existsSync(staged)).toBe(false);
    const digest = await commit(blobs, 1);
    await blobs.remove(digest);
    await blobs.remove(digest);
    expect(blobs.has(digest)).toBe(false);
    expect(blobs.stats()).toMatchObject({ files: 0, bytes: 0 });
    expect(await codeOf(blobs.commit(staged, digest))).toBe('internal_error');
  });

  it('take only digests for names', async () => {
    const blobs = await open();
    for (const digest of ['', '../../x', digestOf(1).toUpperCase(), `${digestOf(1)}0`]) {
      expect(() => blobs.path(digest)).toThrow(/not a SHA-256/);
      expect(await codeOf(blobs.commit(blobs.stage(), digest))).toBe('internal_error');
      expect(await codeOf(blobs.remove(digest))).toBe('internal_error');
    }
  });

  it('count a content once, however often it comes', async () => {
    const blobs = await open({ maxBytes: 250 });
    await commit(blobs, 1);
    await Promise.all([commit(blobs, 2), commit(blobs, 2), commit(blobs, 2)]);
    expect(blobs.stats()).toMatchObject({ files: 2, bytes: 200, evictions: 0 });
  });

  it('retain what is needed or held', async () => {
    const blobs = await open();
    for (const seed of [1, 2, 3, 4]) await commit(blobs, seed);
    const letGo = blobs.hold(digestOf(3));
    await blobs.retainOnly(new Set([digestOf(1)]));
    expect(here(blobs, [1, 2, 3, 4])).toEqual([1, 3]);
    letGo();
    await blobs.retainOnly(new Set([digestOf(1)]));
    expect(here(blobs, [1, 2, 3, 4])).toEqual([1]);
  });
});

describe('the budget of local blobs', () => {
  it('evicts what was used longest ago', async () => {
    const blobs = await open({ maxBytes: 300 });
    for (const seed of [1, 2, 3]) await commit(blobs, seed);
    blobs.hold(digestOf(1))();
    await commit(blobs, 4);
    expect(here(blobs, [1, 2, 3, 4])).toEqual([1, 3, 4]);
    await commit(blobs, 5, 200);
    expect(here(blobs, [1, 2, 3, 4])).toEqual([4]);
    expect(blobs.stats()).toEqual({ files: 2, bytes: 300, maxBytes: 300, evictions: 3 });
    expect(filesOf(rootOf(blobs))).toHaveLength(2);
  });

  it('goes by the time of last use after a restart', async () => {
    let now = 1_700_000_000_000;
    const root = temp.fresh();
    const first = await open({ root, maxBytes: 1000, now: () => now });
    for (const seed of [1, 2, 3]) {
      await commit(first, seed);
      utimesSync(first.path(digestOf(seed)), now / 1000, now / 1000);
      now += 1000;
    }
    now += 3_600_000;
    first.hold(digestOf(1))();
    await expect.poll(() => statSync(first.path(digestOf(1))).mtimeMs).toBe(now);
    await first.close();
    // A smaller budget takes effect at once.
    const second = await open({ root, maxBytes: 200 });
    expect(here(second, [1, 2, 3])).toEqual([1, 3]);
    expect(filesOf(root)).toHaveLength(2);
  });

  it('spares what is held, goes over the budget for it, and comes back', async () => {
    const blobs = await open({ maxBytes: 250 });
    const letGo = [1, 2].map((seed) => blobs.hold(digestOf(seed)));
    const twice = blobs.hold(digestOf(1));
    await commit(blobs, 1);
    await commit(blobs, 2);
    const third = blobs.hold(digestOf(3));
    await commit(blobs, 3);
    expect(blobs.stats()).toMatchObject({ files: 3, bytes: 300, evictions: 0 });
    letGo[0]!();
    letGo[0]!();
    expect(here(blobs, [1, 2, 3])).toEqual([1, 2, 3]);
    twice();
    expect(here(blobs, [1, 2, 3])).toEqual([2, 3]);
    await expect.poll(() => filesOf(rootOf(blobs))).toHaveLength(2);
    letGo[1]!();
    third();
    expect(here(blobs, [1, 2, 3])).toEqual([2, 3]);
  });

  it('refuses a file that is larger than all of it', async () => {
    const blobs = await open({ maxBytes: 250 });
    await commit(blobs, 1);
    const staged = blobs.stage();
    writeFileSync(staged, content(2, 251));
    const refused = blobs.commit(staged, digestOf(2, 251));
    await expect(refused).rejects.toThrow(
      /251 bytes, more than the whole disk cache .* --disk-cache-mb/,
    );
    expect(await codeOf(refused)).toBe('adapter_too_large');
    expect(existsSync(staged)).toBe(false);
    expect(here(blobs, [1])).toEqual([1]);
  });

  it('goes on when a file cannot be evicted, and says so', async () => {
    warnings.length = 0;
    const fs: StoreFs = {
      ...nodeStoreFs,
      remove: (file) =>
        file.endsWith(`${digestOf(1)}.safetensors`)
          ? Promise.reject(new Error('it is stuck'))
          : nodeStoreFs.remove(file),
    };
    const blobs = await open({ maxBytes: 150, fs });
    await commit(blobs, 1);
    await commit(blobs, 2);
    expect(here(blobs, [1, 2])).toEqual([2]);
    expect(warnings).toEqual([expect.stringMatching(/could not be evicted: it is stuck/)]);
  });

  it('keeps its books under any mixture of calls', async () => {
    const seed = Number(process.env.LORAMUX_FUZZ_SEED ?? 20_261_104);
    const random = new Random(seed);
    const maxBytes = 1000;
    const blobs = await open({ maxBytes });
    const holds: { digest: string; letGo: () => void }[] = [];
    const one = async (round: number) => {
      const which = random.int(1, 20);
      const digest = digestOf(which, which * 15);
      const what = random.next();
      if (what < 0.6) await commit(blobs, which, which * 15);
      else if (what < 0.7) await blobs.remove(digest);
      else if (what < 0.9) holds.push({ digest, letGo: blobs.hold(digest) });
      if (round % 3 === 0) holds.splice(random.int(0, holds.length), 1)[0]?.letGo();
    };
    try {
      for (let round = 0; round < 60; round++) {
        await Promise.all(Array.from({ length: 8 }, (_, i) => one(round * 8 + i)));
        const { files, bytes } = blobs.stats();
        // What a given back hold evicts goes in the background.
        await expect.poll(() => filesOf(rootOf(blobs)).length).toBe(files);
        const onDisk = filesOf(rootOf(blobs)).map((name) => {
          const file = path.join(rootOf(blobs), 'blobs', name);
          expect(`${sha256(readFileSync(file))}.safetensors`).toBe(name);
          return statSync(file).size;
        });
        expect(bytes).toBe(onDisk.reduce((sum, size) => sum + size, 0));
        const held = new Set(holds.map(({ digest }) => digest));
        const free = bytes - [...held].reduce((sum, d) => sum + (sizeIfHere(blobs, d) ?? 0), 0);
        if (bytes > maxBytes) expect(free).toBe(0);
      }
    } catch (error) {
      throw new Error(`seed ${seed}`, { cause: error });
    }
    for (const { letGo } of holds) letGo();
    expect(blobs.stats().bytes).toBeLessThanOrEqual(maxBytes);
  });
});

function sizeIfHere(blobs: LocalBlobs, digest: string): number | undefined {
  return blobs.has(digest) ? statSync(blobs.path(digest)).size : undefined;
}
