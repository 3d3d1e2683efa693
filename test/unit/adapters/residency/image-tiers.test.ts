import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { convert } from '../../../../src/adapters/convert/canonicalize.ts';
import {
  type CheckedImage,
  type OpenJob,
  openCanonical,
} from '../../../../src/adapters/convert/open-canonical.ts';
import { ConvertPool, type FileOpener } from '../../../../src/adapters/convert/pool.ts';
import { baseShapesDigest } from '../../../../src/adapters/formats/canonical-file.ts';
import type { GenerationMeta } from '../../../../src/adapters/registry/types.ts';
import {
  createImageTiers,
  type ImageTiersOptions,
  PREFETCH_QUEUE_MAX,
} from '../../../../src/adapters/residency/image-tiers.ts';
import {
  loraConfig,
  loraTensors,
  safetensors,
  TempDir,
  TINY_MODULES,
} from '../../../support/adapter-files.ts';
import { CanonicalStore } from '../../../support/canonical-store.ts';

const temp = new TempDir();
afterAll(() => temp.remove());

const BASE = baseShapesDigest(TINY_MODULES);
const PAGE = 4096;
const code = (value: string) => expect.objectContaining({ code: value });
const turn = () => new Promise<void>((resolve) => setImmediate(resolve));

async function until(condition: () => boolean): Promise<void> {
  for (let turns = 0; turns < 1000; turns++) {
    if (condition()) return;
    await turn();
  }
  throw new Error('it never came true');
}

/** A canonical file per seed; each takes one page of host memory. */
function canonical(seed: number): { file: string; meta: Omit<GenerationMeta, 'base'> } {
  const dir = temp.adapter(loraConfig(), safetensors(loraTensors({ seed })));
  const file = temp.fresh('.safetensors');
  const meta = convert(
    {
      configPath: path.join(dir, 'adapter_config.json'),
      weightsPath: path.join(dir, 'adapter_model.safetensors'),
      root: undefined,
      outPath: file,
      limits: { maxRank: 8, maxAdapterBytes: 1e6, maxResidentBytes: 1e6 },
    },
    TINY_MODULES,
  );
  return { file, meta };
}
const FILES = Array.from({ length: 80 }, (_, seed) => canonical(seed));

/** Opens in this thread; holds back the jobs whose digest is gated. */
class Opener implements FileOpener {
  readonly jobs: { digest: string; background: boolean }[] = [];
  readonly expedited: string[] = [];
  readonly #gates = new Map<string, () => void>();
  gated = false;

