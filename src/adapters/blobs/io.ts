/** What the blob stores have in common: errors, deadlines, and reading and writing whole files. */
import { createHash } from 'node:crypto';
import { type FileHandle, open, rm, stat } from 'node:fs/promises';
import { LoramuxError } from '../../errors.ts';

/** One piece of a file on its way; small enough that hashing it does not hold up the event loop. */
export const PIECE_BYTES = 256 * 1024;
const LOCATION = /^[0-9a-f]{64}\/[A-Za-z0-9_-]{1,64}$/;

export function isDiskFull(error: unknown): boolean {
  const code = errorCode(error);
  return code === 'ENOSPC' || code === 'EDQUOT';
}

export function isNoEntry(error: unknown): boolean {
  return errorCode(error) === 'ENOENT';
}

function errorCode(error: unknown): string | undefined {
  return (error as NodeJS.ErrnoException | undefined)?.code;
}

export function blobUnavailable(message: string, cause?: unknown): LoramuxError {
  return new LoramuxError('blob_unavailable', message, { cause });
}

export function blobMissing(message: string, cause?: unknown): LoramuxError {
  return new LoramuxError('blob_missing', message, { cause });
}

/** Locations become keys and paths, so that only what the ledger makes is let through. */
export function checkLocation(location: string): void {
  if (LOCATION.test(location)) return;
  throw new LoramuxError('internal_error', `"${location}" is not a location of a blob.`);
}

/**
 * The result of `work`, unless it takes longer than `ms`.
 * @throws LoramuxError blob_unavailable when it does; `work` itself is not stopped.
 */
export async function within<T>(ms: number, what: string, work: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(blobUnavailable(`${what}: no answer within ${ms} ms.`)), ms);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}

/**
 * A file of this process, opened for an upload, and its size.
 * @throws LoramuxError store_corrupt when it cannot be opened, adapter_too_large.
 */
export async function openForUpload(
  file: string,
  maxBytes: number,
): Promise<{ handle: FileHandle; bytes: number }> {
  const handle = await open(file, 'r').catch((cause: Error) => {
    throw new LoramuxError('store_corrupt', `${file} cannot be read: ${cause.message}`, { cause });
  });
  try {
    const { size } = await handle.stat();
    checkSize(size, maxBytes);
    return { handle, bytes: size };
  } catch (error) {
    await handle.close();
    throw error;
  }
}

/** @throws LoramuxError adapter_too_large. */
export function checkSize(bytes: number, maxBytes: number): void {
  if (bytes <= maxBytes) return;
  throw new LoramuxError(
    'adapter_too_large',
    `The adapter's file has ${bytes} bytes; the blob store of the fleet takes ${maxBytes}. Raise ` +
      '--redis-blob-mb, or choose an S3 bucket or a shared folder as --blob-store.',
  );
}

/**
 * Bytes [from, from + bytes) of a file.
 * @throws LoramuxError store_corrupt when the file ends before.
 */
export async function readFully(
  handle: FileHandle,
  from: number,
  bytes: number,
  onPiece: (piece: Uint8Array) => void = () => {},
): Promise<Buffer> {
  const buffer = Buffer.allocUnsafe(bytes);
  let filled = 0;
  while (filled < bytes) {
    const length = Math.min(PIECE_BYTES, bytes - filled);
    const { bytesRead } = await handle.read(buffer, filled, length, from + filled);
    if (bytesRead === 0) throw new LoramuxError('store_corrupt', 'The file ends before its size.');
    onPiece(buffer.subarray(filled, filled + bytesRead));
    filled += bytesRead;
  }
  return buffer;
}

/**
 * Writes pieces to a new file; nothing stays when it rejects. Errors of `pieces` pass through.
 * @throws LoramuxError blob_unavailable when the file cannot be written.
 */
export async function writeNewFile(
  target: string,
  pieces: AsyncIterable<Uint8Array>,
): Promise<void> {
  const handle = await open(target, 'wx', 0o640).catch((error) => {
    throw cannotWrite(target, error);
  });
  try {
    for await (const piece of pieces) {
      await handle.writeFile(piece).catch((error) => {
        throw cannotWrite(target, error);
      });
    }
    await handle.close();
  } catch (error) {
    await handle.close().catch(() => undefined);
    await rm(target, { force: true }).catch(() => undefined);
    throw error;
  }
}

/** Wraps an error of writing a file of this process. */
export function cannotWrite(target: string, error: Error): LoramuxError {
  return isDiskFull(error)
    ? blobUnavailable(`The disk of ${target} is full. Free space there.`, error)
    : blobUnavailable(`${target} cannot be written: ${error.message}`, error);
}

/** Bytes of a regular file; undefined when there is none. */
export async function sizeOf(file: string): Promise<number | undefined> {
  try {
    const found = await stat(file);
    return found.isFile() ? found.size : undefined;
  } catch (error) {
    if (isNoEntry(error)) return undefined;
    throw error;
  }
}

export interface FileDigest {
  readonly bytes: number;
  /** SHA-256, lower-case hex. */
  readonly digest: string;
}

/** Size and digest of a file as it is on disk. */
export async function digestFile(file: string): Promise<FileDigest> {
  const handle = await open(file, 'r');
  try {
    const hash = createHash('sha256');
    const buffer = Buffer.allocUnsafe(PIECE_BYTES);
    let bytes = 0;
    for (;;) {
      const { bytesRead } = await handle.read(buffer, 0, buffer.length, bytes);
      if (bytesRead === 0) return { bytes, digest: hash.digest('hex') };
      hash.update(buffer.subarray(0, bytesRead));
      bytes += bytesRead;
    }
  } finally {
    await handle.close();
  }
}
