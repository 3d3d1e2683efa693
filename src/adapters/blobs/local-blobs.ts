/**
 * Canonical files on local disk, below one folder of one process:
 *
 *     blobs/<digest>.safetensors   immutable; other files there are left alone
 *     tmp/  uploads/               emptied at start
 *
 * A file appears under its digest only complete and synced: fsync the file, rename it, fsync the
 * folder. With a byte budget the folder is a cache: the files used longest ago make room for new
 * ones. The order of use survives a restart through the files' times.
 */
import { randomUUID } from 'node:crypto';
import path from 'node:path';
import { LoramuxError } from '../../errors.ts';
import { lockFolder } from '../../folder-lock.ts';
import { KeyedLock } from '../keyed-lock.ts';
import { nodeStoreFs, type StoreFs } from '../store/store-fs.ts';
import { isDiskFull } from './io.ts';
import type { LocalBlobStats, LocalBlobs } from './types.ts';

const BLOB_FILE = /^([0-9a-f]{64})\.safetensors$/;
const DIGEST = /^[0-9a-f]{64}$/;
/** Files looked at or removed at the same time. */
const FILE_CONCURRENCY_MAX = 16;
/** A file's time is at most this much older than its last use. */
const TOUCH_INTERVAL_MS = 60_000;

export interface LocalBlobsOptions {
  /** Created when missing. */
  readonly root: string;
  /** Budget; without it nothing is ever evicted. */
  readonly maxBytes?: number | undefined;
  readonly fs?: StoreFs;
  readonly now?: () => number;
  readonly onWarning: (message: string) => void;
}

/** Canonical files below a folder; nothing is read or made before `open`. */
export function createLocalBlobs(options: LocalBlobsOptions): LocalBlobs {
  return new DiskBlobs(options);
}

interface Entry {
  bytes: number;
  /** What the time of the file is known to be, milliseconds since the epoch. */
  touchedMs: number;
}

class DiskBlobs implements LocalBlobs {
  readonly uploadDir: string;
  readonly #root: string;
  readonly #blobs: string;
  readonly #tmp: string;
  readonly #maxBytes: number | undefined;
  readonly #fs: StoreFs;
  readonly #now: () => number;
  readonly #warn: (message: string) => void;
  /** Changes of one digest's file run one after the other. */
  readonly #lock = new KeyedLock();
  /** Longest unused first. */
  readonly #files = new Map<string, Entry>();
  readonly #holds = new Map<string, number>();
  #bytes = 0;
  /** Bytes of commits under way. */
  #reserved = 0;
  #evictions = 0;
  #unlock: (() => Promise<void>) | undefined;

