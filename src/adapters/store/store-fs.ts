/** The file operations of the store, few enough that a test can fail or tear each of them. */
import { mkdir, open, readdir, readFile, rename, rm, stat, utimes } from 'node:fs/promises';

export interface FileFacts {
  readonly bytes: number;
  /** Of the last change of the content, or of `touch`; milliseconds since the epoch. */
  readonly modifiedMs: number;
}

export interface StoreFs {
  /** With parents; nothing when it exists. */
  makeDir(path: string): Promise<void>;
  list(dir: string): Promise<string[]>;
  /** Size in bytes, undefined when there is no such file. */
  size(path: string): Promise<number | undefined>;
  /** As `size`, with the time of the last change. */
  facts(path: string): Promise<FileFacts | undefined>;
  /** Sets that time; only a hint, so nothing is synced. */
  touch(path: string, modifiedMs: number): Promise<void>;
  /** The first `bytes` bytes, or fewer when the file is shorter. */
  readHead(path: string, bytes: number): Promise<Uint8Array>;
  /** Creates; fails when it exists. Not durable before syncFile. */
  writeNew(path: string, bytes: Uint8Array): Promise<void>;
  syncFile(path: string): Promise<void>;
  /** Makes creations, renames and removals in a folder durable. */
  syncDir(dir: string): Promise<void>;
  rename(from: string, to: string): Promise<void>;
  /** A file, or a folder with its content. Nothing when it does not exist. */
  remove(path: string): Promise<void>;
}

export const nodeStoreFs: StoreFs = {
  async makeDir(path) {
    await mkdir(path, { recursive: true, mode: 0o750 });
  },
  list: (dir) => readdir(dir),
  async size(path) {
    return (await factsOf(path))?.bytes;
  },
  facts: (path) => factsOf(path),
  touch: (path, modifiedMs) => utimes(path, modifiedMs / 1000, modifiedMs / 1000),
  async readHead(path, bytes) {
    const file = await open(path, 'r');
    try {
      const { size } = await file.stat();
      if (size <= bytes) return await readFile(file);
      const head = Buffer.alloc(bytes);
      let filled = 0;
      while (filled < bytes) {
        const { bytesRead } = await file.read(head, filled, bytes - filled, filled);
        if (bytesRead === 0) break;
        filled += bytesRead;
      }
      return head.subarray(0, filled);
    } finally {
      await file.close();
    }
  },
  async writeNew(path, bytes) {
    const file = await open(path, 'wx', 0o640);
    try {
      await file.writeFile(bytes);
    } finally {
      await file.close();
    }
  },
  syncFile: (path) => sync(path),
  syncDir: (dir) => sync(dir),
  rename,
  async remove(path) {
    await rm(path, { recursive: true, force: true });
  },
};

async function factsOf(path: string): Promise<FileFacts | undefined> {
  try {
    const found = await stat(path);
    return found.isFile() ? { bytes: found.size, modifiedMs: found.mtimeMs } : undefined;
  } catch (error) {
    if (isMissing(error)) return undefined;
    throw error;
  }
}

/** fsync works through any descriptor of the file, also a read-only one, and on folders. */
async function sync(path: string): Promise<void> {
  const file = await open(path, 'r');
  try {
    await file.sync();
  } finally {
    await file.close();
  }
}

function isMissing(error: unknown): boolean {
  return (error as NodeJS.ErrnoException).code === 'ENOENT';
}
