/** The temporary files of one source: fresh names that nobody else chose, gone with `cleanup`. */
import { randomUUID } from 'node:crypto';
import { type FileHandle, open, rm } from 'node:fs/promises';
import path from 'node:path';

export type OnWarning = (message: string, error: unknown) => void;

/** Only the server's own user reads what was fetched. */
const FILE_MODE = 0o600;

/** Codes that sockets do not fail with. */
const DISK_ERRORS = new Set([
  'ENOSPC',
  'EDQUOT',
  'EIO',
  'EROFS',
  'EFBIG',
  'ENOENT',
  'EACCES',
  'EMFILE',
  'ENFILE',
]);

export class WorkFiles {
  readonly #workDir: string;
  readonly #onWarning: OnWarning;
  readonly #paths = new Set<string>();

  /** @param workDir absolute folder that exists. */
  constructor(workDir: string, onWarning: OnWarning) {
    this.#workDir = workDir;
    this.#onWarning = onWarning;
  }

  /**
   * Runs `write` with a new, empty, open file and closes it whatever the outcome.
   * @returns its path.
   */
  async write(suffix: string, write: (file: FileHandle) => Promise<void>): Promise<string> {
    const file = path.join(this.#workDir, `source-${randomUUID()}.${suffix}`);
    // Exclusive: never through a link that somebody left there.
    const handle = await open(file, 'wx', FILE_MODE);
    this.#paths.add(file);
    try {
      await write(handle);
    } finally {
      await handle.close();
    }
    return file;
  }

  /** Removes one file before the others. Never rejects. */
  async remove(file: string): Promise<void> {
    if (!this.#paths.delete(file)) return;
    try {
      await rm(file, { force: true });
    } catch (error) {
      this.#onWarning('remove a temporary file of an adapter source', error);
    }
  }

  /** Removes every file that is left. Idempotent; never rejects. */
  async cleanup(): Promise<void> {
    await Promise.all([...this.#paths].map((file) => this.remove(file)));
  }
}

/** Writes all of `bytes`; a plain `write` may stop early. */
export async function writeAll(file: FileHandle, bytes: Uint8Array): Promise<void> {
  let written = 0;
  while (written < bytes.length) {
    const result = await file.write(bytes, written, bytes.length - written);
    written += result.bytesWritten;
  }
}

/** Whether an error is one of the local disk, and so not the fault of what is read. */
export function isDiskError(error: unknown): boolean {
  return error instanceof Error && DISK_ERRORS.has((error as NodeJS.ErrnoException).code ?? '');
}