  constructor(options: LocalBlobsOptions) {
    this.#root = path.resolve(options.root);
    this.#blobs = path.join(this.#root, 'blobs');
    this.#tmp = path.join(this.#root, 'tmp');
    this.uploadDir = path.join(this.#root, 'uploads');
    this.#maxBytes = options.maxBytes;
    this.#fs = options.fs ?? nodeStoreFs;
    this.#now = options.now ?? Date.now;
    this.#warn = options.onWarning;
  }

  async open(): Promise<void> {
    for (const dir of [this.#blobs, this.#tmp, this.uploadDir]) await this.#fs.makeDir(dir);
    this.#unlock = await lockFolder(this.#root);
    try {
      await this.#fs.syncDir(this.#root);
      for (const dir of [this.#tmp, this.uploadDir]) {
        for (const file of await this.#fs.list(dir)) await this.#fs.remove(path.join(dir, file));
      }
      await this.#readFiles();
      await this.#makeRoom();
    } catch (error) {
      await this.close();
      throw error;
    }
  }

  stage(): string {
    return path.join(this.#tmp, `${randomUUID()}.safetensors`);
  }

  async commit(staged: string, digest: string): Promise<void> {
    this.#checkDigest(digest);
    const letGo = this.#keep(digest);
    try {
      await this.#lock.run(digest, () => this.#commit(staged, digest));
    } catch (error) {
      await this.#fs.remove(staged).catch(() => undefined);
      throw this.#explain(error);
    } finally {
      letGo();
    }
  }

  discard(staged: string): Promise<void> {
    return this.#fs.remove(staged);
  }

  has(digest: string): boolean {
    return this.#files.has(digest);
  }

  path(digest: string): string {
    this.#checkDigest(digest);
    return path.join(this.#blobs, `${digest}.safetensors`);
  }

  hold(digest: string): () => void {
    this.#markUsed(digest);
    const letGo = this.#keep(digest);
    return () => {
      this.#markUsed(digest);
      letGo();
    };
  }

  remove(digest: string): Promise<void> {
    return this.#lock.run(digest, async () => {
      await this.#removeFile(digest);
      await this.#fs.syncDir(this.#blobs);
    });
  }

  /** Held files stay. */
  async retainOnly(needed: ReadonlySet<string>): Promise<void> {
    const surplus = [...this.#files.keys()].filter((digest) => !needed.has(digest));
    let removed = 0;
    await inGroups(surplus, (digest) =>
      this.#lock.run(digest, async () => {
        if (this.#holds.has(digest)) return;
        await this.#removeFile(digest);
        removed++;
      }),
    );
    if (removed > 0) await this.#fs.syncDir(this.#blobs);
  }

  stats(): LocalBlobStats {
    return {
      files: this.#files.size,
      bytes: this.#bytes,
      maxBytes: this.#maxBytes,
      evictions: this.#evictions,
    };
  }

  async close(): Promise<void> {
    await this.#lock.idle();
    const unlock = this.#unlock;
    this.#unlock = undefined;
    await unlock?.();
  }

  async #readFiles(): Promise<void> {
    this.#files.clear();
    this.#bytes = 0;
    const found: [digest: string, entry: Entry][] = [];
    await inGroups(await this.#fs.list(this.#blobs), async (file) => {
      const digest = BLOB_FILE.exec(file)?.[1];
      if (digest === undefined) return;
      const facts = await this.#fs.facts(path.join(this.#blobs, file));
      if (facts === undefined) return;
      found.push([digest, { bytes: facts.bytes, touchedMs: facts.modifiedMs }]);
    });
    found.sort(([a, x], [b, y]) => x.touchedMs - y.touchedMs || (a < b ? -1 : 1));
    for (const [digest, entry] of found) this.#add(digest, entry);
  }

  async #commit(staged: string, digest: string): Promise<void> {
    const bytes = await this.#fs.size(staged);
    if (bytes === undefined) {
      throw new LoramuxError('internal_error', `The staged file ${staged} is not there.`);
    }
    if (this.#maxBytes !== undefined && bytes > this.#maxBytes) {
      throw new LoramuxError(
        'adapter_too_large',
        `The adapter's file has ${bytes} bytes, more than the whole disk cache ${this.#root} may ` +
          `hold (${this.#maxBytes}). Raise --disk-cache-mb.`,
      );
    }
    const before = this.#files.get(digest)?.bytes ?? 0;
    const growth = Math.max(0, bytes - before);
    this.#reserved += growth;
    try {
      await this.#makeRoom();
      await this.#fs.syncFile(staged);
      await this.#fs.rename(staged, this.path(digest));
      try {
        await this.#fs.syncDir(this.#blobs);
      } catch (error) {
        // Not known to be durable, so it must not be there; one that was there before is as good.
        if (before === 0) await this.#fs.remove(this.path(digest)).catch(() => undefined);
        throw error;
      }
      this.#drop(digest);
      this.#add(digest, { bytes, touchedMs: this.#now() });
    } finally {
      this.#reserved -= growth;
    }
  }

  /** Evicts until the budget is kept, or until everything that is left is held. */
  async #makeRoom(): Promise<void> {
    if (this.#maxBytes === undefined) return;
    const victims: string[] = [];
    for (const digest of this.#files.keys()) {
      if (this.#bytes + this.#reserved <= this.#maxBytes) break;
      if (this.#holds.has(digest)) continue;
      this.#drop(digest);
      this.#evictions++;
      victims.push(digest);
    }
    await inGroups(victims, (digest) => this.#lock.run(digest, () => this.#evictFile(digest)));
  }

  async #evictFile(digest: string): Promise<void> {
    // Committed again before its turn came.
    if (this.#files.has(digest)) return;
    try {
      await this.#fs.remove(this.path(digest));
    } catch (error) {
      this.#warn(`${this.path(digest)} could not be evicted: ${(error as Error).message}`);
    }
  }

  async #removeFile(digest: string): Promise<void> {
    const entry = this.#files.get(digest);
    this.#drop(digest);
    try {
      await this.#fs.remove(this.path(digest));
    } catch (error) {
      const left = await this.#fs.size(this.path(digest)).catch(() => undefined);
      if (entry !== undefined && left !== undefined) this.#add(digest, entry);
      throw error;
    }
  }

  /** Keeps a file from eviction; the returned function is idempotent. */
  #keep(digest: string): () => void {
    this.#holds.set(digest, (this.#holds.get(digest) ?? 0) + 1);
    let held = true;
    return () => {
      if (!held) return;
      held = false;
      const count = (this.#holds.get(digest) ?? 0) - 1;
      if (count > 0) {
        this.#holds.set(digest, count);
        return;
      }
      this.#holds.delete(digest);
      void this.#makeRoom();
    };
  }

  #markUsed(digest: string): void {
    const entry = this.#files.get(digest);
    if (entry === undefined || this.#maxBytes === undefined) return;
    this.#files.delete(digest);
    this.#files.set(digest, entry);
    const now = this.#now();
    if (now - entry.touchedMs < TOUCH_INTERVAL_MS) return;
    entry.touchedMs = now;
    // Only the order after a restart depends on it.
    this.#fs.touch(this.path(digest), now).catch(() => undefined);
  }

  #add(digest: string, entry: Entry): void {
    this.#files.set(digest, entry);
    this.#bytes += entry.bytes;
  }

  #drop(digest: string): void {
    this.#bytes -= this.#files.get(digest)?.bytes ?? 0;
    this.#files.delete(digest);
  }

  #checkDigest(digest: string): void {
    if (DIGEST.test(digest)) return;
    throw new LoramuxError('internal_error', `"${digest}" is not a SHA-256 in lower-case hex.`);
  }

  #explain(error: unknown): unknown {
    if (!isDiskFull(error)) return error;
    return new LoramuxError(
      'blob_unavailable',
      `The disk of ${this.#root} is full, nothing was stored. Free space there or move the folder.`,
      { cause: error },
    );
  }
}

async function inGroups<T>(items: readonly T[], work: (item: T) => Promise<void>): Promise<void> {
  for (let i = 0; i < items.length; i += FILE_CONCURRENCY_MAX) {
    await Promise.all(items.slice(i, i + FILE_CONCURRENCY_MAX).map(work));
  }
}
