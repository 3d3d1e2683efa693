/**
 * A file system for the adapter store that fails or loses power at a chosen operation. After a power
 * loss, files that were not synced are cut somewhere, and creations, renames and removals in folders
 * that were not synced may or may not have happened.
 */
import {
  copyFileSync,
  existsSync,
  mkdtempSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { type FileFacts, nodeStoreFs, type StoreFs } from '../../src/adapters/store/store-fs.ts';
import type { Random } from './random.ts';

/** How the chosen operation ends. */
export type Fault = 'power-loss' | 'error';

interface FolderOperation {
  /** Folder whose sync makes it durable. */
  dir: string;
  undo(): void;
}

export class CrashFs implements StoreFs {
  /** Changing operations so far. */
  operations = 0;
  crashed = false;
  /** Number of the operation that fails, from 1; 0 for none. */
  faultAt = 0;
  fault: Fault = 'power-loss';
  /** Operations that fail one after the other; a power loss fails all that follow. */
  faults = 1;
  readonly #random: Random;
  readonly #backup = mkdtempSync(path.join(tmpdir(), 'loramux-crash-'));
  readonly #unsynced = new Set<string>();
  #pending: FolderOperation[] = [];
  #count = 0;

  constructor(random: Random) {
    this.#random = random;
  }

  /** A file that somebody wrote without this interface and did not sync. */
  noteUnsynced(file: string): void {
    this.#unsynced.add(file);
  }

  /** What the disk looks like when the power comes back. */
  losePower(): void {
    for (const operation of this.#pending.reverse()) {
      if (this.#random.chance(0.5)) operation.undo();
    }
    for (const file of this.#unsynced) {
      if (existsSync(file)) truncateSync(file, this.#random.int(0, statSync(file).size));
    }
  }

  /** Removes the copies kept for undoing. */
  dispose(): void {
    rmSync(this.#backup, { recursive: true, force: true });
  }

  makeDir(dir: string): Promise<void> {
    return this.#change(() => nodeStoreFs.makeDir(dir));
  }

  async list(dir: string): Promise<string[]> {
    this.#refuseAfterCrash();
    return nodeStoreFs.list(dir);
  }

  async size(file: string): Promise<number | undefined> {
    this.#refuseAfterCrash();
    return nodeStoreFs.size(file);
  }

  async facts(file: string): Promise<FileFacts | undefined> {
    this.#refuseAfterCrash();
    return nodeStoreFs.facts(file);
  }

  async touch(file: string, modifiedMs: number): Promise<void> {
    this.#refuseAfterCrash();
    return nodeStoreFs.touch(file, modifiedMs);
  }

  async readHead(file: string, bytes: number): Promise<Uint8Array> {
    this.#refuseAfterCrash();
    return nodeStoreFs.readHead(file, bytes);
  }

  writeNew(file: string, bytes: Uint8Array): Promise<void> {
    this.#unsynced.add(file);
    this.#pending.push({ dir: path.dirname(file), undo: () => rmSync(file, { force: true }) });
    return this.#change(
      () => nodeStoreFs.writeNew(file, bytes),
      () => writeFileSync(file, bytes.subarray(0, this.#random.int(0, bytes.length))),
    );
  }

  syncFile(file: string): Promise<void> {
    return this.#change(async () => {
      await nodeStoreFs.syncFile(file);
      this.#unsynced.delete(file);
    });
  }

  syncDir(dir: string): Promise<void> {
    return this.#change(async () => {
      await nodeStoreFs.syncDir(dir);
      this.#pending = this.#pending.filter((operation) => operation.dir !== dir);
    });
  }

  rename(from: string, to: string): Promise<void> {
    const happen = () => {
      const replaced = this.#keep(to);
      renameSync(from, to);
      if (this.#unsynced.delete(from)) this.#unsynced.add(to);
      else this.#unsynced.delete(to);
      this.#pending.push({
        dir: path.dirname(to),
        undo: () => {
          if (existsSync(to)) renameSync(to, from);
          if (replaced !== undefined) copyFileSync(replaced, to);
        },
      });
    };
    return this.#change(async () => happen(), happen);
  }

  remove(file: string): Promise<void> {
    const happen = () => {
      const removed = this.#keep(file);
      rmSync(file, { recursive: true, force: true });
      if (removed === undefined) return;
      this.#pending.push({ dir: path.dirname(file), undo: () => copyFileSync(removed, file) });
    };
    return this.#change(async () => happen(), happen);
  }

  /** A copy of a file that is about to be replaced or removed. */
  #keep(file: string): string | undefined {
    if (!existsSync(file)) return undefined;
    const copy = path.join(this.#backup, String(this.#count++));
    copyFileSync(file, copy);
    return copy;
  }

  /** @param torn what may be left when the operation is the one that fails. */
  async #change(work: () => Promise<void>, torn?: () => void): Promise<void> {
    this.#refuseAfterCrash();
    this.operations++;
    const sinceFault = this.operations - this.faultAt;
    if (this.faultAt === 0 || sinceFault < 0 || sinceFault >= this.faults) return work();
    if (this.#random.chance(0.5)) torn?.();
    this.crashed = this.fault === 'power-loss';
    throw new Error(`operation ${this.operations} fails on purpose`);
  }

  #refuseAfterCrash(): void {
    if (this.crashed) throw new Error('the process is gone');
  }
}
