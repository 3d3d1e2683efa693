/**
 * The files of the embedded registry, below a folder that it shares with the canonical files:
 *
 *     names/<name>.json   one entry each ("/" as "+")
 *     revision.json       up to which revision is reserved
 *     tmp/<random>.json   being written; removed at start
 *
 * A file appears under its final name only complete and synced: write to tmp, fsync, rename, fsync
 * the folder. So whatever instant the process is killed or the power fails, a name has the old
 * content or the new one.
 */
import { randomUUID } from 'node:crypto';
import path from 'node:path';
import type { StoreFs } from '../store/store-fs.ts';
import { fileToName, MAX_NAME_FILE_BYTES, nameToFile } from './name-files.ts';
import { MAX_COUNTER_FILE_BYTES } from './revision-counter.ts';

const STAGED = /\.json$/;

export class NameFolder {
  /** Absolute. */
  readonly names: string;
  readonly #fs: StoreFs;
  readonly #root: string;
  readonly #tmp: string;
  readonly #onWarning: (message: string, error: unknown) => void;

  constructor(root: string, fs: StoreFs, onWarning: (message: string, error: unknown) => void) {
    this.#fs = fs;
    this.#root = path.resolve(root);
    this.names = path.join(this.#root, 'names');
    this.#tmp = path.join(this.#root, 'tmp');
    this.#onWarning = onWarning;
  }

  async makeFolders(): Promise<void> {
    for (const dir of [this.names, this.#tmp]) await this.#fs.makeDir(dir);
    await this.#fs.syncDir(this.#root);
    await this.#fs.syncDir(path.dirname(this.#root));
  }

  /** What a crash left; files of others in the folder stay. */
  async removeStaged(): Promise<void> {
    for (const file of await this.#fs.list(this.#tmp)) {
      if (STAGED.test(file)) await this.#fs.remove(path.join(this.#tmp, file));
    }
  }

  /** Names that have a file, sorted. */
  async list(): Promise<string[]> {
    const files = await this.#fs.list(this.names);
    return files.flatMap((file) => fileToName(file) ?? []).sort();
  }

  /** Undefined when there is no file. At most one byte more than is allowed. */
  read(name: string): Promise<Uint8Array | undefined> {
    return this.#readFile(this.#path(name), MAX_NAME_FILE_BYTES);
  }

  /**
   * A durable file that `publish` moves to a name; nothing is left when it rejects.
   */
  async stage(bytes: Uint8Array): Promise<string> {
    const staged = path.join(this.#tmp, `${randomUUID()}.json`);
    try {
      await this.#fs.writeNew(staged, bytes);
      await this.#fs.syncFile(staged);
      return staged;
    } catch (error) {
      await this.discard(staged);
      throw error;
    }
  }

  /** When it rejects, the name has the old or the new file, and a power loss may change that. */
  async publish(staged: string, name: string): Promise<void> {
    await this.#fs.rename(staged, this.#path(name));
    await this.sync();
  }

  /** As `publish`: when it rejects, the file may be there or not. */
  async remove(name: string): Promise<void> {
    await this.#fs.remove(this.#path(name));
    await this.sync();
  }

  /** Makes what `read` sees durable. */
  sync(): Promise<void> {
    return this.#fs.syncDir(this.names);
  }

  /** Never rejects; what stays goes at the next start. */
  async discard(staged: string): Promise<void> {
    try {
      await this.#fs.remove(staged);
    } catch (error) {
      this.#onWarning(`The registry could not remove the temporary file ${staged}.`, error);
    }
  }

  readCounter(): Promise<Uint8Array | undefined> {
    return this.#readFile(this.#counterPath(), MAX_COUNTER_FILE_BYTES);
  }

  async writeCounter(bytes: Uint8Array): Promise<void> {
    const staged = await this.stage(bytes);
    try {
      await this.#fs.rename(staged, this.#counterPath());
    } catch (error) {
      await this.discard(staged);
      throw error;
    }
    await this.#fs.syncDir(this.#root);
  }

  async #readFile(file: string, maxBytes: number): Promise<Uint8Array | undefined> {
    if ((await this.#fs.size(file)) === undefined) return undefined;
    return this.#fs.readHead(file, maxBytes + 1);
  }

  #counterPath(): string {
    return path.join(this.#root, 'revision.json');
  }

  #path(name: string): string {
    return path.join(this.names, nameToFile(name));
  }
}
