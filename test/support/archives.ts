/** Archives made byte by byte, so that any field can lie. */
import { crc32, deflateRawSync, gzipSync } from 'node:zlib';

export interface ZipEntry {
  name: string | Buffer;
  data?: Uint8Array;
  /** 0 stored, 8 deflated. */
  method?: number;
  flags?: number;
  versionMadeBy?: number;
  /** A Unix mode; goes to the upper half of the external attributes. */
  mode?: number;
  /** All of the external attributes, instead of `mode`. */
  attributes?: number;
  crc?: number;
  /** As the headers state them. */
  compressedSize?: number;
  size?: number;
  extra?: Buffer;
  comment?: Buffer;
  /** Only in the local header. */
  localName?: string | Buffer;
  localSize?: number;
  localMethod?: number;
  /** Where the central directory says the local header is. */
  offset?: number;
  /** Puts these into a zip64 field, and all ones into the plain ones. */
  zip64?: { size: bigint; compressedSize: bigint; offset?: bigint };
}

export interface ZipOptions {
  comment?: Buffer;
  entryCount?: number;
  directoryOffset?: number;
  directoryBytes?: number;
  /** Adds a zip64 end record with these, and its locator. */
  zip64?: { entryCount?: bigint; directoryOffset?: bigint; endOffset?: bigint };
  before?: Buffer;
  after?: Buffer;
}

const bytesOf = (name: string | Buffer) => (typeof name === 'string' ? Buffer.from(name) : name);

function field(id: number, data: Buffer): Buffer {
  const header = Buffer.alloc(4);
  header.writeUInt16LE(id, 0);
  header.writeUInt16LE(data.length, 2);
  return Buffer.concat([header, data]);
}

function zip64Field(zip64: NonNullable<ZipEntry['zip64']>): Buffer {
  const values = [zip64.size, zip64.compressedSize];
  if (zip64.offset !== undefined) values.push(zip64.offset);
  const data = Buffer.alloc(8 * values.length);
  for (const [index, value] of values.entries()) data.writeBigUInt64LE(value, 8 * index);
  return field(1, data);
}

/** An Info-ZIP Unicode Path field: another name for the same entry. */
export function unicodePath(rawName: string, name: string): Buffer {
  const head = Buffer.alloc(5);
  head[0] = 1;
  head.writeUInt32LE(crc32(rawName), 1);
  return field(0x7075, Buffer.concat([head, Buffer.from(name)]));
}

export function zip(entries: readonly ZipEntry[], options: ZipOptions = {}): Buffer {
  const parts: Buffer[] = [options.before ?? Buffer.alloc(0)];
  const directory: Buffer[] = [];
  let at = parts[0]!.length;
  const push = (part: Buffer) => {
    parts.push(part);
    at += part.length;
  };
  for (const entry of entries) {
    const { method = 8, flags = 0x800, data = new Uint8Array() } = entry;
    const name = bytesOf(entry.name);
    const localName = bytesOf(entry.localName ?? entry.name);
    const body = method === 8 ? deflateRawSync(data) : Buffer.from(data);
    const extra = Buffer.concat([
      entry.zip64 === undefined ? Buffer.alloc(0) : zip64Field(entry.zip64),
      entry.extra ?? Buffer.alloc(0),
    ]);
    const size = entry.zip64 === undefined ? (entry.size ?? data.length) : 0xffffffff;
    const compressed =
      entry.zip64 === undefined ? (entry.compressedSize ?? body.length) : 0xffffffff;
    const offset = entry.offset ?? (entry.zip64?.offset === undefined ? at : 0xffffffff);

    const common = Buffer.alloc(26);
    common.writeUInt16LE(20, 0);
    common.writeUInt16LE(flags, 2);
    common.writeUInt16LE(method, 4);
    common.writeUInt32LE(entry.crc ?? crc32(data), 10);
    common.writeUInt32LE(compressed, 14);
    common.writeUInt32LE(size, 18);
    common.writeUInt16LE(name.length, 22);
    common.writeUInt16LE(extra.length, 24);

    const local = Buffer.from(common);
    local.writeUInt16LE(localName.length, 22);
    if (entry.localSize !== undefined) local.writeUInt32LE(entry.localSize, 18);
    if (entry.localMethod !== undefined) local.writeUInt16LE(entry.localMethod, 4);
    push(Buffer.concat([Buffer.from('PK\x03\x04'), local, localName, extra, body]));

    const tail = Buffer.alloc(14);
    const comment = entry.comment ?? Buffer.alloc(0);
    tail.writeUInt16LE(comment.length, 0);
    tail.writeUInt32LE(entry.attributes ?? (entry.mode ?? 0o100644) * 0x10000, 6);
    tail.writeUInt32LE(offset, 10);
    const madeBy = Buffer.alloc(2);
    madeBy.writeUInt16LE(entry.versionMadeBy ?? 0x0314, 0);
    directory.push(
      Buffer.concat([Buffer.from('PK\x01\x02'), madeBy, common, tail, name, extra, comment]),
    );
  }
  return Buffer.concat([
    ...parts,
    zipEnd(at, directory, options),
    options.after ?? Buffer.alloc(0),
  ]);
}

