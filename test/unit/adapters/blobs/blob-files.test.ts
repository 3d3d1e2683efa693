/** Files of generations: fetched, checked, shared, repaired and collected. */
import { mkdirSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import {
  type BlobFilesOptions,
  createBlobFiles,
  GARBAGE_PER_RUN_MAX,
  type ManagedBlobFiles,
  REPAIRS_PER_RUN_MAX,
} from '../../../../src/adapters/blobs/blob-files.ts';
import { DirectoryBlobs } from '../../../../src/adapters/blobs/directory-blobs.ts';
import { createLocalBlobs } from '../../../../src/adapters/blobs/local-blobs.ts';
import type { LocalBlobs } from '../../../../src/adapters/blobs/types.ts';
import { LoramuxError } from '../../../../src/errors.ts';
import { TempDir } from '../../../support/adapter-files.ts';
import { codeOf, contentOf, metaOf, sha256 } from '../../../support/blob-store-conformance.ts';
import { MemoryLedger } from '../../../support/memory-ledger.ts';
import { WatchedStore } from '../../../support/watched-store.ts';

const temp = new TempDir();
const closers: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});
afterAll(() => temp.remove());

const BYTES = 1000;
const content = (seed: number) => contentOf(seed, BYTES);
const meta = (seed: number) => metaOf(content(seed));
const digestOf = (seed: number) => sha256(content(seed));

interface Replica {
  readonly local: LocalBlobs;
  readonly store: WatchedStore;
  readonly files: ManagedBlobFiles;
  readonly warnings: string[];
  /** As a conversion leaves it. */
  have(seed: number): Promise<void>;
  leftovers(): string[];
}

class Fleet {
  readonly dir = temp.fresh('.share');
  readonly ledger = new MemoryLedger({ graceMs: 1000, uploadMs: 10_000, claimMs: 1000 });

  constructor() {
    mkdirSync(this.dir);
  }

  async replica(options: Partial<BlobFilesOptions> & { maxBytes?: number } = {}): Promise<Replica> {
    const root = temp.fresh('.disk');
    const warnings: string[] = [];
    const onWarning = (message: string) => void warnings.push(message);
    const local = createLocalBlobs({ root, maxBytes: options.maxBytes, onWarning });
    await local.open();
    const store = new WatchedStore(new DirectoryBlobs({ dir: this.dir }));
    const files = createBlobFiles({
      local,
      ledger: this.ledger,
      store,
      concurrency: 2,
      retries: 2,
      onWarning,
      ...options,
    });
    closers.push(
      () => local.close(),
      () => files.close(),
    );
    return {
      local,
      store,
      files,
      warnings,
      async have(seed) {
        const staged = local.stage();
        writeFileSync(staged, content(seed));
        await local.commit(staged, digestOf(seed));
      },
      leftovers: () => readdirSync(path.join(root, 'tmp')),
    };
  }

  /** Puts contents into the shared store, kept by a name each. */
  async share(...seeds: number[]): Promise<Replica> {
    const replica = await this.replica();
    for (const seed of seeds) {
      await replica.have(seed);
      this.ledger.keep(digestOf(seed));
      await replica.files.ensureShared(digestOf(seed));
    }
    return replica;
  }

  /** Locations whose bytes are there. */
  stored(): string[] {
    const folders = readdirSync(this.dir).filter((name) => name.length === 64);
    return folders
      .flatMap((digest) => readdirSync(path.join(this.dir, digest)).map((id) => `${digest}/${id}`))
      .sort();
  }
}

const unavailable = () => new LoramuxError('blob_unavailable', 'the share is away');