  async open(job: OpenJob, background = false): Promise<CheckedImage> {
    this.jobs.push({ digest: job.digest, background });
    if (this.gated) await new Promise<void>((resolve) => this.#gates.set(job.digest, resolve));
    return openCanonical(job, BASE);
  }

  expedite(digest: string): void {
    this.expedited.push(digest);
  }

  go(digest: string): void {
    this.#gates.get(digest)!();
  }
}

function build(options: Partial<ImageTiersOptions> & { shared?: boolean } = {}) {
  const store = new CanonicalStore(temp.fresh(), options.shared);
  const metas = FILES.map(({ file, meta }) => store.add(file, meta as never, BASE));
  const pool = new Opener();
  const warnings: string[] = [];
  const tiers = createImageTiers({
    files: store,
    pool,
    budgetBytes: 3 * PAGE,
    verify: true,
    onWarning: (message) => warnings.push(message),
    ...options,
  });
  return { store, metas, pool, tiers, warnings };
}

const isIntact = (image: { bytes?: Uint8Array }, at: number) =>
  readFileSync(FILES[at]!.file).equals(image.bytes!);

describe('image tiers', () => {
  it('read from disk once, then answer from host memory until the budget takes it', async () => {
    const { tiers, metas, store } = build();
    expect(metas[0]!.fileBytes).toBeLessThanOrEqual(PAGE);
    const first = await tiers.open(metas[0]!);
    expect(first.tier).toBe('disk');
    expect(isIntact(first.image, 0)).toBe(true);
    expect(first.image.bytes!.buffer).toBeInstanceOf(SharedArrayBuffer);
    first.release();
    const second = await tiers.open(metas[0]!);
    expect(second.tier).toBe('host');
    expect(isIntact(second.image, 0)).toBe(true);
    second.release();
    second.release();
    expect(tiers.stats()).toMatchObject({ hits: 1, entries: 1, bytes: PAGE, maxBytes: 3 * PAGE });
    for (const at of [1, 2, 0, 3]) (await tiers.open(metas[at]!)).release();
    // The least recently loaded went.
    expect([0, 1, 2, 3].map((at) => tiers.has(metas[at]!.digest))).toEqual([
      true,
      false,
      true,
      true,
    ]);
    expect(tiers.digests()).toHaveLength(3);
    expect(store.numHeld).toBe(0);
    await tiers.close();
    expect(tiers.stats()).toMatchObject({ entries: 0, bytes: 0 });
  });

  it('never give away or write over what a load reads', async () => {
    const { tiers, metas } = build({ budgetBytes: PAGE });
    const held = await tiers.open(metas[0]!);
    const others = [await tiers.open(metas[1]!), await tiers.open(metas[2]!)];
    expect(tiers.has(metas[0]!.digest)).toBe(true);
    expect(tiers.drop(metas[0]!.digest)).toBe(true);
    expect(tiers.has(metas[0]!.digest)).toBe(false);
    others.push(await tiers.open(metas[3]!));
    expect(isIntact(held.image, 0)).toBe(true);
    others.forEach(({ image }, i) => {
      expect(isIntact(image, i + 1)).toBe(true);
      expect(image.bytes!.buffer).toBeInstanceOf(ArrayBuffer);
    });
    expect(tiers.stats()).toMatchObject({ entries: 0, bytes: PAGE });
    held.release();
    expect(tiers.stats().bytes).toBe(0);
    for (const other of others) {
      other.release();
      expect(other.image.bytes, 'its memory went at once').toHaveLength(0);
    }
    expect((await tiers.open(metas[4]!)).image.bytes!.buffer).toBeInstanceOf(SharedArrayBuffer);
  });

  it.each([0, PAGE - 1])('keep nothing with a budget of %i', async (budgetBytes) => {
    const { tiers, metas, pool } = build({ budgetBytes });
    const opened = await tiers.open(metas[0]!);
    expect(opened.tier).toBe('disk');
    expect(isIntact(opened.image, 0)).toBe(true);
    opened.release();
    expect(opened.image.bytes).toHaveLength(0);
    expect(tiers.has(metas[0]!.digest)).toBe(false);
    tiers.prefetch(metas[1]!);
    await turn();
    expect(pool.jobs).toHaveLength(1);
  });

  it('share one read among all who want it', async () => {
    const { tiers, metas, store, pool } = build({ budgetBytes: 0 });
    const [a, b, c] = await Promise.all([1, 1, 1].map((at) => tiers.open(metas[at]!)));
    expect(pool.jobs).toHaveLength(1);
    expect(store.ensures).toBe(1);
    a!.release();
    b!.release();
    expect(isIntact(c!.image, 1)).toBe(true);
    c!.release();
    expect(c!.image.bytes).toHaveLength(0);
  });

  it('fail all who wait, and try again for the next', async () => {
    const { tiers, metas, store } = build();
    const meta = metas[0]!;
    writeFileSync(store.path(meta.digest), 'x'.repeat(meta.fileBytes));
    const outcomes = await Promise.allSettled([tiers.open(meta), tiers.open(meta)]);
    for (const outcome of outcomes)
      expect(outcome).toMatchObject({ reason: code('store_corrupt') });
    expect(store.rejected).toEqual([meta.digest]);
    expect(store.numHeld).toBe(0);
    expect(tiers.stats()).toMatchObject({ entries: 0, bytes: 0, rejected: 1 });
    await expect(tiers.open(meta)).rejects.toThrow(code('blob_missing'));
    store.add(FILES[0]!.file, FILES[0]!.meta as never, BASE);
    expect((await tiers.open(meta)).tier).toBe('disk');
  });

  it('fetch a damaged file once more where there is a fleet', async () => {
    const { tiers, metas, store, warnings } = build({ shared: true });
    const meta = metas[0]!;
    const damaged = readFileSync(store.path(meta.digest));
    damaged[damaged.length - 1]! ^= 1;
    writeFileSync(store.path(meta.digest), damaged);
    const opened = await tiers.open(meta);
    expect(opened.tier).toBe('registry');
    expect(isIntact(opened.image, 0)).toBe(true);
    expect(warnings).toHaveLength(1);

    tiers.drop(meta.digest);
    for (const file of [store.path(meta.digest), store.remotePath(meta.digest)]) {
      writeFileSync(file, damaged);
    }
    await expect(tiers.open(meta)).rejects.toThrow(code('store_corrupt'));
    expect(store.rejected).toHaveLength(3);
  });

  it('do not reject a file for a failure that is not its own', async () => {
    const { tiers, metas, store, pool } = build({ shared: true });
    pool.open = async () => {
      throw Object.assign(new Error('i/o error'), { code: 'EIO' });
    };
    await expect(tiers.open(metas[0]!)).rejects.toThrow('i/o error');
    expect(store.rejected).toEqual([]);
    expect(tiers.stats().bytes).toBe(0);
  });

  it('skip the hash only when told to', async () => {
    const { tiers, metas, store } = build({ verify: false });
    const bytes = readFileSync(store.path(metas[0]!.digest));
    bytes[bytes.length - 1]! ^= 1;
    writeFileSync(store.path(metas[0]!.digest), bytes);
    expect((await tiers.open(metas[0]!)).image.bytes!.at(-1)).toBe(bytes.at(-1));
  });
});

describe('prefetching', () => {
  it('brings files to host memory one at a time, and loads find them there', async () => {
    const { tiers, metas, pool } = build();
    for (const at of [0, 1, 1]) tiers.prefetch(metas[at]!);
    await until(() => tiers.stats().prefetched === 2);
    expect(pool.jobs.map(({ background }) => background)).toEqual([true, true]);
    const opened = await tiers.open(metas[1]!);
    expect(opened.tier).toBe('host');
    expect(isIntact(opened.image, 1)).toBe(true);
    tiers.prefetch(metas[1]!);
    await turn();
    expect(pool.jobs).toHaveLength(2);
  });

  it('is overtaken by a load of the same file, which shares what was begun', async () => {
    const { tiers, metas, pool } = build();
    pool.gated = true;
    tiers.prefetch(metas[0]!);
    tiers.prefetch(metas[1]!);
    await until(() => pool.jobs.length === 1);
    const first = tiers.open(metas[0]!);
    const second = tiers.open(metas[1]!);
    await until(() => pool.jobs.length === 2);
    expect(pool.expedited).toEqual([metas[0]!.digest]);
    expect(pool.jobs).toEqual([
      { digest: metas[0]!.digest, background: true },
      { digest: metas[1]!.digest, background: false },
    ]);
    for (const at of [1, 0]) pool.go(metas[at]!.digest);
    expect((await first).tier).toBe('disk');
    expect((await second).tier).toBe('disk');
    expect(tiers.stats().prefetched).toBe(0);
  });

  it('waits while a load reads', async () => {
    const { tiers, metas, pool } = build();
    pool.gated = true;
    const loading = tiers.open(metas[0]!);
    tiers.prefetch(metas[1]!);
    await until(() => pool.jobs.length === 1);
    pool.gated = false;
    pool.go(metas[0]!.digest);
    await loading;
    await until(() => tiers.has(metas[1]!.digest));
  });

  it('takes no room from what other requests wait for', async () => {
    const { tiers, metas, pool } = build();
    (await tiers.open(metas[9]!)).release();
    for (const at of [0, 1, 2, 3, 4]) tiers.prefetch(metas[at]!);
    await until(() => tiers.stats().prefetched === 3);
    await turn();
    expect(pool.jobs).toHaveLength(4);
    expect([0, 1, 2, 3, 9].map((at) => tiers.has(metas[at]!.digest))).toEqual([
      true,
      true,
      true,
      false,
      false,
    ]);
    // A load does, if it must.
    expect((await tiers.open(metas[5]!)).tier).toBe('disk');
    expect(tiers.has(metas[0]!.digest)).toBe(false);
    expect(tiers.has(metas[5]!.digest)).toBe(true);
  });

  it('has a bounded queue and hides failures until the load', async () => {
    const { tiers, metas, pool, store } = build({ budgetBytes: 200 * PAGE });
    writeFileSync(store.path(metas[0]!.digest), '');
    let open!: () => void;
    store.gate = new Promise((resolve) => {
      open = resolve;
    });
    for (const meta of metas) tiers.prefetch(meta);
    open();
    await until(() => tiers.stats().prefetched === PREFETCH_QUEUE_MAX);
    await turn();
    // The first is under way when the rest come, and is damaged.
    expect(pool.jobs).toHaveLength(PREFETCH_QUEUE_MAX + 1);
    await expect(tiers.open(metas[0]!)).rejects.toThrow(code('blob_missing'));
  });

  it('keeps nothing that was dropped meanwhile', async () => {
    const { tiers, metas, pool } = build();
    pool.gated = true;
    tiers.prefetch(metas[0]!);
    tiers.prefetch(metas[1]!);
    await until(() => pool.jobs.length === 1);
    expect(tiers.drop(metas[0]!.digest)).toBe(false);
    expect(tiers.drop(metas[1]!.digest)).toBe(false);
    pool.go(metas[0]!.digest);
    await until(() => tiers.stats().bytes === 0);
    await turn();
    expect(tiers.digests()).toEqual([]);
    expect(pool.jobs).toHaveLength(1);
  });

  it('ends with close, which waits for reads under way', async () => {
    const { tiers, metas, pool } = build();
    pool.gated = true;
    const loading = tiers.open(metas[0]!);
    tiers.prefetch(metas[1]!);
    let closed = false;
    const closing = tiers.close().then(() => {
      closed = true;
    });
    await until(() => pool.jobs.length === 1);
    expect(closed).toBe(false);
    pool.go(metas[0]!.digest);
    const opened = await loading;
    await closing;
    expect(isIntact(opened.image, 0)).toBe(true);
    opened.release();
    expect(tiers.stats()).toMatchObject({ bytes: 0, entries: 0 });
    expect(pool.jobs).toHaveLength(1);
    await expect(tiers.open(metas[2]!)).rejects.toThrow(code('shutting_down'));
  });
});

describe('with the real threads', () => {
  it('the bytes come through shared memory, or change hands', async () => {
    const pool = new ConvertPool({ modules: TINY_MODULES, threads: 1 });
    const { tiers, metas } = build({ pool, budgetBytes: 2 * PAGE });
    const opened = await Promise.all([0, 1, 2, 3, 0].map((at) => tiers.open(metas[at]!)));
    opened.forEach(({ image }, i) => {
      expect(isIntact(image, [0, 1, 2, 3, 0][i]!)).toBe(true);
    });
    const shared = opened.filter(({ image }) => image.bytes!.buffer instanceof SharedArrayBuffer);
    expect(shared).toHaveLength(3);
    for (const { release } of opened) release();
    tiers.prefetch(metas[4]!);
    await expect.poll(() => tiers.has(metas[4]!.digest)).toBe(true);
    await tiers.close();
    await pool.close();
  });
});
