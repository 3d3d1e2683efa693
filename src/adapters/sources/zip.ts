/**
 * Reading a .zip of a PEFT folder. The central directory is checked as a whole, and against every
 * local header, before a byte is unpacked: whoever reads the archive some other way must find the
 * same files in it.
 */
import { createReadStream } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { pipeline } from 'node:stream/promises';
import { crc32, createInflateRaw } from 'node:zlib';
import yauzl, { type Entry, type LocalFileHeader, type ZipFile } from 'yauzl';
import { LoramuxError } from '../../errors.ts';
import {
  ArchiveContents,
  type ArchiveLimits,
  checkName,
  type ExtractedFiles,
  filesOf,
  invalid,
  maxHeaderBytes,
  quote,
  type Role,
  readingError,
  tooManyEntries,
  unsafe,
} from './archive-contents.ts';
import { FileReader } from './file-reader.ts';
import { isDiskError, type WorkFiles, writeAll } from './work-files.ts';

const END_BYTES = 22;
const END_DIRECTORY_BYTES = 12;
const END_DIRECTORY_OFFSET = 16;
const LOCATOR_BYTES = 20;
const LOCATOR_SIGNATURE = 0x07064b50;
const LOCATOR_END_OFFSET = 8;
const END64_BYTES = 56;
const END64_DIRECTORY_BYTES = 40;
const END64_DIRECTORY_OFFSET = 48;
const RECORD_BYTES = 46;

const STORED = 0;
const DEFLATED = 8;
const FLAG_ENCRYPTED = 0x1;
const FLAG_SIZES_AFTER_DATA = 0x8;
const FLAG_MASKED_HEADERS = 0x2000;
const FIELD_IN_ZIP64 = 0xffffffff;

/** What yauzl says of an entry before it is seen here. */
const STRONG_ENCRYPTION = 'strong encryption is not supported';

/** Upper half of the external attributes: a Unix mode. */
const MODE_TYPE = 0o170000;
const MODE_FILE = 0o100000;
const MODE_FOLDER = 0o040000;
/** Lower half: Windows attributes. A reparse point is how Windows stores links. */
const WINDOWS_SPECIAL = 0x440;

/** A file of the archive: where its bytes are, as its headers agree on. */
interface Stored {
  readonly name: string;
  readonly entry: Entry;
  readonly start: number;
}

/** @throws as `extractTarGz`. */
export async function extractZip(
  file: string,
  limits: ArchiveLimits,
  work: WorkFiles,
  signal: AbortSignal,
): Promise<ExtractedFiles> {
  const handle = await open(file, 'r');
  try {
    const { size } = await handle.stat();
    const reader = new FileReader(handle, signal);
    const zip = await yauzl.fromRandomAccessReaderPromise(reader, size, {
      autoClose: false,
      // Names are decoded and checked here, with refusals of our own.
      decodeStrings: false,
    });
    const found = await readDirectory(zip, handle, size, limits);
    const placed = new Map<string, string>();
    for (const [role, stored] of found) {
      placed.set(stored.name, await unpack(file, String(role), stored, work, signal));
    }
    return filesOf(new Map([...found].map(([role, { name }]) => [role, name])), placed);
  } catch (error) {
    const isStrong = error instanceof Error && error.message === STRONG_ENCRYPTION;
    throw readingError(isStrong ? unsafe('an entry is encrypted') : error, signal);
  } finally {
    await handle.close();
  }
}

async function readDirectory(
  zip: ZipFile,
  handle: FileHandle,
  size: number,
  limits: ArchiveLimits,
): Promise<ReadonlyMap<Role, Stored>> {
  if (zip.entryCount > limits.maxArchiveEntries) throw tooManyEntries(limits);
  const place = await directoryPlace(handle, size, zip.comment.length);
  if (place.end - place.start > maxHeaderBytes(limits)) {
    throw new LoramuxError(
      'archive_limit_exceeded',
      `The directory of the archive has more than ${maxHeaderBytes(limits)} bytes.`,
    );
  }
  const contents = new ArchiveContents(limits);
  const found = new Map<string, Stored>();
  const ranges: { start: number; end: number; name: string }[] = [];
  let at = place.start;
  for await (const entry of zip.eachEntry()) {
    at += RECORD_BYTES + entry.fileNameLength + entry.extraFieldLength + entry.fileCommentLength;
    const name = nameOf(entry);
    checkKind(entry, name);
    const role = contents.add(name, name.endsWith('/') ? 'folder' : 'file', entry.uncompressedSize);
    const local = await zip.readLocalFileHeaderPromise(entry);
    checkLocal(entry, local, name);
    const start = local.fileDataStart;
    const end = start + entry.compressedSize;
    if (end > place.start) throw invalid(`the bytes of ${quote(name)} run into the directory`);
    ranges.push({ start: entry.relativeOffsetOfLocalHeader, end, name });
    if (role !== undefined) found.set(name, { name, entry, start });
  }
  if (at !== place.end) throw invalid('its directory and the number of its entries do not agree');
  checkApart(ranges);
  return new Map([...contents.complete()].map(([role, name]) => [role, found.get(name)!]));
}

