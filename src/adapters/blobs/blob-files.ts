/**
 * The canonical file of a generation: from local disk, or fetched from where the fleet keeps it; and
 * the other way round. Whatever is fetched is checked against its digest before it gets its name.
 */
import { LoramuxError, shuttingDown } from '../../errors.ts';
import { blobMissing, blobUnavailable, checkSize, digestFile, isNoEntry, sizeOf } from './io.ts';
import { TransferSlots } from './transfer-slots.ts';
import type { BlobFiles, BlobLedger, BlobStore, LocalBlob, LocalBlobs } from './types.ts';

type Meta = Parameters<BlobFiles['ensureLocal']>[0];

/** Locations whose bytes one run of the garbage collection removes. */
export const GARBAGE_PER_RUN_MAX = 256;
/** Blobs that one run of the repair uploads. */
export const REPAIRS_PER_RUN_MAX = 16;
/** Further tries of a transfer after the store failed; its own retries come on top. */
const UNAVAILABLE_RETRIES_MAX = 1;
/** A store that took longer to fail is away, and who waits should hear it instead of waiting twice. */
const QUICK_FAILURE_MS = 25_000;
/** Times that a blob may turn out to have a new location while it is fetched. */
const MOVES_MAX = 3;

export interface BlobFilesOptions {
  readonly local: LocalBlobs;
  /** Both or none: without them there is no fleet. */
  readonly ledger?: BlobLedger | undefined;
  readonly store?: BlobStore | undefined;
  /** Downloads, and apart from them uploads, at the same time. */
  readonly concurrency: number;
  /** Further tries when the content that came is wrong. */
  readonly retries: number;
  readonly onWarning: (message: string) => void;
  /** Milliseconds of any clock. */
  readonly now?: () => number;
}

export interface BlobFilesStats {
  /** Completed. */
  readonly downloads: number;
  readonly downloadedBytes: number;
  readonly downloadMs: number;
  readonly uploads: number;
  readonly uploadedBytes: number;
  /** Transfers that ended with an error. */
  readonly failures: number;
  /** Times that what came was not the content, and was thrown away. */
  readonly wrongContent: number;
  /** Times that a blob was reported as missing. */
  readonly missing: number;
  readonly garbageRemoved: number;
  readonly repaired: number;
  readonly running: number;
  readonly waiting: number;
}

export interface ManagedBlobFiles extends BlobFiles {
  /**
   * Removes bytes that nothing needs any more, a bounded number per run; what fails stays claimed
   * and comes again. @returns how many. @throws what the ledger throws.
   */
  collectGarbage(): Promise<number>;
  /**
   * Uploads again what others reported as missing and is sound here, a bounded number per run.
   * @returns how many. @throws what the ledger throws.
   */
  repair(): Promise<number>;
  stats(): BlobFilesStats;
  /** Closes the store; transfers under way fail and leave nothing. Idempotent. */
  close(): Promise<void>;
}

export function createBlobFiles(options: BlobFilesOptions): ManagedBlobFiles {
  return new FleetBlobFiles(options);
}

interface Fleet {
  readonly ledger: BlobLedger;
  readonly store: BlobStore;
}

