/**
 * The embedded store, below one folder of one process:
 *
 *     blobs/<digest>.safetensors   canonical files, immutable
 *     names/<name>.json            which digest a name points to ("/" as "+")
 *     tmp/  uploads/               emptied at start
 *
 * A file appears under its final name only complete and synced: write to tmp, fsync, rename, fsync
 * the folder. A blob is committed before the first name that needs it and removed after the last, so
 * whatever instant the power fails, every name has its file.
 */
import { createHash, randomUUID } from 'node:crypto';
import path from 'node:path';
import type { DamagedAdapter } from '../service-types.ts';
import { lockDataDir } from './data-dir-lock.ts';
import {
  decodeNameFile,
  encodeNameFile,
  fileToName,
  MAX_NAME_FILE_BYTES,
  nameToFile,
} from './name-file.ts';
import { nodeStoreFs, type StoreFs } from './store-fs.ts';
import type { AdapterStore, StoreContents, StoredAdapter } from './types.ts';

const BLOB_FILE = /^([0-9a-f]{64})\.safetensors$/;
/** Entries checked at the same time at start. */
const OPEN_CONCURRENCY_MAX = 16;

export class FileAdapterStore implements AdapterStore {
  readonly uploadDir: string;
  readonly #fs: StoreFs;
  readonly #root: string;
  readonly #blobs: string;
  readonly #names: string;
  readonly #tmp: string;
  #unlock: (() => Promise<void>) | undefined;

  /** @param root created when missing. */
  constructor(root: string, fs: StoreFs = nodeStoreFs) {
    this.#fs = fs;
    this.#root = path.resolve(root);
    this.#blobs = path.join(this.#root, 'blobs');
    this.#names = path.join(this.#root, 'names');
    this.#tmp = path.join(this.#root, 'tmp');
    this.uploadDir = path.join(this.#root, 'uploads');
  }

  async open(): Promise<StoreContents> {
    const folders = [this.#blobs, this.#names, this.#tmp, this.uploadDir];
    for (const dir of folders) await this.#fs.makeDir(dir);
    this.#unlock = await lockDataDir(this.#root);
    try {
      await this.#fs.syncDir(this.#root);
      for (const dir of [this.#tmp, this.uploadDir]) {
        for (const file of await this.#fs.list(dir)) await this.#fs.remove(path.join(dir, file));
      }
      const contents = await this.#readNames();
      await this.#removeOrphans(contents);
      return contents;
    } catch (error) {
      await this.close();
      throw error;
    }
  }

  stage(): string {
    return path.join(this.#tmp, `${randomUUID()}.safetensors`);
  }

  async commitBlob(staged: string, digest: string): Promise<void> {
    await this.#fs.syncFile(staged);
    await this.#fs.rename(staged, this.#blobPath(digest));
    await this.#fs.syncDir(this.#blobs);
  }

  discard(staged: string): Promise<void> {
    return this.#fs.remove(staged);
  }

  async localBlob(digest: string): Promise<string> {
    return this.#blobPath(digest);
  }

  async removeBlob(digest: string): Promise<void> {
    await this.#fs.remove(this.#blobPath(digest));
    await this.#fs.syncDir(this.#blobs);
  }

  async putName(adapter: StoredAdapter): Promise<void> {
    const temporary = path.join(this.#tmp, `${randomUUID()}.json`);
    try {
      await this.#fs.writeNew(temporary, encodeNameFile(adapter));
      await this.#fs.syncFile(temporary);
      await this.#fs.rename(temporary, this.#namePath(adapter.name));
    } catch (error) {
      await this.#fs.remove(temporary).catch(() => undefined);
      throw error;
    }
    await this.#fs.syncDir(this.#names);
  }

  async removeName(name: string): Promise<void> {
    await this.#fs.remove(this.#namePath(name));
    await this.#fs.syncDir(this.#names);
  }

  async close(): Promise<void> {
    const unlock = this.#unlock;
    this.#unlock = undefined;
    await unlock?.();
  }

  async #readNames(): Promise<StoreContents> {
    const adapters: StoredAdapter[] = [];
    const damaged: DamagedAdapter[] = [];
    const files = (await this.#fs.list(this.#names)).sort();
    const check = async (file: string): Promise<void> => {
      const name = fileToName(file);
      if (name === undefined) return;
      try {
        adapters.push(await this.#readName(file, name));
      } catch (error) {
        damaged.push({ name, reason: (error as Error).message });
      }
    };
    for (let i = 0; i < files.length; i += OPEN_CONCURRENCY_MAX) {
      await Promise.all(files.slice(i, i + OPEN_CONCURRENCY_MAX).map(check));
    }
    return { adapters, damaged };
  }

  /** The cheap check: name file, size of the canonical file, its header byte for byte. */
  async #readName(file: string, name: string): Promise<StoredAdapter> {
    const bytes = await this.#fs.readHead(path.join(this.#names, file), MAX_NAME_FILE_BYTES + 1);
    const adapter = decodeNameFile(bytes, name);
    const blob = this.#blobPath(adapter.digest);
    const size = await this.#fs.size(blob);
    if (size === undefined) throw new Error('its canonical file is missing');
    if (size !== adapter.fileBytes) {
      throw new Error(`its canonical file has ${size} bytes, not ${adapter.fileBytes}`);
    }
    const header = await this.#fs.readHead(blob, adapter.headerBytes);
    if (createHash('sha256').update(header).digest('hex') !== adapter.headerDigest) {
      throw new Error('the header of its canonical file is damaged');
    }
    return adapter;
  }

  /** With an unreadable name it cannot be known which files it needs, so then all stay. */
  async #removeOrphans(contents: StoreContents): Promise<void> {
    if (contents.damaged.length > 0) return;
    const needed = new Set(contents.adapters.map((adapter) => adapter.digest));
    let removed = 0;
    for (const file of await this.#fs.list(this.#blobs)) {
      const digest = BLOB_FILE.exec(file)?.[1];
      if (digest === undefined || needed.has(digest)) continue;
      await this.#fs.remove(path.join(this.#blobs, file));
      removed++;
    }
    if (removed > 0) await this.#fs.syncDir(this.#blobs);
  }

  #blobPath(digest: string): string {
    return path.join(this.#blobs, `${digest}.safetensors`);
  }

  #namePath(name: string): string {
    return path.join(this.#names, nameToFile(name));
  }
}
