/**
 * What every shared blob store must do, as one suite. A test file calls `blobStoreConformance` with a
 * world: one place for blobs, that stores of several processes are opened on.
 */
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { createBlobFiles } from '../../src/adapters/blobs/blob-files.ts';
import { createLocalBlobs } from '../../src/adapters/blobs/local-blobs.ts';
import type { BlobStore, LocalBlobs } from '../../src/adapters/blobs/types.ts';
import type { GenerationMeta } from '../../src/adapters/registry/types.ts';
import { LoramuxError } from '../../src/errors.ts';
import { TempDir } from './adapter-files.ts';
import { MemoryLedger } from './memory-ledger.ts';
import { Random } from './random.ts';

export type Damage = 'flip' | 'truncate' | 'lose';

export interface BlobStoreWorld {
  /** Another store on the same place, as of another process. The suite closes it. */
  open(): Promise<BlobStore>;
  /** Changes the bytes of a blob behind the store's back. */
  damage(location: string, how: Damage): Promise<void>;
  /** Names of everything that is kept of a location, complete or not. */
  remains(location: string): Promise<readonly string[]>;
}

const MIB = 1024 * 1024;
/** Around the sizes of pieces, chunks and parts. */
const SIZES = [0, 1, MIB / 4 - 1, MIB - 1, MIB, MIB + 1, 8 * MIB, 8 * MIB + 1, 20 * MIB + 7];
const CONCURRENT = 24;

export const sha256 = (bytes: Uint8Array): string =>
  createHash('sha256').update(bytes).digest('hex');

/** Cheap bytes that differ everywhere. */
export function contentOf(seed: number, bytes: number): Buffer {
  const random = new Random(seed);
  const buffer = Buffer.alloc(bytes);
  for (let i = 0; i + 4 <= bytes; i += 4) buffer.writeUInt32LE((random.next() * 2 ** 32) >>> 0, i);
  return buffer;
}

/** The facts of a generation whose file has this content. */
export function metaOf(content: Uint8Array): GenerationMeta {
  return {
    digest: sha256(content),
    fileBytes: content.length,
    headerBytes: 0,
    headerDigest: sha256(Buffer.alloc(0)),
    rank: 1,
    residentBytes: content.length,
    targetModules: ['q_proj'],
    base: 'shapes',
  };
}

/** The stable code of what a promise rejects with. */
export async function codeOf(work: Promise<unknown>): Promise<string> {
  try {
    await work;
  } catch (error) {
    return error instanceof LoramuxError ? error.code : `${error}`;
  }
  return 'nothing was thrown';
}