describe('without a fleet', () => {
  const alone = async () => {
    const local = createLocalBlobs({ root: temp.fresh('.disk'), onWarning: () => {} });
    await local.open();
    closers.push(() => local.close());
    const files = createBlobFiles({ local, concurrency: 1, retries: 0, onWarning: () => {} });
    const staged = local.stage();
    writeFileSync(staged, content(1));
    await local.commit(staged, digestOf(1));
    return { local, files };
  };

  it('gives what is on disk, and shares nothing', async () => {
    const { files } = await alone();
    expect(files.shared).toBe(false);
    const file = await files.ensureLocal(meta(1));
    expect(file.tier).toBe('disk');
    expect(readFileSync(file.path).equals(content(1))).toBe(true);
    await files.ensureShared(digestOf(1));
    expect(await files.collectGarbage()).toBe(0);
    expect(await files.repair()).toBe(0);
    await files.close();
  });

  it('says what is missing or short, and keeps a rejected file', async () => {
    const { local, files } = await alone();
    expect(await codeOf(files.ensureLocal(meta(2)))).toBe('store_corrupt');
    await files.reject(digestOf(1));
    expect(local.has(digestOf(1))).toBe(true);
    truncateSync(local.path(digestOf(1)), 10);
    await expect(files.ensureLocal(meta(1))).rejects.toThrow(/has 10 bytes, not 1000/);
    rmSync(local.path(digestOf(1)));
    await expect(files.ensureLocal(meta(1))).rejects.toThrow(/is gone/);
  });
});

