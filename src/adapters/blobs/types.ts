/** Canonical files: on local disk always, and for a fleet also where every replica can fetch them. */
import type { GenerationMeta } from '../registry/types.ts';

/** Content-addressed files of this process below one folder. */
export interface LocalBlobs {
  /** Absolute folder for temporary files of uploads; emptied at `open`. */
  readonly uploadDir: string;
  /** Takes the folder for this process, empties temporary folders, lists what is there. */
  open(): Promise<void>;
  /** A path for a new canonical file; nothing exists there yet. */
  stage(): string;
  /** Makes a staged file durable under its digest; the staged path is gone afterwards. */
  commit(staged: string, digest: string): Promise<void>;
  /** Removes a staged file if it exists. */
  discard(staged: string): Promise<void>;
  has(digest: string): boolean;
  /** Where the file of a digest is or would be. */
  path(digest: string): string;
  /** Keeps a file from being evicted for the budget until the returned function is called. */
  hold(digest: string): () => void;
  remove(digest: string): Promise<void>;
  /** Removes every file whose digest is not needed. */
  retainOnly(needed: ReadonlySet<string>): Promise<void>;
  stats(): LocalBlobStats;
  /** Gives the folder free. Idempotent. */
  close(): Promise<void>;
}

export interface LocalBlobStats {
  readonly files: number;
  readonly bytes: number;
  /** Undefined: no budget, nothing is ever evicted. */
  readonly maxBytes: number | undefined;
  readonly evictions: number;
}

/** Where the bytes of shared blobs live. Locations are chosen by the ledger and never reused. */
export interface BlobStore {
  readonly kind: 'redis' | 's3' | 'directory';
  readonly maxBlobBytes: number;
  /** @throws LoramuxError blob_unavailable; what was written then is removed by garbage collection. */
  upload(file: string, location: string): Promise<void>;
  /**
   * Writes the blob to a new file.
   * @throws LoramuxError blob_missing when it is certainly not there (or is incomplete),
   *   blob_unavailable when that cannot be known.
   */
  download(location: string, target: string, fileBytes: number): Promise<void>;
  /** Nothing when it is not there. */
  remove(location: string): Promise<void>;
  close(): Promise<void>;
}

/**
 * Which blob is where; kept with the registry, so that a write of a name can check atomically that
 * its blobs exist, and so that nothing leaks: uploads are recorded before they begin.
 */
export interface BlobLedger {
  /** Location of a committed blob. */
  locate(digest: string): Promise<string | undefined>;
  /** A new location, `<digest>/<unique>`, recorded as begun; given up when not committed in time. */
  beginUpload(digest: string): Promise<string>;
  /** Makes it the blob of the digest; returns the location in force (another upload may have won). */
  commitUpload(digest: string, location: string): Promise<string>;
  /** The blob at this location is missing or wrong: forget it and list the digest as wanted. */
  reportMissing(digest: string, location: string): Promise<void>;
  /** Digests that names keep and whose blob was reported missing. */
  wanted(): Promise<readonly string[]>;
  /** Takes locations that may be deleted: unreferenced for the grace time, lost races, given up. */
  claimGarbage(max: number): Promise<readonly string[]>;
  /** The bytes of a claimed location are gone. */
  confirmRemoved(location: string): Promise<void>;
}

export type BlobTier = 'disk' | 'registry';

export interface LocalBlob {
  readonly path: string;
  /** Where it came from for this call. */
  readonly tier: BlobTier;
  /** Gives back the guarantee that the file stays. Idempotent. */
  readonly release: () => void;
}

/** What loading needs: the file of a generation, fetched when it is not here. */
export interface BlobFiles {
  /**
   * Concurrent calls for one digest share a transfer; the digest is checked after it.
   * @throws LoramuxError blob_missing, blob_unavailable, store_corrupt.
   */
  ensureLocal(meta: GenerationMeta): Promise<LocalBlob>;
  /** Makes the local file of a digest available to the fleet, if there is a fleet. */
  ensureShared(digest: string): Promise<void>;
  /** The local file is damaged: remove it, so that the next `ensureLocal` fetches it again. */
  reject(digest: string): Promise<void>;
  /** True when a removed local file can be fetched again. */
  readonly shared: boolean;
}
