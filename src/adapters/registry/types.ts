/**
 * The durable registry: which names there are and which immutable generations each keeps. Free of
 * files and connections, so that one conformance suite runs on every implementation.
 *
 * A name changes as a whole: read the entry, compute the next one (`entry.ts`, pure), write it with
 * the revision that was read. The write is atomic and durable, or it is refused as a conflict.
 */
import type { DamagedAdapter } from '../service-types.ts';

/** What never changes about a generation: facts of its canonical file. */
export interface GenerationMeta {
  /** SHA-256 of the whole canonical file, lower-case hex. */
  readonly digest: string;
  readonly fileBytes: number;
  readonly headerBytes: number;
  /** SHA-256 of the canonical file's length field and header. */
  readonly headerDigest: string;
  readonly rank: number;
  readonly residentBytes: number;
  readonly targetModules: readonly string[];
  /** It has a chat template of its own; entries of those that have none lack the field. */
  readonly hasChatTemplate?: true | undefined;
  /** Digest of the base model's shapes. */
  readonly base: string;
}

/** A generation as one name keeps it. */
export interface KeptGeneration extends GenerationMeta {
  /** Where it came from: a path, `hf:org/repo@commit`, a URL or `upload`. */
  readonly source: string;
  /** When it was put under this name, seconds since the epoch. */
  readonly createdAt: number;
}

/** A second generation of a name that a part of the requests gets. */
export interface Split {
  readonly digest: string;
  /** Share of the requests, above 0 and below 1. */
  readonly weight: number;
}

/** One name. Immutable; every change makes a new one. */
export interface NameEntry {
  readonly name: string;
  /** Most recently put first; the current one and the split's are always among them. */
  readonly generations: readonly KeptGeneration[];
  /** Digest that the name points to. */
  readonly current: string;
  readonly split: Split | undefined;
  /** Kept resident on every server that has room for it. */
  readonly pinned: boolean;
  /** Seconds since the epoch. */
  readonly createdAt: number;
  readonly updatedAt: number;
}

export interface VersionedEntry {
  /** Grows with every change of the registry; unique within it. At least 1. */
  readonly revision: number;
  /** Random; tells two changes apart that got the same revision before and after a failover. */
  readonly changeId: string;
  readonly entry: NameEntry;
}

export interface RemovedName {
  readonly name: string;
  /** Of the removal. */
  readonly revision: number;
}

/** Changes after a revision. */
export interface RegistryDelta {
  /** Of the newest change known; 0 for a registry that was never changed. */
  readonly revision: number;
  readonly changed: readonly VersionedEntry[];
  readonly removed: readonly RemovedName[];
  readonly damaged: readonly DamagedAdapter[];
}

/** Everything the registry holds. */
export interface RegistrySnapshot {
  readonly revision: number;
  readonly entries: readonly VersionedEntry[];
  readonly damaged: readonly DamagedAdapter[];
}

export type WriteResult =
  | { readonly status: 'written'; readonly revision: number; readonly changeId: string }
  /** The name is at another revision than expected. */
  | { readonly status: 'conflict' }
  /** The entry is new and the registry has its largest number of names. */
  | { readonly status: 'full' }
  /** Blobs that the entry keeps and the registry does not have (any more). */
  | { readonly status: 'blobs_missing'; readonly digests: readonly string[] };

/**
 * `connecting`: not read yet since the start. `ok`. `degraded`: unreachable or too slow; what is
 * known is served. `lost`: reachable, but it is not the registry that was known (another id, or its
 * index is gone): what is known is served, changes are refused.
 */
export type RegistryState = 'connecting' | 'ok' | 'degraded' | 'lost';

export interface RegistryStatus {
  readonly kind: 'file' | 'redis';
  readonly state: RegistryState;
  /** Why it is not ok, for people; or a warning while it is (an eviction policy that loses keys). */
  readonly reason: string | undefined;
  /** Since when it is in this state, milliseconds since the epoch. */
  readonly sinceMs: number;
  /** Milliseconds since the view was last known to be complete; 0 for the file registry. */
  readonly lagMs: number;
  readonly reconciles: number;
  readonly events: number;
  /** Failed commands. */
  readonly errors: number;
}

/** Told what happens to the registry, by this or another process. Must be quick; must not throw. */
export interface RegistryListener {
  /** A complete reading. `before` is the newest revision that was known when it began. */
  onSnapshot(snapshot: RegistrySnapshot, before: number): void;
  onDelta(delta: RegistryDelta): void;
  onStatus(status: RegistryStatus): void;
}

/** One replica of the fleet, as it announces itself. */
export interface ReplicaInfo {
  readonly id: string;
  /** Where clients reach it. */
  readonly url: string;
  readonly version: string;
  readonly model: string;
  /** Milliseconds since the epoch. */
  readonly startedAtMs: number;
  readonly updatedAtMs: number;
  readonly slots: number;
  /** Registry revision that it has applied. */
  readonly revision: number;
  readonly requestsRunning: number;
  readonly requestsWaiting: number;
  readonly adapters: readonly ReplicaAdapter[];
}

export interface ReplicaAdapter {
  readonly generation: string;
  /** Names that lead to it there. */
  readonly names: readonly string[];
  readonly level: 'device' | 'host';
  readonly pinned: boolean;
}

/**
 * Implementations throw LoramuxError registry_unavailable when a call certainly changed nothing,
 * registry_outcome_unknown when it cannot be known, registry_lost in state `lost`.
 */
export interface RegistryBackend {
  readonly kind: 'file' | 'redis';
  /**
   * Starts. The file registry has called `onSnapshot` when it resolves; a remote one may resolve in
   * state `connecting` or with the snapshot of its disk cache, and goes on trying.
   */
  open(listener: RegistryListener): Promise<void>;
  status(): RegistryStatus;
  /**
   * The entry as it is now, not as it is known. Undefined when there is none.
   * @throws LoramuxError store_corrupt when it is there and cannot be read.
   */
  read(name: string): Promise<VersionedEntry | undefined>;
  /**
   * Writes or (next undefined) removes a name, if it is at `expected`: the revision that was read, 0
   * when there must be none, 'damaged' when `read` threw store_corrupt. Durable when it resolves.
   */
  write(
    name: string,
    expected: number | 'damaged',
    next: NameEntry | undefined,
  ): Promise<WriteResult>;
  /** Reads everything again now. For tests and for operators. */
  reconcile(): Promise<void>;
  /** Makes this replica visible to the others until the announcement expires. */
  announce(self: ReplicaInfo): Promise<void>;
  /** Live replicas; only this one for a registry of one process. */
  replicas(): Promise<readonly ReplicaInfo[]>;
  /** Withdraws the announcement. Idempotent. */
  close(): Promise<void>;
}