describe('fetching', () => {
  it('transfers once for all who ask, and reads the disk from then on', async () => {
    const fleet = new Fleet();
    await fleet.share(1);
    const { files, store, local } = await fleet.replica();
    const all = await Promise.all(Array.from({ length: 50 }, () => files.ensureLocal(meta(1))));
    expect(store.calls).toEqual(['download']);
    expect(new Set(all.map(({ tier }) => tier))).toEqual(new Set(['registry']));
    expect(readFileSync(all[0]!.path).equals(content(1))).toBe(true);
    expect((await files.ensureLocal(meta(1))).tier).toBe('disk');
    expect(local.has(digestOf(1))).toBe(true);
    expect(files.stats()).toMatchObject({ downloads: 1, downloadedBytes: BYTES, failures: 0 });
  });

  it('bounds the transfers that run at once', async () => {
    const fleet = new Fleet();
    const seeds = Array.from({ length: 12 }, (_, i) => i + 1);
    await fleet.share(...seeds);
    const { files, store } = await fleet.replica({ concurrency: 3 });
    await Promise.all(seeds.map((seed) => files.ensureLocal(meta(seed))));
    expect(store.calls).toHaveLength(12);
    expect(store.mostRunning).toBe(3);
    expect(files.stats()).toMatchObject({ running: 0, waiting: 0 });
  });

  it('keeps a file until it is given back, and only once', async () => {
    const fleet = new Fleet();
    await fleet.share(1, 2, 3);
    const { files, local } = await fleet.replica({ maxBytes: 2 * BYTES });
    const first = await files.ensureLocal(meta(1));
    const again = await files.ensureLocal(meta(1));
    for (const seed of [2, 3, 2, 3]) (await files.ensureLocal(meta(seed))).release();
    expect(local.has(digestOf(1))).toBe(true);
    first.release();
    first.release();
    for (const seed of [2, 3]) (await files.ensureLocal(meta(seed))).release();
    expect(local.has(digestOf(1))).toBe(true);
    again.release();
    for (const seed of [2, 3]) (await files.ensureLocal(meta(seed))).release();
    expect(local.has(digestOf(1))).toBe(false);
  });

  it('throws wrong content away and tries again, up to its limit', async () => {
    const fleet = new Fleet();
    await fleet.share(1, 2);
    const { files, store, warnings, local, leftovers } = await fleet.replica({ retries: 2 });
    store.spoil = 2;
    expect((await files.ensureLocal(meta(1))).tier).toBe('registry');
    expect(store.calls).toHaveLength(3);
    store.spoil = 3;
    expect(await codeOf(files.ensureLocal(meta(2)))).toBe('blob_missing');
    expect(store.calls).toHaveLength(6);
    expect(await fleet.ledger.wanted()).toEqual([digestOf(2)]);
    expect(await fleet.ledger.locate(digestOf(2))).toBeUndefined();
    expect(warnings).toHaveLength(5);
    expect(local.has(digestOf(2))).toBe(false);
    expect(leftovers()).toEqual([]);
    expect(files.stats()).toMatchObject({ wrongContent: 5, missing: 1, failures: 1, downloads: 1 });
  });

  it('follows a blob that gets another location meanwhile', async () => {
    const fleet = new Fleet();
    const owner = await fleet.share(1);
    const { files, store, leftovers } = await fleet.replica();
    store.before = async (_call, location) => {
      store.before = async () => {};
      await fleet.ledger.reportMissing(digestOf(1), location);
      expect(await owner.files.repair()).toBe(1);
      expect(await owner.files.collectGarbage()).toBe(1);
    };
    expect((await files.ensureLocal(meta(1))).tier).toBe('registry');
    expect(store.calls).toEqual(['download', 'download']);
    expect(await fleet.ledger.wanted()).toEqual([]);
    expect(leftovers()).toEqual([]);
  });

  it('tries once more when the store fails, and then says so', async () => {
    const fleet = new Fleet();
    await fleet.share(1);
    const { files, store, local } = await fleet.replica();
    let failures = 1;
    store.before = async () => {
      if (failures-- > 0) throw unavailable();
    };
    await files.ensureLocal(meta(1));
    await files.reject(digestOf(1));
    expect(local.has(digestOf(1))).toBe(false);
    failures = 2;
    expect(await codeOf(files.ensureLocal(meta(1)))).toBe('blob_unavailable');
    expect(await fleet.ledger.wanted()).toEqual([]);
    // Nothing remembers the failure.
    expect((await files.ensureLocal(meta(1))).tier).toBe('registry');
  });

  it('says when the ledger does not know or does not answer', async () => {
    const fleet = new Fleet();
    const { files } = await fleet.replica();
    expect(await codeOf(files.ensureLocal(meta(1)))).toBe('blob_missing');
    fleet.ledger.failure = new LoramuxError('registry_unavailable', 'Redis is away');
    const fetched = files.ensureLocal(meta(1));
    expect(await codeOf(fetched)).toBe('blob_unavailable');
    await expect(fetched).rejects.toThrow(/Redis is away/);
  });

  it('fetches again what is short or gone on disk', async () => {
    const fleet = new Fleet();
    await fleet.share(1);
    const { files, local } = await fleet.replica();
    const file = await files.ensureLocal(meta(1));
    truncateSync(file.path, 10);
    expect((await files.ensureLocal(meta(1))).tier).toBe('registry');
    expect(readFileSync(file.path).equals(content(1))).toBe(true);
    rmSync(file.path);
    expect((await files.ensureLocal(meta(1))).tier).toBe('registry');
    expect(readFileSync(file.path).equals(content(1))).toBe(true);
    expect(local.stats()).toMatchObject({ files: 1, bytes: BYTES });
  });

  it('does not begin with what can never fit', async () => {
    const fleet = new Fleet();
    await fleet.share(1);
    const { files, store } = await fleet.replica({ maxBytes: BYTES - 1 });
    expect(await codeOf(files.ensureLocal(meta(1)))).toBe('adapter_too_large');
    expect(store.calls).toEqual([]);
  });

  it('gives back its hold when it fails', async () => {
    const fleet = new Fleet();
    await fleet.share(2);
    const { files, have, local } = await fleet.replica({ maxBytes: BYTES });
    expect(await codeOf(files.ensureLocal(meta(1)))).toBe('blob_missing');
    await have(1);
    await files.ensureLocal(meta(2));
    expect(local.has(digestOf(1))).toBe(false);
  });

  it('ends what is under way when it is closed', async () => {
    const fleet = new Fleet();
    await fleet.share(1, 2, 3);
    const { files, store, leftovers } = await fleet.replica({ concurrency: 1 });
    let reached = () => {};
    let goOn = () => {};
    const atStore = new Promise<void>((resolve) => {
      reached = resolve;
    });
    store.before = () => {
      reached();
      return new Promise((resolve) => {
        goOn = resolve;
      });
    };
    const codes = [1, 2].map((seed) => codeOf(files.ensureLocal(meta(seed))));
    await atStore;
    const closed = files.close();
    goOn();
    await closed;
    expect(await Promise.all(codes)).toEqual(['blob_unavailable', 'shutting_down']);
    expect(await codeOf(files.ensureLocal(meta(3)))).toBe('shutting_down');
    expect(leftovers()).toEqual([]);
  });
});