class FleetBlobFiles implements ManagedBlobFiles {
  readonly shared: boolean;
  readonly #local: LocalBlobs;
  readonly #fleet: Fleet | undefined;
  readonly #retries: number;
  readonly #warn: (message: string) => void;
  readonly #now: () => number;
  readonly #downloadSlots: TransferSlots;
  readonly #uploadSlots: TransferSlots;
  /** Under way, by digest. */
  readonly #downloads = new Map<string, Promise<void>>();
  readonly #uploads = new Map<string, Promise<void>>();
  #closed = false;
  readonly #counts = {
    downloads: 0,
    downloadedBytes: 0,
    downloadMs: 0,
    uploads: 0,
    uploadedBytes: 0,
    failures: 0,
    wrongContent: 0,
    missing: 0,
    garbageRemoved: 0,
    repaired: 0,
  };

  constructor(options: BlobFilesOptions) {
    const { ledger, store } = options;
    this.#local = options.local;
    this.#fleet = ledger === undefined || store === undefined ? undefined : { ledger, store };
    this.shared = this.#fleet !== undefined;
    this.#retries = options.retries;
    this.#warn = options.onWarning;
    this.#now = options.now ?? (() => performance.now());
    this.#downloadSlots = new TransferSlots(options.concurrency);
    this.#uploadSlots = new TransferSlots(options.concurrency);
  }

  async ensureLocal(meta: Meta): Promise<LocalBlob> {
    const { digest } = meta;
    const release = this.#local.hold(digest);
    try {
      const path = this.#local.path(digest);
      if (await this.#isHere(meta)) return { path, tier: 'disk', release };
      await this.#fetchOnce(meta);
      return { path, tier: 'registry', release };
    } catch (error) {
      release();
      throw error;
    }
  }

  async ensureShared(digest: string): Promise<void> {
    const fleet = this.#fleet;
    if (fleet === undefined) return;
    await this.#shareOnce(digest, fleet);
  }

  async reject(digest: string): Promise<void> {
    if (this.shared) await this.#local.remove(digest);
    // Alone, the damaged file is all there is: a person may still want it.
  }

  async collectGarbage(): Promise<number> {
    const fleet = this.#fleet;
    if (fleet === undefined || this.#closed) return 0;
    let removed = 0;
    for (const location of await fleet.ledger.claimGarbage(GARBAGE_PER_RUN_MAX)) {
      if (this.#closed) break;
      try {
        await fleet.store.remove(location);
        await fleet.ledger.confirmRemoved(location);
      } catch (error) {
        this.#warn(`The shared blob ${location} could not be removed yet: ${messageOf(error)}`);
        // The next one would fail the same way, each after the store's whole time limit.
        break;
      }
      removed++;
      this.#counts.garbageRemoved++;
    }
    return removed;
  }

  async repair(): Promise<number> {
    const fleet = this.#fleet;
    if (fleet === undefined || this.#closed) return 0;
    const here = (await fleet.ledger.wanted()).filter((digest) => this.#local.has(digest));
    let repaired = 0;
    // In any order, so that replicas which have the same files do not all begin with the same one.
    for (const digest of shuffled(here).slice(0, REPAIRS_PER_RUN_MAX)) {
      if (this.#closed) break;
      try {
        if (!(await this.#shareOnce(digest, fleet))) continue;
      } catch (error) {
        this.#warn(`The shared blob of ${digest} could not be stored again: ${messageOf(error)}`);
        if (codeOf(error) === 'store_corrupt') continue;
        break;
      }
      repaired++;
      this.#counts.repaired++;
    }
    return repaired;
  }

  stats(): BlobFilesStats {
    return {
      ...this.#counts,
      running: this.#downloadSlots.running + this.#uploadSlots.running,
      waiting: this.#downloadSlots.waiting + this.#uploadSlots.waiting,
    };
  }

  async close(): Promise<void> {
    this.#closed = true;
    await this.#fleet?.store.close();
    await Promise.allSettled([...this.#downloads.values(), ...this.#uploads.values()]);
  }

  /** Whether the file is on disk and has its size; what it holds is checked when it is loaded. */
  async #isHere({ digest, fileBytes }: Meta): Promise<boolean> {
    if (this.#downloads.has(digest) || !this.#local.has(digest)) return false;
    const path = this.#local.path(digest);
    const bytes = await sizeOf(path);
    if (bytes === fileBytes) return true;
    const what = bytes === undefined ? 'is gone' : `has ${bytes} bytes, not ${fileBytes}`;
    if (!this.shared) throw new LoramuxError('store_corrupt', `${path} ${what}.`);
    this.#warn(`${path} ${what}; it is fetched again.`);
    return false;
  }

  #fetchOnce(meta: Meta): Promise<void> {
    const fleet = this.#fleet;
    if (fleet === undefined) {
      const path = this.#local.path(meta.digest);
      throw new LoramuxError('store_corrupt', `${path} is missing.`);
    }
    const underWay = this.#downloads.get(meta.digest);
    if (underWay !== undefined) return underWay;
    const started = this.#downloadSlots
      .run(() => this.#counted(() => this.#fetch(meta, fleet)))
      .finally(() => this.#downloads.delete(meta.digest));
    this.#downloads.set(meta.digest, started);
    return started;
  }

  async #fetch(meta: Meta, fleet: Fleet): Promise<void> {
    const { maxBytes } = this.#local.stats();
    if (maxBytes !== undefined && meta.fileBytes > maxBytes) {
      throw new LoramuxError(
        'adapter_too_large',
        `The adapter's file has ${meta.fileBytes} bytes, more than the whole disk cache may hold ` +
          `(${maxBytes}). Raise --disk-cache-mb.`,
      );
    }
    const began = this.#now();
    const keep = this.#local.hold(meta.digest);
    try {
      await this.#fetchWithRetries(meta, fleet);
    } finally {
      keep();
    }
    this.#counts.downloads++;
    this.#counts.downloadedBytes += meta.fileBytes;
    this.#counts.downloadMs += this.#now() - began;
  }

  async #fetchWithRetries(meta: Meta, fleet: Fleet): Promise<void> {
    const { digest } = meta;
    let unavailable = 0;
    let wrong = 0;
    let missingAt: string | undefined;
    for (let moves = 0; moves <= MOVES_MAX; ) {
      const location = await this.#locate(digest, fleet);
      // The ledger still says so: it did not just move.
      if (location === missingAt) break;
      if (missingAt !== undefined) moves++;
      missingAt = undefined;
      const began = this.#now();
      try {
        const found = await this.#download(meta, location, fleet);
        if (found === undefined) return;
        this.#counts.wrongContent++;
        this.#warn(`The shared blob ${location} came ${found} and was thrown away.`);
        if (wrong++ >= this.#retries) missingAt = location;
      } catch (error) {
        const code = codeOf(error);
        if (code === 'blob_missing') {
          this.#warn(`The shared blob ${location} is missing: ${messageOf(error)}`);
          missingAt = location;
        } else if (!this.#isWorthRetry(code, unavailable++, began)) {
          throw error;
        }
        if (this.#closed) throw error;
      }
    }
    throw await this.#reportMissing(digest, missingAt, fleet);
  }

  /** Undefined when the file is here now; otherwise how what came differs. */
  async #download(meta: Meta, location: string, fleet: Fleet): Promise<string | undefined> {
    const staged = this.#local.stage();
    try {
      await fleet.store.download(location, staged, meta.fileBytes);
      const found = await digestFile(staged);
      if (found.bytes !== meta.fileBytes) return `with ${found.bytes} bytes`;
      if (found.digest !== meta.digest) return 'with other content';
      await this.#local.commit(staged, meta.digest);
      return undefined;
    } finally {
      await this.#local.discard(staged).catch(() => undefined);
    }
  }

  async #locate(digest: string, fleet: Fleet): Promise<string> {
    let location: string | undefined;
    try {
      location = await fleet.ledger.locate(digest);
    } catch (error) {
      throw blobUnavailable(`Where the file of ${digest} is: ${messageOf(error)}`, error);
    }
    if (location !== undefined) return location;
    throw blobMissing(
      `The file of generation ${digest} is not in the blob store. It comes back when a server that ` +
        'has it is reachable, or when the adapter is uploaded again.',
    );
  }

  async #reportMissing(
    digest: string,
    location: string | undefined,
    fleet: Fleet,
  ): Promise<LoramuxError> {
    this.#counts.missing++;
    try {
      if (location !== undefined) await fleet.ledger.reportMissing(digest, location);
    } catch (error) {
      this.#warn(`The missing blob ${location} could not be reported: ${messageOf(error)}`);
    }
    return blobMissing(
      `The file of generation ${digest} is missing or damaged in the blob store. Servers that have ` +
        'it were asked to store it again; retry, or upload the adapter again.',
    );
  }

  /** Whether something had to be uploaded for it. */
  async #shareOnce(digest: string, fleet: Fleet): Promise<boolean> {
    const underWay = this.#uploads.get(digest);
    if (underWay !== undefined) return underWay.then(() => false);
    if ((await fleet.ledger.locate(digest)) !== undefined) return false;
    const other = this.#uploads.get(digest);
    if (other !== undefined) return other.then(() => false);
    const started = this.#uploadSlots
      .run(() => this.#counted(() => this.#share(digest, fleet)))
      .finally(() => this.#uploads.delete(digest));
    this.#uploads.set(digest, started);
    await started;
    return true;
  }

  async #share(digest: string, { ledger, store }: Fleet): Promise<void> {
    const release = this.#local.hold(digest);
    try {
      const file = this.#local.path(digest);
      const bytes = await this.#checkLocal(digest, file);
      checkSize(bytes, store.maxBlobBytes);
      const location = await ledger.beginUpload(digest);
      await this.#upload(store, file, location);
      const inForce = await ledger.commitUpload(digest, location);
      this.#counts.uploads++;
      this.#counts.uploadedBytes += bytes;
      // Another server was quicker; garbage collection would remove it as well, but later.
      if (inForce !== location) await store.remove(location).catch(() => undefined);
    } finally {
      release();
    }
  }

  #isWorthRetry(code: string | undefined, retries: number, beganMs: number): boolean {
    const isQuick = this.#now() - beganMs < QUICK_FAILURE_MS;
    return code === 'blob_unavailable' && retries < UNAVAILABLE_RETRIES_MAX && isQuick;
  }

  /** A second try may go to the same location, because it writes the same bytes. */
  async #upload(store: BlobStore, file: string, location: string): Promise<void> {
    for (let unavailable = 0; ; ) {
      const began = this.#now();
      try {
        return await store.upload(file, location);
      } catch (error) {
        const again = this.#isWorthRetry(codeOf(error), unavailable++, began);
        if (this.#closed || !again) throw error;
      }
    }
  }

  /** Nothing wrong may ever be shared under a digest. */
  async #checkLocal(digest: string, file: string): Promise<number> {
    const found = await digestFile(file).catch((error: unknown) => {
      if (!isNoEntry(error)) throw error;
      throw new LoramuxError('store_corrupt', `${file} is missing; upload the adapter again.`);
    });
    if (found.digest === digest) return found.bytes;
    await this.#local.remove(digest);
    throw new LoramuxError(
      'store_corrupt',
      `${file} was damaged on disk and has been removed; upload the adapter again.`,
    );
  }

  async #counted(work: () => Promise<void>): Promise<void> {
    if (this.#closed) throw shuttingDown();
    try {
      await work();
    } catch (error) {
      this.#counts.failures++;
      throw error;
    }
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

function codeOf(error: unknown): string | undefined {
  return error instanceof LoramuxError ? error.code : undefined;
}

function shuffled<T>(items: readonly T[]): T[] {
  return items
    .map((item) => ({ item, order: Math.random() }))
    .sort((a, b) => a.order - b.order)
    .map(({ item }) => item);
}
