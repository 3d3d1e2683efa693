import { readFileSync, writeFileSync } from 'node:fs';
import type { BlobStore } from '../../src/adapters/blobs/types.ts';

/** A store whose calls a test counts, holds up, fails or spoils. */
export class WatchedStore implements BlobStore {
  readonly kind = 'directory';
  maxBlobBytes = 1e9;
  readonly calls: string[] = [];
  running = 0;
  mostRunning = 0;
  /** Called before each call; may wait or throw. */
  before: (call: string, location: string) => Promise<void> = async () => {};
  /** Downloads to spoil from now on. */
  spoil = 0;
  readonly #store: BlobStore;

  constructor(store: BlobStore) {
    this.#store = store;
  }

  upload(file: string, location: string): Promise<void> {
    return this.#watch('upload', location, () => this.#store.upload(file, location));
  }

  download(location: string, target: string, fileBytes: number): Promise<void> {
    return this.#watch('download', location, async () => {
      await this.#store.download(location, target, fileBytes);
      if (this.spoil-- > 0) {
        const bytes = readFileSync(target);
        bytes[500]! ^= 1;
        writeFileSync(target, bytes);
      }
    });
  }

  remove(location: string): Promise<void> {
    return this.#watch('remove', location, () => this.#store.remove(location));
  }

  close(): Promise<void> {
    return this.#store.close();
  }

  async #watch(call: string, location: string, work: () => Promise<void>): Promise<void> {
    this.calls.push(call);
    this.mostRunning = Math.max(this.mostRunning, ++this.running);
    try {
      await this.before(call, location);
      await work();
    } finally {
      this.running--;
    }
  }
}