export function blobStoreConformance(label: string, makeWorld: () => BlobStoreWorld): void {
  describe(`${label}: what every blob store does`, () => {
    const temp = new TempDir();
    const stores: BlobStore[] = [];
    const disks: LocalBlobs[] = [];
    let locations = 0;
    afterEach(async () => {
      for (const store of stores.splice(0)) await store.close();
      for (const disk of disks.splice(0)) await disk.close();
    });
    afterAll(() => temp.remove());

    const open = async () => {
      const store = await makeWorld().open();
      stores.push(store);
      return store;
    };
    const place = (content: Uint8Array) => `${sha256(content)}/${label}-${locations++}`;
    const fileOf = (content: Uint8Array) => {
      const file = temp.fresh('.in');
      writeFileSync(file, content);
      return file;
    };
    const stored = async (store: BlobStore, content: Uint8Array) => {
      const location = place(content);
      await store.upload(fileOf(content), location);
      return location;
    };

    it('gives back what was stored, whatever its size, also to another process', async () => {
      const [writer, reader] = [await open(), await open()];
      for (const [index, bytes] of SIZES.entries()) {
        const content = contentOf(index, bytes);
        const location = await stored(writer, content);
        const target = temp.fresh('.out');
        await reader.download(location, target, bytes);
        expect(readFileSync(target).equals(content), `${bytes} bytes`).toBe(true);
        await writer.remove(location);
        expect(await makeWorld().remains(location)).toEqual([]);
      }
    });

    it('says that a blob is missing, and leaves no file', async () => {
      const store = await open();
      const target = temp.fresh('.out');
      // Something else is there, so that the place as a whole is known to be.
      await stored(store, contentOf(1, 100));
      const location = place(contentOf(2, 100));
      expect(await codeOf(store.download(location, target, 100))).toBe('blob_missing');
      expect(existsSync(target)).toBe(false);
    });

    it('takes a blob of another size, a cut one and a lost one for missing', async () => {
      const store = await open();
      const content = contentOf(3, 3 * MIB + 5);
      const location = await stored(store, content);
      const target = temp.fresh('.out');
      const download = (bytes: number) => codeOf(store.download(location, target, bytes));
      expect(await download(content.length - 1)).toBe('blob_missing');
      expect(await download(content.length + 1)).toBe('blob_missing');
      for (const how of ['truncate', 'lose'] as const) {
        await makeWorld().damage(location, how);
        expect(await download(content.length), how).toBe('blob_missing');
        expect(existsSync(target)).toBe(false);
      }
      await store.remove(location);
      expect(await makeWorld().remains(location)).toEqual([]);
    });

    it('removes what is not there, twice', async () => {
      const store = await open();
      const location = await stored(store, contentOf(4, 10));
      await store.remove(location);
      await store.remove(location);
      await store.remove(place(contentOf(5, 10)));
    });

    it('keeps transfers that run at the same time apart', async () => {
      const processes = [await open(), await open(), await open()];
      const contents = Array.from({ length: CONCURRENT }, (_, i) =>
        contentOf(100 + (i % 5), 70_000 * (i % 5) + i * 131),
      );
      const where = await Promise.all(
        contents.map((content, i) => stored(processes[i % processes.length]!, content)),
      );
      expect(new Set(where).size).toBe(CONCURRENT);
      await Promise.all(
        contents.map(async (content, i) => {
          const target = temp.fresh('.out');
          const store = processes[(i + 1) % processes.length]!;
          await store.download(where[i]!, target, content.length);
          expect(readFileSync(target).equals(content)).toBe(true);
          await store.remove(where[i]!);
        }),
      );
    });

    it('overwrites no file of this process', async () => {
      const store = await open();
      const location = await stored(store, contentOf(6, 10));
      const target = fileOf(Buffer.from('mine'));
      expect(await codeOf(store.download(location, target, 10))).toBe('blob_unavailable');
      expect(readFileSync(target, 'utf8')).toBe('mine');
    });

    it('says when the file to be stored is not there', async () => {
      const store = await open();
      const upload = store.upload(temp.fresh('.none'), place(contentOf(7, 1)));
      expect(await codeOf(upload)).toBe('store_corrupt');
    });

    it('takes only locations as the ledger makes them', async () => {
      const store = await open();
      const digest = sha256(Buffer.alloc(0));
      const bad = ['', digest, `${digest}/`, `${digest}/..`, `../${digest}/a`, `${digest}/a/b`];
      for (const location of [
        ...bad,
        `${digest.slice(1)}/a`,
        `${digest}/a.part`,
        `${digest}/a b`,
      ]) {
        const file = fileOf(Buffer.alloc(1));
        expect(await codeOf(store.upload(file, location))).toBe('internal_error');
        expect(await codeOf(store.download(location, temp.fresh(), 1))).toBe('internal_error');
        expect(await codeOf(store.remove(location))).toBe('internal_error');
      }
    });

    it('refuses work when it is closed, and may be closed twice', async () => {
      const store = await open();
      const content = contentOf(8, 10);
      const location = await stored(store, content);
      await store.close();
      await store.close();
      const target = temp.fresh('.out');
      expect(await codeOf(store.download(location, target, 10))).toBe('blob_unavailable');
      expect(await codeOf(store.upload(fileOf(content), location))).toBe('blob_unavailable');
    });

    it('never lets a damaged blob through, and gets it back from who has it', async () => {
      const ledger = new MemoryLedger();
      const replica = async () => {
        const local = createLocalBlobs({ root: temp.fresh('.disk'), onWarning: () => {} });
        await local.open();
        disks.push(local);
        const store = await open();
        const warnings: string[] = [];
        const onWarning = (message: string) => void warnings.push(message);
        const files = createBlobFiles({
          local,
          ledger,
          store,
          concurrency: 4,
          retries: 2,
          onWarning,
        });
        return { local, files, warnings };
      };
      for (const how of ['flip', 'truncate', 'lose'] as const) {
        const [owner, other] = [await replica(), await replica()];
        const content = contentOf(how.length, 2 * MIB + 3);
        const meta = metaOf(content);
        const staged = owner.local.stage();
        writeFileSync(staged, content);
        await owner.local.commit(staged, meta.digest);
        ledger.keep(meta.digest);
        await owner.files.ensureShared(meta.digest);
        const location = (await ledger.locate(meta.digest))!;
        await makeWorld().damage(location, how);

        expect(await codeOf(other.files.ensureLocal(meta)), how).toBe('blob_missing');
        expect(other.local.has(meta.digest)).toBe(false);
        expect(other.warnings.length).toBe(how === 'flip' ? 3 : 1);
        expect(await ledger.wanted()).toEqual([meta.digest]);

        expect(await other.files.repair()).toBe(0);
        expect(await owner.files.repair()).toBe(1);
        expect(await ledger.wanted()).toEqual([]);
        const fetched = await other.files.ensureLocal(meta);
        expect(fetched.tier).toBe('registry');
        expect(readFileSync(fetched.path).equals(content)).toBe(true);
        fetched.release();

        // The damaged bytes are garbage by now.
        expect(await other.files.collectGarbage()).toBe(1);
        expect(await makeWorld().remains(location)).toEqual([]);
        expect(readdirSync(`${other.local.uploadDir}/../tmp`)).toEqual([]);
      }
    });
  });
}