function zipEnd(at: number, directory: readonly Buffer[], options: ZipOptions): Buffer {
  const records = Buffer.concat(directory);
  const parts = [records];
  if (options.zip64 !== undefined) {
    const { entryCount, directoryOffset, endOffset } = options.zip64;
    const end64 = Buffer.alloc(56);
    end64.write('PK\x06\x06', 'latin1');
    end64.writeBigUInt64LE(44n, 4);
    end64.writeUInt16LE(45, 12);
    end64.writeUInt16LE(45, 14);
    end64.writeBigUInt64LE(entryCount ?? BigInt(directory.length), 24);
    end64.writeBigUInt64LE(entryCount ?? BigInt(directory.length), 32);
    end64.writeBigUInt64LE(BigInt(records.length), 40);
    end64.writeBigUInt64LE(directoryOffset ?? BigInt(at), 48);
    const locator = Buffer.alloc(20);
    locator.write('PK\x06\x07', 'latin1');
    locator.writeBigUInt64LE(endOffset ?? BigInt(at + records.length), 8);
    locator.writeUInt32LE(1, 16);
    parts.push(end64, locator);
  }
  const comment = options.comment ?? Buffer.alloc(0);
  const end = Buffer.alloc(22);
  end.write('PK\x05\x06', 'latin1');
  end.writeUInt16LE(Math.min(options.entryCount ?? directory.length, 0xffff), 8);
  end.writeUInt16LE(Math.min(options.entryCount ?? directory.length, 0xffff), 10);
  end.writeUInt32LE(options.directoryBytes ?? records.length, 12);
  end.writeUInt32LE(options.directoryOffset ?? at, 16);
  end.writeUInt16LE(comment.length, 20);
  return Buffer.concat([...parts, end, comment]);
}

export interface TarEntry {
  name: string | Buffer;
  data?: Uint8Array;
  /** '0' file, '1' hard link, '2' link, '3' and '4' devices, '5' folder, '6' pipe, 'x' pax, ... */
  type?: string;
  link?: string;
  /** As the header states it: a number, or the field's own text. */
  size?: number | Buffer;
  checksum?: number;
  magic?: string;
  prefix?: string;
}

const BLOCK = 512;

export function tarEntry(entry: TarEntry): Buffer {
  const data = entry.data ?? new Uint8Array();
  const head = Buffer.alloc(BLOCK);
  bytesOf(entry.name).copy(head, 0, 0, 100);
  head.write('0000644\0', 100);
  head.write('0000000\0', 108);
  head.write('0000000\0', 116);
  const size = entry.size ?? data.length;
  if (typeof size === 'number') head.write(`${size.toString(8).padStart(11, '0')}\0`, 124);
  else size.copy(head, 124, 0, 12);
  head.write('00000000000\0', 136);
  head.write(entry.type ?? '0', 156, 'latin1');
  head.write(entry.link ?? '', 157);
  head.write(entry.magic ?? 'ustar\x0000', 257, 'latin1');
  head.write(entry.prefix ?? '', 345);
  head.fill(' ', 148, 156);
  const sum = entry.checksum ?? head.reduce((total, byte) => total + byte, 0);
  head.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
  return Buffer.concat([head, data, Buffer.alloc((BLOCK - (data.length % BLOCK)) % BLOCK)]);
}

/** An extended header for the next entry, or with `type` 'g' for all. */
export function pax(fields: Readonly<Record<string, string>>, type = 'x'): TarEntry {
  const lines = Object.entries(fields).map(([key, value]) => {
    const rest = ` ${key}=${value}\n`;
    let length = rest.length + 1;
    while (`${length}${rest}`.length !== length) length = `${length}${rest}`.length;
    return `${length}${rest}`;
  });
  return { name: 'PaxHeaders/x', type, data: Buffer.from(lines.join('')) };
}

/** A GNU long name for the next entry. */
export function longName(name: string, type = 'L'): TarEntry {
  return { name: '././@LongLink', type, data: Buffer.from(`${name}\0`) };
}

export function tar(entries: readonly TarEntry[], endBlocks = 2): Buffer {
  return Buffer.concat([...entries.map(tarEntry), Buffer.alloc(endBlocks * BLOCK)]);
}

export function tarGz(entries: readonly TarEntry[], endBlocks = 2): Buffer {
  return gzipSync(tar(entries, endBlocks));
}
