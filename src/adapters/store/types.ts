/**
 * The durable registry: names and content-addressed canonical files. Everything is asynchronous and
 * free of file handles, so that names may live elsewhere than on this machine.
 */
import type { DamagedAdapter } from '../service-types.ts';

/** One name as it is stored. */
export interface StoredAdapter {
  readonly name: string;
  readonly digest: string;
  readonly fileBytes: number;
  readonly headerBytes: number;
  /** SHA-256 of the canonical file's length field and header. */
  readonly headerDigest: string;
  readonly rank: number;
  readonly residentBytes: number;
  readonly targetModules: readonly string[];
  readonly source: string;
  /** Seconds since the epoch. */
  readonly createdAt: number;
  /** Digest of the base model's shapes. */
  readonly base: string;
}

export interface StoreContents {
  readonly adapters: readonly StoredAdapter[];
  readonly damaged: readonly DamagedAdapter[];
}

export interface AdapterStore {
  /** Folder for temporary files of uploads, on the same file system as the store. */
  readonly uploadDir: string;
  /** Takes the store for this process, removes leftovers of a crash and checks what is there. */
  open(): Promise<StoreContents>;
  /** A path on local disk for a new canonical file; nothing exists there yet. */
  stage(): string;
  /** Makes a staged file durable under its digest; the staged path is gone afterwards. */
  commitBlob(staged: string, digest: string): Promise<void>;
  /** Removes a staged file if it exists. */
  discard(staged: string): Promise<void>;
  /** Local path of a committed file. */
  localBlob(digest: string): Promise<string>;
  removeBlob(digest: string): Promise<void>;
  /** Writes or replaces a name; durable and atomic. Its blob must be committed. */
  putName(adapter: StoredAdapter): Promise<void>;
  removeName(name: string): Promise<void>;
  /** Gives the store free for another process. Idempotent. */
  close(): Promise<void>;
}
