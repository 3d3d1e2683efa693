/** Reads tensors of a checkpoint once, in pieces, and digests them on the way. */
import { createHash } from 'node:crypto';
import { type FileHandle, open } from 'node:fs/promises';
import type { CheckpointTensor } from '../checkpoint.ts';
import type { OpenedModel } from '../import.ts';

/** Weight bytes read at a time; a piece is longer only where 16 rows are. */
export const CHUNK_BYTES = 8 * 1024 * 1024;

export class CheckpointSource {
  readonly model: OpenedModel;
  readonly #handles = new Map<string, FileHandle>();
  /** SHA-256 of the tensors read so far, by name. */
  readonly #digests = new Map<string, string>();

  private constructor(model: OpenedModel) {
    this.model = model;
  }

  static async open(model: OpenedModel): Promise<CheckpointSource> {
    const source = new CheckpointSource(model);
    try {
      for (const file of model.checkpoint.files) {
        source.#handles.set(file, await open(file, 'r'));
      }
    } catch (error) {
      await source.close();
      throw error;
    }
    return source;
  }

  async close(): Promise<void> {
    for (const handle of this.#handles.values()) await handle.close();
    this.#handles.clear();
  }

  tensor(name: string): CheckpointTensor {
    const tensor = this.model.checkpoint.tensors.get(name);
    if (tensor === undefined) throw new Error(`Tensor ${name} was not checked`);
    return tensor;
  }

  bytes(name: string): number {
    const { begin, end } = this.tensor(name);
    return end - begin;
  }

  /** The tensor's bytes in order, `chunkBytes` at a time; each piece is the caller's to keep. */
  async *chunks(name: string, chunkBytes = CHUNK_BYTES): AsyncGenerator<Buffer> {
    const { file, begin, end } = this.tensor(name);
    const handle = this.#handles.get(file)!;
    const hash = this.#digests.has(name) ? undefined : createHash('sha256');
    for (let at = begin; at < end; at += chunkBytes) {
      const chunk = Buffer.allocUnsafe(Math.min(chunkBytes, end - at));
      let filled = 0;
      while (filled < chunk.length) {
        const { bytesRead } = await handle.read(chunk, filled, chunk.length - filled, at + filled);
        if (bytesRead === 0) throw new RangeError(`${file} became shorter while it was read`);
        filled += bytesRead;
      }
      hash?.update(chunk);
      yield chunk;
    }
    if (hash !== undefined) this.#digests.set(name, hash.digest('hex'));
  }

  /** The whole tensor. */
  async read(name: string): Promise<Buffer> {
    const parts: Buffer[] = [];
    for await (const chunk of this.chunks(name)) parts.push(chunk);
    return parts.length === 1 ? parts[0]! : Buffer.concat(parts);
  }

  /** SHA-256 over config.json and every tensor; reads those that nobody has read. */
  async digest(onTensor: (name: string, bytes: number) => void = () => {}): Promise<string> {
    const { checkpoint, configBytes } = this.model;
    const hash = createHash('sha256').update('loramux source v2\n');
    hash.update(`${configBytes.byteLength}\n`).update(configBytes);
    for (const name of [...checkpoint.tensors.keys()].sort()) {
      const { dtype, shape } = this.tensor(name);
      if (!this.#digests.has(name)) {
        for await (const _ of this.chunks(name));
      }
      onTensor(name, this.bytes(name));
      hash.update(`${JSON.stringify([name, dtype, shape, this.#digests.get(name)])}\n`);
    }
    return hash.digest('hex');
  }
}