describe('sharing', () => {
  it('uploads once, whoever asks', async () => {
    const fleet = new Fleet();
    const { files, store, have } = await fleet.replica();
    await have(1);
    fleet.ledger.keep(digestOf(1));
    await Promise.all(Array.from({ length: 20 }, () => files.ensureShared(digestOf(1))));
    await files.ensureShared(digestOf(1));
    expect(store.calls).toEqual(['upload']);
    expect(fleet.stored()).toEqual([await fleet.ledger.locate(digestOf(1))]);
    expect(files.stats()).toMatchObject({ uploads: 1, uploadedBytes: BYTES });
  });

  it('leaves one blob when several replicas upload it at once', async () => {
    const fleet = new Fleet();
    const replicas = await Promise.all(Array.from({ length: 4 }, () => fleet.replica()));
    let waiting = 0;
    let goOn = () => {};
    const together = new Promise<void>((resolve) => {
      goOn = resolve;
    });
    for (const { store, have } of replicas) {
      await have(1);
      store.before = async (call) => {
        if (call === 'upload' && ++waiting === replicas.length) goOn();
        if (call === 'upload') await together;
      };
    }
    fleet.ledger.keep(digestOf(1));
    await Promise.all(replicas.map(({ files }) => files.ensureShared(digestOf(1))));
    expect(fleet.stored()).toEqual([await fleet.ledger.locate(digestOf(1))]);
    // The ledger still lists the others; removing them again does no harm.
    expect(await replicas[0]!.files.collectGarbage()).toBe(3);
    expect(fleet.ledger.locations()).toEqual(fleet.stored());
  });

  it('shares nothing that is damaged, missing or too large', async () => {
    const fleet = new Fleet();
    const { files, store, have, local } = await fleet.replica();
    expect(await codeOf(files.ensureShared(digestOf(1)))).toBe('store_corrupt');
    await have(1);
    writeFileSync(local.path(digestOf(1)), content(2));
    await expect(files.ensureShared(digestOf(1))).rejects.toThrow(/damaged on disk/);
    expect(local.has(digestOf(1))).toBe(false);
    await have(1);
    store.maxBlobBytes = BYTES - 1;
    expect(await codeOf(files.ensureShared(digestOf(1)))).toBe('adapter_too_large');
    expect(store.calls).toEqual([]);
    expect(fleet.ledger.locations()).toEqual([]);
  });

  it('tries once more when the store fails', async () => {
    const fleet = new Fleet();
    const { files, store, have } = await fleet.replica();
    await have(1);
    store.before = async () => {
      store.before = async () => {};
      throw unavailable();
    };
    await files.ensureShared(digestOf(1));
    expect(store.calls).toEqual(['upload', 'upload']);
    expect(fleet.stored()).toEqual([await fleet.ledger.locate(digestOf(1))]);
  });

  it('does not wait twice for a store that took long to fail', async () => {
    const fleet = new Fleet();
    await fleet.share(1);
    let nowMs = 0;
    const { files, store, have } = await fleet.replica({ now: () => nowMs });
    await have(2);
    store.before = async () => {
      nowMs += 60_000;
      throw unavailable();
    };
    expect(await codeOf(files.ensureLocal(meta(1)))).toBe('blob_unavailable');
    expect(await codeOf(files.ensureShared(digestOf(2)))).toBe('blob_unavailable');
    expect(store.calls).toEqual(['download', 'upload']);
  });

  it('leaves what it could not upload to garbage collection', async () => {
    const fleet = new Fleet();
    const { files, store, have } = await fleet.replica();
    await have(1);
    store.before = async (call, location) => {
      if (call !== 'upload') return;
      const folder = path.join(fleet.dir, path.dirname(location));
      mkdirSync(folder, { recursive: true });
      writeFileSync(`${path.join(fleet.dir, location)}.part`, 'half');
      throw unavailable();
    };
    writeFileSync(path.join(fleet.dir, 'loramux-blobs'), '');
    expect(await codeOf(files.ensureShared(digestOf(1)))).toBe('blob_unavailable');
    expect(fleet.stored()).toHaveLength(1);
    expect(await files.collectGarbage()).toBe(0);
    fleet.ledger.nowMs += 10_000;
    expect(await files.collectGarbage()).toBe(1);
    expect(fleet.stored()).toEqual([]);
    expect(fleet.ledger.locations()).toEqual([]);
  });
});