/** The central directory must end where the record begins that describes it. */
async function directoryPlace(
  handle: FileHandle,
  size: number,
  commentBytes: number,
): Promise<{ start: number; end: number }> {
  const endAt = size - END_BYTES - commentBytes;
  const end = await readAt(handle, endAt, END_BYTES);
  let place = {
    start: end.readUInt32LE(END_DIRECTORY_OFFSET),
    bytes: end.readUInt32LE(END_DIRECTORY_BYTES),
    end: endAt,
  };
  const locatorAt = endAt - LOCATOR_BYTES;
  const locator = locatorAt < 0 ? undefined : await readAt(handle, locatorAt, LOCATOR_BYTES);
  if (locator?.readUInt32LE(0) === LOCATOR_SIGNATURE) {
    const end64At = Number(locator.readBigUInt64LE(LOCATOR_END_OFFSET));
    const end64 = await readAt(handle, end64At, END64_BYTES);
    place = {
      start: Number(end64.readBigUInt64LE(END64_DIRECTORY_OFFSET)),
      bytes: Number(end64.readBigUInt64LE(END64_DIRECTORY_BYTES)),
      end: end64At,
    };
  }
  if (place.start + place.bytes !== place.end) {
    throw invalid('its directory is not where its end says; it was changed or has bytes before it');
  }
  return place;
}

/** @throws LoramuxError archive_invalid when the file has no such bytes. */
async function readAt(handle: FileHandle, position: number, bytes: number): Promise<Buffer> {
  const buffer = Buffer.alloc(bytes);
  const read = Number.isSafeInteger(position)
    ? (await handle.read(buffer, 0, bytes, position)).bytesRead
    : 0;
  if (read !== bytes) throw invalid('its end is cut off or points outside of it');
  return buffer;
}

/** @throws LoramuxError archive_unsafe, archive_limit_exceeded. */
function nameOf(entry: Entry): string {
  const { generalPurposeBitFlag: flags, fileNameRaw: raw, extraFields } = entry;
  // Some tools read the raw name, others the one in an extra field: neither may be hostile.
  checkName(raw.toString('latin1'));
  return yauzl.getFileNameLowLevel(flags, raw, extraFields, true);
}

/** @throws LoramuxError archive_unsafe, archive_invalid. */
function checkKind(entry: Entry, name: string): void {
  const { generalPurposeBitFlag: flags, externalFileAttributes: attributes } = entry;
  if ((flags & (FLAG_ENCRYPTED | FLAG_MASKED_HEADERS)) !== 0) {
    throw unsafe(`${quote(name)} is encrypted`);
  }
  const type = (attributes >>> 16) & MODE_TYPE;
  const isFolder = name.endsWith('/');
  if ((type !== 0 && type !== MODE_FILE && type !== MODE_FOLDER) || attributes & WINDOWS_SPECIAL) {
    throw unsafe(`${quote(name)} is a link or a special file`);
  }
  if (type !== 0 && isFolder !== (type === MODE_FOLDER)) {
    throw invalid(`${quote(name)} is a file by its name and a folder by its mode, or the reverse`);
  }
}

/** @throws LoramuxError archive_invalid. */
function checkLocal(entry: Entry, local: LocalFileHeader, name: string): void {
  const flags = local.generalPurposeBitFlag;
  const sizes: readonly (readonly [number, number])[] = [
    [local.compressedSize, entry.compressedSize],
    [local.uncompressedSize, entry.uncompressedSize],
  ];
  const sizesDiffer =
    (flags & FLAG_SIZES_AFTER_DATA) === 0 &&
    sizes.some(([own, central]) => own !== central && own !== FIELD_IN_ZIP64);
  if (
    !local.fileName.equals(entry.fileNameRaw) ||
    local.compressionMethod !== entry.compressionMethod ||
    (flags & FLAG_ENCRYPTED) !== 0 ||
    sizesDiffer
  ) {
    throw invalid(`the two headers of ${quote(name)} do not agree`);
  }
}

/** @throws LoramuxError archive_unsafe when two entries share bytes, as in some bombs. */
function checkApart(ranges: { start: number; end: number; name: string }[]): void {
  ranges.sort((a, b) => a.start - b.start);
  for (const [index, range] of ranges.entries()) {
    const next = ranges[index + 1];
    if (next !== undefined && next.start < range.end) {
      throw unsafe(`${quote(range.name)} and ${quote(next.name)} overlap`);
    }
  }
}

async function unpack(
  file: string,
  suffix: string,
  { name, entry, start }: Stored,
  work: WorkFiles,
  signal: AbortSignal,
): Promise<string> {
  const { compressionMethod: method, compressedSize, uncompressedSize } = entry;
  if (method !== STORED && method !== DEFLATED) {
    throw invalid(`${quote(name)} is compressed by method ${method}; use deflate or none`);
  }
  return work.write(suffix, async (target) => {
    let bytes = 0;
    let sum = 0;
    let failure: unknown;
    const write = async (chunks: AsyncIterable<Uint8Array>) => {
      for await (const chunk of chunks) {
        bytes += chunk.length;
        // The declared size was held against the limits; the data may be a bomb all the same.
        if (bytes > uncompressedSize) throw invalid(`${quote(name)} has more bytes than it says`);
        sum = crc32(chunk, sum);
        await writeAll(target, chunk);
      }
    };
    // Kept aside: the pipeline may report the end of its other streams instead.
    const sink = (chunks: AsyncIterable<Uint8Array>) =>
      write(chunks).catch((error) => {
        failure = error;
        throw error;
      });
    if (compressedSize > 0) {
      const source = createReadStream(file, { start, end: start + compressedSize - 1 });
      const unpacking =
        method === STORED
          ? pipeline(source, sink, { signal })
          : pipeline(source, createInflateRaw(), sink, { signal });
      await unpacking.catch((error) => {
        throw failure instanceof LoramuxError || isDiskError(failure) ? failure : error;
      });
    }
    if (bytes !== uncompressedSize) throw invalid(`${quote(name)} has fewer bytes than it says`);
    if (sum !== entry.crc32) throw invalid(`the checksum of ${quote(name)} is wrong`);
  });
}
