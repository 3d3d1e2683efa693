/**
 * Blobs in a folder that every replica mounts, used by several processes at once:
 *
 *     loramux-blobs             marks the folder: without it, nothing in it is believed missing
 *     <digest>/<unique>         a blob
 *     <digest>/<unique>.part    one on its way; `remove` takes it too
 */
import { constants } from 'node:fs';
import { access, mkdir, open, rename, rm, rmdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import {
  blobMissing,
  blobUnavailable,
  checkLocation,
  isDiskFull,
  isNoEntry,
  openForUpload,
  readFully,
  sizeOf,
  within,
  writeNewFile,
} from './io.ts';
import type { BlobStore } from './types.ts';

const MARKER = 'loramux-blobs';
const MARKER_TEXT = 'Adapter files shared by Loramux servers. Do not remove this file.\n';
const CHUNK_BYTES = 1024 * 1024;
/** A folder is made again when a removal of another blob of the digest took it meanwhile. */
const FOLDER_TRIES_MAX = 8;
/** A file operation of a share that takes longer has failed, milliseconds. */
const DEFAULT_TIMEOUT_MS = 30_000;

export interface DirectoryBlobsOptions {
  /** Absolute; must exist. */
  readonly dir: string;
  readonly timeoutMs?: number | undefined;
}

export class DirectoryBlobs implements BlobStore {
  readonly kind = 'directory';
  readonly maxBlobBytes = Number.MAX_SAFE_INTEGER;
  readonly #dir: string;
  readonly #timeoutMs: number;
  #marked = false;
  #closed = false;
  /** Ends what waits for the folder. */
  readonly #waiting = new Set<(error: Error) => void>();

  constructor(options: DirectoryBlobsOptions) {
    this.#dir = options.dir;
    this.#timeoutMs = options.timeoutMs ?? DEFAULT_TIMEOUT_MS;
  }

  async upload(file: string, location: string): Promise<void> {
    const target = this.#pathOf(location);
    const part = `${target}.part`;
    const source = await openForUpload(file, this.maxBlobBytes);
    try {
      await this.#guard('upload', this.#requireMarker(true));
      const out = await this.#guard('upload', this.#createPart(part));
      try {
        for (let at = 0; at < source.bytes; at += CHUNK_BYTES) {
          const chunk = await readFully(
            source.handle,
            at,
            Math.min(CHUNK_BYTES, source.bytes - at),
          );
          await this.#guard('upload', out.writeFile(chunk));
        }
        await this.#guard('upload', out.sync());
      } finally {
        // A close that hangs must not hide the error, and sync has settled the bytes.
        out.close().catch(() => undefined);
      }
      await this.#guard('upload', rename(part, target));
      await this.#guard('upload', syncFolder(path.dirname(target)));
      await this.#guard('upload', syncFolder(this.#dir));
    } catch (error) {
      // When this fails too, `remove` of the location takes it.
      await within(this.#timeoutMs, 'Removal', rm(part, { force: true })).catch(() => undefined);
      throw error;
    } finally {
      await source.handle.close();
    }
  }

  async download(location: string, target: string, fileBytes: number): Promise<void> {
    const source = this.#pathOf(location);
    const found = await this.#guard('download', sizeOf(source));
    if (found === undefined) {
      await this.#guard('download', this.#requireMarker(false));
      throw blobMissing(`${source} is not there.`);
    }
    if (found !== fileBytes) {
      throw blobMissing(`${source} has ${found} bytes, not ${fileBytes}.`);
    }
    const handle = await this.#guard('download', open(source, 'r'));
    try {
      await writeNewFile(target, this.#pieces(handle, fileBytes));
    } finally {
      handle.close().catch(() => undefined);
    }
  }

  async remove(location: string): Promise<void> {
    const target = this.#pathOf(location);
    await this.#guard('remove', this.#requireMarker(false));
    await this.#guard('remove', rm(target, { force: true }));
    await this.#guard('remove', rm(`${target}.part`, { force: true }));
    await this.#guard('remove', removeIfEmpty(path.dirname(target)));
  }

  /** Transfers under way fail. */
  async close(): Promise<void> {
    this.#closed = true;
    for (const end of this.#waiting) end(closedError());
  }

  async *#pieces(
    handle: Awaited<ReturnType<typeof open>>,
    bytes: number,
  ): AsyncGenerator<Uint8Array> {
    for (let at = 0; at < bytes; at += CHUNK_BYTES) {
      const length = Math.min(CHUNK_BYTES, bytes - at);
      yield await this.#guard('download', readFully(handle, at, length));
    }
  }

  #pathOf(location: string): string {
    checkLocation(location);
    if (this.#closed) throw closedError();
    return path.join(this.#dir, location);
  }

  /** A mount that is away leaves an empty folder, in which every blob would look missing. */
  async #requireMarker(mayMake: boolean): Promise<void> {
    const marker = path.join(this.#dir, MARKER);
    try {
      await access(marker, constants.F_OK);
      this.#marked = true;
    } catch (error) {
      if (!isNoEntry(error) || this.#marked || !mayMake) {
        throw blobUnavailable(
          `${this.#dir} has no file ${MARKER}: the shared folder is not mounted here, or nothing ` +
            'was ever stored in it.',
          error,
        );
      }
      await writeFile(marker, MARKER_TEXT);
      this.#marked = true;
    }
  }

  async #createPart(part: string): Promise<Awaited<ReturnType<typeof open>>> {
    for (let tries = 1; ; tries++) {
      await mkdir(path.dirname(part), { recursive: false, mode: 0o750 }).catch((error) => {
        if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
      });
      try {
        return await open(part, 'wx', 0o640);
      } catch (error) {
        if (!isNoEntry(error) || tries === FOLDER_TRIES_MAX) throw error;
      }
    }
  }

  async #guard<T>(what: string, work: Promise<T>): Promise<T> {
    let end!: (error: Error) => void;
    const closed = new Promise<never>((_, reject) => {
      end = reject;
    });
    this.#waiting.add(end);
    if (this.#closed) end(closedError());
    try {
      const done = within(this.#timeoutMs, `Blob ${what} in ${this.#dir}`, work);
      return await Promise.race([closed, done]);
    } catch (error) {
      if (isSystemError(error)) {
        const why = isDiskFull(error) ? 'its disk is full' : error.message;
        throw blobUnavailable(`Blob ${what} in ${this.#dir} failed: ${why}`, error);
      }
      throw error;
    } finally {
      this.#waiting.delete(end);
    }
  }
}

function closedError(): Error {
  return blobUnavailable('The blob store is closed.');
}

function isSystemError(error: unknown): error is NodeJS.ErrnoException {
  return error instanceof Error && 'syscall' in error;
}

async function syncFolder(dir: string): Promise<void> {
  const handle = await open(dir, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

async function removeIfEmpty(dir: string): Promise<void> {
  try {
    await rmdir(dir);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? '';
    if (!['ENOENT', 'ENOTEMPTY', 'EEXIST'].includes(code)) throw error;
  }
}
