/** Streaming writer of safetensors files: sizes first, then the data in the same order. */
import { type FileHandle, open, rename, unlink } from 'node:fs/promises';
import { LoramuxError } from '../../errors.ts';
import { type SafetensorsDtype, tensorBytes } from './header.ts';

export interface TensorSpec {
  name: string;
  dtype: SafetensorsDtype;
  shape: readonly number[];
}

/** Where the data begins unless the caller needs more: what the reference writer does. */
const DEFAULT_ALIGNMENT = 8;
const LENGTH_BYTES = 8;
const MAX_PENDING_BYTES = 8 * 1024 * 1024;

/** Length field and JSON header, padded with spaces so that the data begins on `alignment` bytes. */
export function buildSafetensorsHeader(
  tensors: readonly TensorSpec[],
  metadata: Readonly<Record<string, string>> = { format: 'pt' },
  alignment = DEFAULT_ALIGNMENT,
): Buffer {
  const json: Record<string, unknown> = { __metadata__: metadata };
  let offset = 0;
  for (const { name, dtype, shape } of tensors) {
    const bytes = tensorBytes(dtype, shape);
    if (bytes === undefined || name === '__metadata__' || Object.hasOwn(json, name)) {
      throw new LoramuxError(
        'safetensors_invalid',
        `Tensor ${JSON.stringify(name)} cannot be written: its name is taken or its size impossible.`,
      );
    }
    json[name] = { dtype, shape, data_offsets: [offset, offset + bytes] };
    offset += bytes;
  }
  let text = JSON.stringify(json);
  const length = LENGTH_BYTES + Buffer.byteLength(text);
  text += ' '.repeat((alignment - (length % alignment)) % alignment);
  const body = Buffer.from(text);
  const header = Buffer.alloc(LENGTH_BYTES + body.length);
  header.writeBigUInt64LE(BigInt(body.length));
  body.copy(header, LENGTH_BYTES);
  return header;
}

/**
 * Writes `path` through a temporary neighbour: it appears complete (renamed after fsync) or not at
 * all. Call write() with the tensors' bytes in the order of the specs, then close(); or abort().
 */
export class SafetensorsWriter {
  readonly dataBytes: number;
  #file: FileHandle;
  #path: string;
  #temporary: string;
  #written = 0;
  #pending: Buffer[] = [];
  #pendingBytes = 0;
  #open = true;

  private constructor(file: FileHandle, path: string, temporary: string, dataBytes: number) {
    this.#file = file;
    this.#path = path;
    this.#temporary = temporary;
    this.dataBytes = dataBytes;
  }

  static async create(
    path: string,
    tensors: readonly TensorSpec[],
    metadata?: Readonly<Record<string, string>>,
    alignment?: number,
  ): Promise<SafetensorsWriter> {
    const header = buildSafetensorsHeader(tensors, metadata, alignment);
    const dataBytes = tensors.reduce((sum, t) => sum + tensorBytes(t.dtype, t.shape)!, 0);
    const temporary = `${path}.${process.pid}.partial`;
    const file = await open(temporary, 'w');
    const writer = new SafetensorsWriter(file, path, temporary, dataBytes);
    try {
      await file.writeFile(header);
    } catch (error) {
      await writer.abort();
      throw error;
    }
    return writer;
  }

  /** Appends bytes; the chunk is copied or written before the promise settles. */
  async write(chunk: Uint8Array): Promise<void> {
    this.#written += chunk.byteLength;
    if (this.#written > this.dataBytes) {
      throw new RangeError(`More data than the header of ${this.#path} announces`);
    }
    if (chunk.byteLength < MAX_PENDING_BYTES / 8) {
      this.#pending.push(Buffer.from(chunk));
      this.#pendingBytes += chunk.byteLength;
      if (this.#pendingBytes >= MAX_PENDING_BYTES) await this.#flush();
      return;
    }
    await this.#flush();
    // writeFile would cut it into small pieces.
    for (let at = 0; at < chunk.byteLength; ) {
      const { bytesWritten } = await this.#file.write(chunk, at, chunk.byteLength - at);
      at += bytesWritten;
    }
  }

  /** Syncs and renames into place. */
  async close(): Promise<void> {
    if (this.#written !== this.dataBytes) {
      const missing = this.dataBytes - this.#written;
      await this.abort();
      throw new RangeError(`${missing} bytes are missing from ${this.#path}`);
    }
    await this.#flush();
    await this.#file.sync();
    await rename(this.#temporary, this.#path);
    this.#open = false;
    await this.#file.close();
  }

  /** Removes what was written; does nothing after close() or abort(). */
  async abort(): Promise<void> {
    if (!this.#open) return;
    this.#open = false;
    try {
      await this.#file.close();
    } finally {
      await unlink(this.#temporary);
    }
  }

  async #flush(): Promise<void> {
    if (this.#pendingBytes === 0) return;
    const chunk = Buffer.concat(this.#pending, this.#pendingBytes);
    this.#pending = [];
    this.#pendingBytes = 0;
    await this.#file.writeFile(chunk);
  }
}
