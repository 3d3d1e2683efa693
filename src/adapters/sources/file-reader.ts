/** Random access for the zip reader that an offset from a hostile archive cannot break. */
import type { FileHandle } from 'node:fs/promises';
import yauzl from 'yauzl';

export class FileReader extends yauzl.RandomAccessReader {
  readonly #handle: FileHandle;
  readonly #signal: AbortSignal;

  /** The caller closes the handle. */
  constructor(handle: FileHandle, signal: AbortSignal) {
    super();
    this.#handle = handle;
    this.#signal = signal;
  }

  override read(
    buffer: Buffer,
    offset: number,
    length: number,
    position: number,
    callback: (error: Error | null) => void,
  ): void {
    this.#read(buffer, offset, length, position).then(
      () => callback(null),
      (error: Error) => callback(error),
    );
  }

  async #read(buffer: Buffer, offset: number, length: number, position: number): Promise<void> {
    this.#signal.throwIfAborted();
    // 64-bit offsets come as they are; fs would throw where nobody catches it.
    if (!Number.isSafeInteger(position)) throw new Error('an offset is out of range');
    const { bytesRead } = await this.#handle.read(buffer, offset, length, position);
    if (bytesRead < length) throw new Error('it ends too early');
  }
}
