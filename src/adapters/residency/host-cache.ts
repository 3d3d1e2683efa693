/**
 * The host tier: checked canonical files in memory, least recently used first to go, within a byte
 * budget. A copy that a load reads is never given back or written over, whatever happens to its place
 * in the cache; what is not in the cache lives only as long as the loads that read it.
 */
import { MessageChannel } from 'node:worker_threads';
import type { AdapterImage } from '../../native/addon-types.ts';
import type { CheckedImage } from '../convert/open-canonical.ts';
import { HostMemory, type HostRegion } from './host-memory.ts';

export interface HostCacheStats {
  /** Loads that found their adapter in host memory. */
  readonly hits: number;
  /** Bytes of cached files, rounded up to pages. */
  readonly bytes: number;
  readonly maxBytes: number;
  readonly entries: number;
  readonly evictions: number;
}

/** One file in memory. */
export interface HostCopy {
  readonly image: AdapterImage;
  /** Gives back one hold. */
  readonly release: () => void;
}

class Copy {
  readonly image: CheckedImage;
  readonly region: HostRegion | undefined;
  holds: number;
  cached = false;
  /** Brought here for requests that have not loaded it yet. */
  fresh: boolean;

  constructor(image: CheckedImage, region: HostRegion | undefined, holds: number, fresh: boolean) {
    this.image = image;
    this.region = region;
    this.holds = holds;
    this.fresh = fresh;
  }
}

export class HostCache {
  readonly #memory: HostMemory;
  /** By digest, the least recently loaded first. */
  readonly #cached = new Map<string, Copy>();
  #hits = 0;
  #evictions = 0;

  constructor(maxBytes: number, onRefused?: (error: unknown) => void) {
    this.#memory = new HostMemory({ maxBytes, onRefused });
  }

  has(digest: string): boolean {
    return this.#cached.has(digest);
  }

  /** The cached file with one hold taken. */
  get(digest: string): HostCopy | undefined {
    const copy = this.#cached.get(digest);
    if (copy === undefined) return undefined;
    this.#hits++;
    copy.holds++;
    copy.fresh = false;
    this.#cached.delete(digest);
    this.#cached.set(digest, copy);
    return this.#held(copy);
  }

  /**
   * Room for a file of so many bytes, made by evicting what no load reads; undefined when there is
   * not enough of it. The region belongs to the caller until `add` or `cancel`.
   * @param prefetch leaves alone what requests wait for that have not loaded it yet.
   */
  reserve(bytes: number, prefetch: boolean): HostRegion | undefined {
    for (;;) {
      const region = this.#memory.take(bytes);
      if (region !== undefined || bytes > this.#memory.regionBytesMax) return region;
      const victim = this.#victim(prefetch);
      if (victim === undefined) return undefined;
      this.#evictions++;
      this.drop(victim);
    }
  }

  cancel(region: HostRegion): void {
    this.#memory.give(region);
  }

  /**
   * Takes over a file that was read, with as many holds as loads wait for it (each to be given back by
   * a `release` of its own); a region makes it a cached one unless `keep` is false.
   */
  add(
    digest: string,
    image: CheckedImage,
    region: HostRegion | undefined,
    options: { readonly holds: number; readonly keep: boolean },
  ): HostCopy[] {
    const { holds, keep } = options;
    const copy = new Copy(image, region, holds, holds === 0);
    if (keep && region !== undefined) {
      copy.cached = true;
      this.#cached.set(digest, copy);
    }
    this.#freeIfUnused(copy);
    return Array.from({ length: holds }, () => this.#held(copy));
  }

  /** Takes a file out of the cache; its memory goes with the last hold. Whether it was there. */
  drop(digest: string): boolean {
    const copy = this.#cached.get(digest);
    if (copy === undefined) return false;
    this.#cached.delete(digest);
    copy.cached = false;
    this.#freeIfUnused(copy);
    return true;
  }

  clear(): void {
    for (const digest of [...this.#cached.keys()]) this.drop(digest);
  }

  digests(): string[] {
    return [...this.#cached.keys()];
  }

  stats(): HostCacheStats {
    const { usedBytes, maxBytes } = this.#memory;
    return {
      hits: this.#hits,
      bytes: usedBytes,
      maxBytes,
      entries: this.#cached.size,
      evictions: this.#evictions,
    };
  }

  #victim(prefetch: boolean): string | undefined {
    for (const [digest, copy] of this.#cached) {
      if (copy.holds === 0 && !(prefetch && copy.fresh)) return digest;
    }
    return undefined;
  }

  #held(copy: Copy): HostCopy {
    let held = true;
    return {
      image: copy.image,
      release: () => {
        if (!held) return;
        held = false;
        copy.holds--;
        this.#freeIfUnused(copy);
      },
    };
  }

  #freeIfUnused(copy: Copy): void {
    if (copy.cached || copy.holds > 0) return;
    if (copy.region !== undefined) this.#memory.give(copy.region);
    else discard(copy.image.bytes);
  }
}

/**
 * Gives the memory of a buffer back now instead of at some garbage collection: sending it to nobody
 * takes it away from here, and nobody keeps it.
 */
function discard(bytes: Uint8Array): void {
  const { buffer } = bytes;
  if (!(buffer instanceof ArrayBuffer) || buffer.byteLength === 0) return;
  const { port1 } = new MessageChannel();
  port1.close();
  port1.postMessage(undefined, [buffer]);
}
