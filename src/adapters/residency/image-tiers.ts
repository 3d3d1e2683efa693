/**
 * From a generation to its checked bytes in memory: host memory, else a file on disk, which is
 * fetched first when it is not here. The file is read once, by a worker thread, which checks what it
 * has read; the event loop copies nothing.
 *
 * Loads and prefetches of one generation share the work. A prefetch begins only when no load reads,
 * and a load that comes meanwhile goes before it.
 */
import { LoramuxError, shuttingDown } from '../../errors.ts';
import type { BlobFiles, LocalBlob } from '../blobs/types.ts';
import type { FileOpener } from '../convert/pool.ts';
import type { GenerationMeta } from '../registry/types.ts';
import type { LoadTier, OpenedImage } from '../service-types.ts';
import { HostCache, type HostCacheStats, type HostCopy } from './host-cache.ts';

/** Prefetches that wait for their turn; requests for more come as loads. */
export const PREFETCH_QUEUE_MAX = 64;
/** How often a damaged file is fetched again within one load. */
const REFETCHES_MAX = 1;

export interface ImageTiersOptions {
  readonly files: BlobFiles;
  readonly pool: FileOpener;
  /** Host memory for files that no load reads; 0 keeps none. */
  readonly budgetBytes: number;
  /** Hash every file that is read. */
  readonly verify: boolean;
  readonly onWarning?: ((message: string, error: unknown) => void) | undefined;
}

export interface ImageTiersStats extends HostCacheStats {
  /** Files that were brought to host memory before a load asked for them. */
  readonly prefetched: number;
  /** Files whose content was not what it should be. */
  readonly rejected: number;
}

export interface ImageTiers {
  /**
   * The checked image; its bytes stay as they are until `release`.
   * @throws LoramuxError store_corrupt, blob_missing, blob_unavailable, adapter_load_failed,
   *   shutting_down.
   */
  open(meta: GenerationMeta): Promise<OpenedImage>;
  /** Brings the file to host memory soon, unless others need the room; failures show at `open`. */
  prefetch(meta: GenerationMeta): void;
  /** Takes it out of host memory, also what is on its way there. Whether it was there. */
  drop(digest: string): boolean;
  has(digest: string): boolean;
  /** What host memory has. */
  digests(): string[];
  stats(): ImageTiersStats;
  /** Ends prefetching and waits for reads under way. Idempotent. */
  close(): Promise<void>;
}

/** One file on its way into memory. */
interface Read {
  readonly done: Promise<{ readonly copies: HostCopy[]; readonly tier: LoadTier }>;
  /** Loads that wait for it; 0 for a prefetch. */
  waiters: number;
  /** Dropped meanwhile: not to be kept. */
  dropped: boolean;
}

export function createImageTiers(options: ImageTiersOptions): ImageTiers {
  return new Tiers(options);
}

class Tiers implements ImageTiers {
  readonly #options: ImageTiersOptions;
  readonly #cache: HostCache;
  readonly #reads = new Map<string, Read>();
  readonly #prefetches = new Map<string, GenerationMeta>();
  #prefetched = 0;
  #rejected = 0;
  #closed = false;

  constructor(options: ImageTiersOptions) {
    this.#options = options;
    this.#cache = new HostCache(options.budgetBytes, (error) =>
      options.onWarning?.('The system refused memory for the host cache of adapters.', error),
    );
  }

  async open(meta: GenerationMeta): Promise<OpenedImage> {
    const { digest } = meta;
    if (this.#closed) throw shuttingDown();
    const cached = this.#cache.get(digest);
    if (cached !== undefined) return { ...cached, tier: 'host' };
    this.#prefetches.delete(digest);
    let read = this.#reads.get(digest);
    if (read === undefined) {
      read = this.#start(meta, 1);
    } else if (read.waiters++ === 0) {
      this.#options.pool.expedite(digest);
    }
    const { copies, tier } = await read.done;
    // One for each that waited.
    const { image, release } = copies.pop()!;
    return { image, release, tier };
  }

  prefetch(meta: GenerationMeta): void {
    const { digest, fileBytes } = meta;
    if (this.#closed || this.has(digest) || this.#reads.has(digest)) return;
    if (fileBytes > this.#options.budgetBytes || this.#prefetches.size >= PREFETCH_QUEUE_MAX)
      return;
    this.#prefetches.set(digest, meta);
    this.#pumpPrefetches();
  }

  drop(digest: string): boolean {
    this.#prefetches.delete(digest);
    const read = this.#reads.get(digest);
    if (read !== undefined) read.dropped = true;
    return this.#cache.drop(digest);
  }

  has(digest: string): boolean {
    return this.#cache.has(digest);
  }

  digests(): string[] {
    return this.#cache.digests();
  }

  stats(): ImageTiersStats {
    return { ...this.#cache.stats(), prefetched: this.#prefetched, rejected: this.#rejected };
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#prefetches.clear();
    await Promise.allSettled([...this.#reads.values()].map(({ done }) => done));
    this.#cache.clear();
  }

  /** One at a time, and only while no load reads. */
  #pumpPrefetches(): void {
    if (this.#closed || this.#reads.size > 0) return;
    const [next] = this.#prefetches.values();
    if (next === undefined) return;
    this.#prefetches.delete(next.digest);
    // Nobody waits for it; the load that comes after it meets the same failure and tells it.
    this.#start(next, 0).done.catch(() => undefined);
  }

  #start(meta: GenerationMeta, waiters: number): Read {
    const { digest } = meta;
    const read: { -readonly [Key in keyof Read]: Read[Key] } = {
      done: Promise.resolve({ copies: [], tier: 'disk' }),
      waiters,
      dropped: false,
    };
    this.#reads.set(digest, read);
    read.done = this.#read(meta, read).finally(() => {
      this.#end(digest, read);
      this.#pumpPrefetches();
    });
    return read;
  }

  /** Nobody joins this read any more. */
  #end(digest: string, read: Read): void {
    if (this.#reads.get(digest) === read) this.#reads.delete(digest);
  }

  async #read(meta: GenerationMeta, read: Read): Promise<Awaited<Read['done']>> {
    const { files } = this.#options;
    for (let refetches = 0; ; refetches++) {
      const local = await files.ensureLocal(meta);
      try {
        return { copies: await this.#check(meta, local, read), tier: local.tier };
      } catch (error) {
        if (!(error instanceof LoramuxError) || error.code !== 'store_corrupt') throw error;
        this.#rejected++;
        local.release();
        await files.reject(meta.digest);
        if (!files.shared || refetches === REFETCHES_MAX) throw error;
        this.#options.onWarning?.(`A damaged adapter file is fetched again.`, error);
      } finally {
        local.release();
      }
    }
  }

  async #check(meta: GenerationMeta, local: LocalBlob, read: Read): Promise<HostCopy[]> {
    const { digest, fileBytes, headerBytes } = meta;
    const { pool, verify } = this.#options;
    const background = read.waiters === 0;
    const region = this.#cache.reserve(fileBytes, background);
    if (background && region === undefined) {
      // It would be read for nothing.
      this.#end(digest, read);
      return [];
    }
    try {
      const image = await pool.open(
        { path: local.path, digest, fileBytes, headerBytes, verify, into: region },
        background,
      );
      this.#end(digest, read);
      const holds = read.waiters;
      if (holds === 0) this.#prefetched++;
      return this.#cache.add(digest, image, region, { holds, keep: !read.dropped });
    } catch (error) {
      if (region !== undefined) this.#cache.cancel(region);
      throw error;
    }
  }
}