describe('collecting garbage', () => {
  it('removes what no name keeps, after the grace time', async () => {
    const fleet = new Fleet();
    const { files } = await fleet.share(1, 2);
    fleet.ledger.drop(digestOf(1));
    expect(await files.collectGarbage()).toBe(0);
    fleet.ledger.nowMs += 1000;
    expect(await files.collectGarbage()).toBe(1);
    expect(fleet.stored()).toEqual([await fleet.ledger.locate(digestOf(2))]);
    expect(fleet.ledger.locations()).toEqual(fleet.stored());
  });

  it('keeps a claim that failed, and tries again later', async () => {
    const fleet = new Fleet();
    const { files, store, warnings } = await fleet.share(1);
    fleet.ledger.drop(digestOf(1));
    fleet.ledger.nowMs += 1000;
    store.before = async () => {
      throw unavailable();
    };
    expect(await files.collectGarbage()).toBe(0);
    expect(warnings).toEqual([
      expect.stringMatching(/could not be removed yet: the share is away/),
    ]);
    store.before = async () => {};
    expect(await files.collectGarbage()).toBe(0);
    fleet.ledger.nowMs += 1000;
    expect(await files.collectGarbage()).toBe(1);
    expect(fleet.stored()).toEqual([]);
  });

  it('does a bounded number per run, and says when the ledger fails', async () => {
    const fleet = new Fleet();
    const { files } = await fleet.share(1);
    const count = GARBAGE_PER_RUN_MAX + 3;
    for (let i = 0; i < count; i++) await fleet.ledger.beginUpload(digestOf(2));
    fleet.ledger.nowMs += 10_000;
    expect(await files.collectGarbage()).toBe(GARBAGE_PER_RUN_MAX);
    expect(await files.collectGarbage()).toBe(3);
    fleet.ledger.failure = new LoramuxError('registry_unavailable', 'Redis is away');
    expect(await codeOf(files.collectGarbage())).toBe('registry_unavailable');
  });
});

describe('repairing', () => {
  const lose = async (fleet: Fleet, ...seeds: number[]) => {
    for (const seed of seeds) {
      const location = (await fleet.ledger.locate(digestOf(seed)))!;
      await fleet.ledger.reportMissing(digestOf(seed), location);
    }
  };

  it('stores again what is sound here, and nothing else', async () => {
    const fleet = new Fleet();
    const owner = await fleet.share(1, 2, 3);
    await lose(fleet, 1, 2, 3);
    writeFileSync(owner.local.path(digestOf(2)), content(9));
    await owner.local.remove(digestOf(3));
    expect(await owner.files.repair()).toBe(1);
    expect(await fleet.ledger.locate(digestOf(1))).toBeDefined();
    expect(new Set(await fleet.ledger.wanted())).toEqual(new Set([digestOf(2), digestOf(3)]));
    expect(owner.warnings).toEqual([expect.stringMatching(/damaged on disk/)]);
    expect(await owner.files.repair()).toBe(0);
    expect(owner.files.stats().repaired).toBe(1);
  });

  it('stops at a store that fails, and does a bounded number per run', async () => {
    const fleet = new Fleet();
    const seeds = Array.from({ length: REPAIRS_PER_RUN_MAX + 2 }, (_, i) => i + 1);
    const { files, store } = await fleet.share(...seeds);
    await lose(fleet, ...seeds);
    store.before = async () => {
      throw unavailable();
    };
    store.calls.length = 0;
    expect(await files.repair()).toBe(0);
    expect(store.calls).toEqual(['upload', 'upload']);
    store.before = async () => {};
    expect(await files.repair()).toBe(REPAIRS_PER_RUN_MAX);
    expect(await files.repair()).toBe(2);
    expect(await fleet.ledger.wanted()).toEqual([]);
    fleet.ledger.failure = new LoramuxError('registry_unavailable', 'Redis is away');
    expect(await codeOf(files.repair())).toBe('registry_unavailable');
  });
});
