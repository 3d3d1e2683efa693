/**
 * Brings a stored canonical file into memory and checks it there, so that what was checked is what
 * is loaded. Runs in a worker thread.
 */
import { createHash } from 'node:crypto';
import { closeSync, fstatSync, openSync } from 'node:fs';
import { LoramuxError } from '../../errors.ts';
import { parseSafetensorsHeader } from '../../importer/safetensors/header.ts';
import type { AdapterImage } from '../../native/addon-types.ts';
import { MAX_ADAPTER_HEADER_BYTES, readCanonicalPairs } from '../formats/canonical-file.ts';
import { readFully } from './source-file.ts';

/** Small enough that the hash finds in the processor's cache what was just read. */
const CHUNK_BYTES = 256 * 1024;

/** A place in shared memory. */
export interface SharedRegion {
  readonly buffer: SharedArrayBuffer;
  readonly offset: number;
}

export interface OpenJob {
  readonly path: string;
  readonly digest: string;
  readonly fileBytes: number;
  readonly headerBytes: number;
  /** Hash the whole file; otherwise only size and header are checked. */
  readonly verify: boolean;
  /** Room of `fileBytes` that the file is read into; without it, memory of its own. */
  readonly into?: SharedRegion | undefined;
}

/** An image with its bytes. */
export type CheckedImage = AdapterImage & { bytes: Uint8Array };

/**
 * @throws LoramuxError store_corrupt when the content is wrong; adapter_load_failed when it is not,
 *   but cannot be used.
 */
export function openCanonical(job: OpenJob, base: string): CheckedImage {
  const { path, fileBytes, headerBytes, into } = job;
  if (headerBytes > MAX_ADAPTER_HEADER_BYTES || headerBytes > fileBytes) {
    throw corrupt(job, 'its header is too large');
  }
  const fd = open(job);
  try {
    const { size } = fstatSync(fd);
    if (size !== fileBytes) throw corrupt(job, `it has ${size} bytes, not ${fileBytes}`);
    const bytes =
      into === undefined
        ? new Uint8Array(fileBytes)
        : new Uint8Array(into.buffer, into.offset, fileBytes);
    read(job, fd, bytes);
    return { path, fileBytes, bytes, pairs: pairsOf(job, bytes.slice(0, headerBytes), base) };
  } finally {
    closeSync(fd);
  }
}

function open(job: OpenJob): number {
  try {
    return openSync(job.path, 'r');
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code === 'ENOENT') throw corrupt(job, 'it is missing', cause);
    throw new LoramuxError(
      'adapter_load_failed',
      `The stored adapter file ${job.digest} cannot be opened (${code}).`,
      { cause },
    );
  }
}

/** Fills `target` from the file, and hashes what is in memory afterwards. */
function read(job: OpenJob, fd: number, target: Uint8Array): void {
  const hash = job.verify ? createHash('sha256') : undefined;
  for (let at = 0; at < target.length; at += CHUNK_BYTES) {
    const part = target.subarray(at, at + CHUNK_BYTES);
    if (!readFully(fd, part, at)) throw corrupt(job, 'it is cut off');
    hash?.update(part);
  }
  if (hash !== undefined && hash.digest('hex') !== job.digest) {
    throw corrupt(job, 'its content has another digest');
  }
}

function pairsOf(job: OpenJob, header: Uint8Array, base: string): AdapterImage['pairs'] {
  try {
    return readCanonicalPairs(parseSafetensorsHeader(header, job.fileBytes), base);
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    if (!job.verify) throw corrupt(job, `its header is malformed (${why})`, cause);
    // The content is what was registered, so fetching or uploading it again would not help.
    throw new LoramuxError(
      'adapter_load_failed',
      `The stored adapter file ${job.digest} cannot be used by this server: ${why}`,
      { cause },
    );
  }
}

function corrupt(job: OpenJob, what: string, cause?: unknown): LoramuxError {
  return new LoramuxError(
    'store_corrupt',
    `The stored adapter file ${job.digest} is damaged: ${what}. Upload the adapter again.`,
    cause === undefined ? {} : { cause },
  );
}
