/** Full check of a stored canonical file before it is loaded. Runs in a worker thread. */
import { createHash } from 'node:crypto';
import { closeSync, fstatSync, openSync } from 'node:fs';
import { LoramuxError } from '../../errors.ts';
import { parseSafetensorsHeader } from '../../importer/safetensors/header.ts';
import type { AdapterImage } from '../../native/addon-types.ts';
import { MAX_ADAPTER_HEADER_BYTES, readCanonicalPairs } from '../formats/canonical-file.ts';
import { readFully } from './source-file.ts';

const CHUNK_BYTES = 1024 * 1024;

export interface OpenJob {
  readonly path: string;
  readonly digest: string;
  readonly fileBytes: number;
  readonly headerBytes: number;
  /** Hash the whole file; otherwise only size and header are checked. */
  readonly verify: boolean;
}

/** @throws LoramuxError store_corrupt. */
export function openCanonical(job: OpenJob, base: string): AdapterImage {
  let fd: number;
  try {
    fd = openSync(job.path, 'r');
  } catch (cause) {
    throw corrupt(job, `it cannot be opened (${(cause as NodeJS.ErrnoException).code})`, cause);
  }
  try {
    const { size } = fstatSync(fd);
    if (size !== job.fileBytes) throw corrupt(job, `it has ${size} bytes, not ${job.fileBytes}`);
    if (job.headerBytes > MAX_ADAPTER_HEADER_BYTES) throw corrupt(job, 'its header is too large');
    const header = new Uint8Array(job.headerBytes);
    if (!readFully(fd, header, 0)) throw corrupt(job, 'it is cut off');
    if (job.verify) checkDigest(job, fd);
    const pairs = readCanonicalPairs(parse(job, header), base);
    return { path: job.path, fileBytes: job.fileBytes, pairs };
  } finally {
    closeSync(fd);
  }
}

function parse(job: OpenJob, header: Uint8Array): ReturnType<typeof parseSafetensorsHeader> {
  try {
    return parseSafetensorsHeader(header, job.fileBytes);
  } catch (cause) {
    throw corrupt(job, 'its header is malformed', cause);
  }
}

function checkDigest(job: OpenJob, fd: number): void {
  const hash = createHash('sha256');
  const chunk = new Uint8Array(CHUNK_BYTES);
  for (let at = 0; at < job.fileBytes; at += CHUNK_BYTES) {
    const part = chunk.subarray(0, Math.min(CHUNK_BYTES, job.fileBytes - at));
    if (!readFully(fd, part, at)) throw corrupt(job, 'it is cut off');
    hash.update(part);
  }
  if (hash.digest('hex') !== job.digest) throw corrupt(job, 'its content has another digest');
}

function corrupt(job: OpenJob, what: string, cause?: unknown): LoramuxError {
  return new LoramuxError(
    'store_corrupt',
    `The stored adapter file ${job.digest} is damaged: ${what}. Upload the adapter again.`,
    cause === undefined ? {} : { cause },
  );
}
