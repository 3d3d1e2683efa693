/** Reading a .tar.gz of a PEFT folder: one pass, bounded by what is really unpacked. */
import { createReadStream } from 'node:fs';
import { Transform, type TransformCallback } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createGunzip } from 'node:zlib';
import { extract, type Header } from 'tar-stream';
import { LoramuxError } from '../../errors.ts';
import {
  ArchiveContents,
  type ArchiveLimits,
  type ExtractedFiles,
  filesOf,
  invalid,
  maxHeaderBytes,
  quote,
  readingError,
  unsafe,
} from './archive-contents.ts';
import { type WorkFiles, writeAll } from './work-files.ts';

/** Tar is made of such blocks; one of zeros ends it. */
const BLOCK = 512;
/**
 * Bytes that may belong to no entry, beyond the headers: the zeros that tar fills its last record
 * with, and what was unpacked but not looked at yet.
 */
const MAX_TAR_PADDING_BYTES = 1024 * 1024;

/**
 * @throws LoramuxError archive_invalid, archive_unsafe, archive_limit_exceeded, adapter_too_large,
 *   adapter_upload_incomplete, adapter_pickle_refused; the signal's reason.
 */
export async function extractTarGz(
  file: string,
  limits: ArchiveLimits,
  work: WorkFiles,
  signal: AbortSignal,
): Promise<ExtractedFiles> {
  const contents = new ArchiveContents(limits);
  const placed = new Map<string, string>();
  const meter = new Meter(MAX_TAR_PADDING_BYTES + maxHeaderBytes(limits));
  const gunzip = createGunzip();
  const reader = extract();
  /** The entry at hand; ends before the next begins. */
  let handling: Promise<void> = Promise.resolve();

  const handle = async (header: Header, chunks: AsyncIterable<Uint8Array>): Promise<void> => {
    const { size } = header;
    const role = contents.add(header.name, kindOf(header), size);
    meter.expect(size);
    let bytes = 0;
    if (role === undefined) {
      for await (const chunk of chunks) bytes += chunk.length;
    } else {
      const file = await work.write(role, async (target) => {
        for await (const chunk of chunks) {
          bytes += chunk.length;
          await writeAll(target, chunk);
        }
      });
      placed.set(header.name, file);
    }
    if (bytes !== size) throw invalid(`${quote(header.name)} is cut off`);
  };
  // Both fail together with the pipeline, which reports it; each would end the process by itself.
  reader.on('error', () => undefined);
  reader.on('entry', (header, chunks, next) => {
    chunks.on('error', () => undefined);
    // Made by the reader from buffers, which its types do not tell.
    handling = handle(header, chunks as AsyncIterable<unknown> as AsyncIterable<Uint8Array>);
    // A failure goes to the reader, and with it to the pipeline.
    handling.then(() => next(), next);
  });

  try {
    await pipeline(createReadStream(file), gunzip, meter, reader, { signal });
    await handling;
    await checkRest(file, gunzip.bytesWritten, signal);
  } catch (error) {
    // Nothing may write any more when the caller cleans up. Its failure is the pipeline's too.
    await handling.catch(() => undefined);
    throw readingError(error, signal);
  }
  return filesOf(contents.complete(), placed);
}

/**
 * The decompressor takes a zero after a member for padding and looks no further; what is not all
 * zeros is refused here as it would be without the first.
 */
async function checkRest(file: string, start: number, signal: AbortSignal): Promise<void> {
  for await (const chunk of createReadStream(file, { start, signal })) {
    if ((chunk as Buffer).some((byte) => byte !== 0)) throw invalid('bytes follow after its end');
  }
}

/** @throws LoramuxError archive_unsafe. */
function kindOf(header: Header): 'file' | 'folder' {
  if (Object.keys(header.pax ?? {}).some((key) => key.startsWith('GNU.sparse'))) {
    throw unsafe(`${quote(header.name)} is stored as a sparse file; pack it plainly`);
  }
  if (header.type === 'file') return 'file';
  if (header.type === 'directory') return 'folder';
  const what = header.type === 'link' ? 'hard link' : (header.type ?? 'file of no known kind');
  throw unsafe(`${quote(header.name)} is a ${what}`);
}

/**
 * Counts what the decompressor really makes, whatever any header says, so that no stream of extended
 * headers, zeros or gzip members goes on for ever. Files are bounded by ArchiveContents.
 */
class Meter extends Transform {
  readonly #maxOverhead: number;
  #overhead = 0;
  #lastBlock: Buffer = Buffer.alloc(0);

  constructor(maxOverhead: number) {
    super();
    this.#maxOverhead = maxOverhead;
  }

  /** A file of this many bytes begins. */
  expect(size: number): void {
    this.#overhead -= Math.ceil(size / BLOCK) * BLOCK;
  }

  override _transform(chunk: Buffer, _encoding: BufferEncoding, done: TransformCallback): void {
    this.#overhead += chunk.length;
    if (this.#overhead > this.#maxOverhead) {
      const error = new LoramuxError(
        'archive_limit_exceeded',
        `The archive unpacks to more than ${this.#maxOverhead} bytes that belong to no file.`,
      );
      done(error);
      return;
    }
    this.#lastBlock =
      chunk.length >= BLOCK
        ? chunk.subarray(chunk.length - BLOCK)
        : Buffer.concat([this.#lastBlock, chunk]).subarray(-BLOCK);
    done(null, chunk);
  }

  override _flush(done: TransformCallback): void {
    const ended = this.#lastBlock.length === BLOCK && this.#lastBlock.every((byte) => byte === 0);
    done(ended ? null : invalid('it is no tar archive or its end is missing'));
  }
}
