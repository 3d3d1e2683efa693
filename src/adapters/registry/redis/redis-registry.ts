/** The registry of a fleet: names in one Redis, known to every replica within a moment. */
import type { Redis } from 'ioredis';
import { LoramuxError } from '../../../errors.ts';
import type { BlobLedger } from '../../blobs/types.ts';
import { SnapshotFile } from '../snapshot-file.ts';
import type {
  NameEntry,
  RegistryBackend,
  RegistryListener,
  RegistryStatus,
  ReplicaInfo,
  VersionedEntry,
  WriteResult,
} from '../types.ts';
import { RedisBlobLedger } from './blob-ledger.ts';
import { isDamaged, Unusable } from './decode.ts';
import { redisWarnings } from './health.ts';
import { type RedisKeys, redisKeys } from './keys.ts';
import { RedisFailure, RedisLink } from './link.ts';
import { RegistryReader } from './reader.ts';
import { ReplicaDirectory } from './replica-directory.ts';
import { StatusBoard } from './status-board.ts';
import { RegistrySync } from './sync.ts';
import { KnownRegistry } from './view.ts';
import { RegistryWriter, WRITE_WINDOW_FACTOR, type WriteOutcome } from './writer.ts';

/** Writes that wait for others to end; more are refused. */
export const MAX_PENDING_WRITES = 1024;
/** Every so many periodic readings Redis is asked again how it is configured. */
const HEALTH_EVERY = 150;
const UPLOAD_TTL_MS = 3_600_000;
const BLOB_GRACE_MS = 300_000;

export interface RedisRegistryOptions {
  /** redis:// or rediss://, with credentials and database number where needed. */
  readonly url: string;
  readonly prefix: string;
  readonly schemaVersion: number;
  /** Longest answer to one command, milliseconds. */
  readonly timeoutMs: number;
  /** Redis replicas that must have a change before it is acknowledged. */
  readonly waitReplicas: number;
  readonly reconcileMs: number;
  readonly replicaTtlMs: number;
  readonly maxNames: number;
  /** Redis away at start: `connecting` until it comes, or what the cache file has meanwhile. */
  readonly atStart: 'wait' | 'cached';
  /** Where the last reading is kept on disk. */
  readonly cacheFile: string;
  /** The blobs of an entry must be committed in the ledger before it is written. */
  readonly sharesBlobs: boolean;
  /** How long a blob stays after its last reference, milliseconds. */
  readonly blobGraceMs?: number;
  /** How long the upload of a blob may take, milliseconds. */
  readonly uploadTtlMs?: number;
  /** Milliseconds since the epoch. */
  readonly now?: () => number;
  readonly onWarning: (message: string, error?: unknown) => void;
}

/** @throws LoramuxError config_invalid for a bad URL or prefix. */
export function createRedisRegistry(options: RedisRegistryOptions): RedisRegistry {
  return new RedisRegistry(options);
}

export class RedisRegistry implements RegistryBackend {
  readonly kind = 'redis';
  readonly ledger: BlobLedger;
  readonly #options: RedisRegistryOptions;
  readonly #keys: RedisKeys;
  readonly #link: RedisLink;
  readonly #known = new KnownRegistry();
  readonly #reader: RegistryReader;
  readonly #writer: RegistryWriter;
  readonly #directory: ReplicaDirectory;
  readonly #file: SnapshotFile;
  readonly #now: () => number;
  #board: StatusBoard;
  #sync: RegistrySync | undefined;
  #pendingWrites = 0;
  #rounds = 0;
  #healthWarnings: readonly string[] = [];
  #closing: Promise<void> | undefined;

  constructor(options: RedisRegistryOptions) {
    const { url, prefix, schemaVersion, timeoutMs, waitReplicas, onWarning } = options;
    this.#options = options;
    this.#now = options.now ?? Date.now;
    this.#keys = redisKeys(prefix, schemaVersion);
    const keys = this.#keys;
    const separateWriter = waitReplicas > 0;
    const link = new RedisLink({ url, timeoutMs, separateWriter, channel: keys.channel });
    this.#link = link;
    this.#reader = new RegistryReader(link, keys, this.#known, onWarning);
    this.#writer = new RegistryWriter({ ...options, link, keys });
    this.#directory = new ReplicaDirectory(link, keys, { ttlMs: options.replicaTtlMs, onWarning });
    this.#file = new SnapshotFile({ file: options.cacheFile, onWarning });
    this.#board = this.#newBoard(() => undefined);
    this.ledger = new RedisBlobLedger({
      link,
      keys,
      timeoutMs,
      graceMs: options.blobGraceMs ?? BLOB_GRACE_MS,
      uploadTtlMs: options.uploadTtlMs ?? UPLOAD_TTL_MS,
      sharesBlobs: options.sharesBlobs,
      registryId: () => this.#registryId(),
      toError: (error) => this.#toError(error),
      onWarning,
    });
  }

  /**
   * Waits as long as one command may take for the first reading; then goes on in the background.
   * @throws LoramuxError config_invalid when Redis holds a registry of another schema version.
   */
  async open(listener: RegistryListener): Promise<void> {
    if (this.#sync !== undefined || this.#closing !== undefined) {
      throw new LoramuxError('internal_error', 'the registry was opened before');
    }
    const cached = await this.#file.load();
    if (this.#closing !== undefined) throw unavailable('it is closed');
    let settled!: () => void;
    const firstReading = new Promise<void>((resolve) => {
      settled = resolve;
    });
    this.#board = this.#newBoard((status) => {
      if (status.state !== 'connecting') settled();
      listener.onStatus(status);
    });
    const sync = this.#newSync(listener, cached?.id);
    this.#sync = sync;
    this.#link.start({
      onUp: () => {
        sync.request('complete');
        void this.#checkHealth();
      },
      onDown: (reason) => this.#board.away(reason),
      onNotice: (message) => {
        const [id = '', revision = ''] = message.split(' ');
        sync.noticed(id, Number(revision));
      },
      onNoticesUp: () => {
        sync.request('delta');
        this.#showWarnings();
      },
    });
    sync.start();
    const timer = setTimeout(settled, this.#options.timeoutMs);
    await firstReading;
    clearTimeout(timer);
    await this.#refuseOtherSchema();
    if (cached !== undefined && this.#options.atStart === 'cached') {
      await sync.alone(async () => this.#serveCached(listener, cached));
    }
  }

  status(): RegistryStatus {
    return this.#board.status();
  }

  async read(name: string): Promise<VersionedEntry | undefined> {
    this.#registryId();
    let found: Awaited<ReturnType<RegistryReader['name']>>;
    try {
      found = await this.#reader.name(name);
    } catch (error) {
      throw this.#toError(error);
    }
    if (found === undefined || !isDamaged(found)) return found;
    this.#known.addProof(found);
    throw new LoramuxError(
      'store_corrupt',
      `The entry of adapter ${JSON.stringify(name)} in Redis is damaged (${found.reason}). ` +
        'Upload the adapter again or remove it.',
    );
  }

  async write(
    name: string,
    expected: number | 'damaged',
    next: NameEntry | undefined,
  ): Promise<WriteResult> {
    this.#registryId();
    if (this.#pendingWrites >= MAX_PENDING_WRITES) {
      throw new LoramuxError(
        'queue_full',
        `${this.#pendingWrites} changes wait for the adapter registry; retry later.`,
      );
    }
    const deadlineMs = performance.now() + WRITE_WINDOW_FACTOR * this.#options.timeoutMs;
    const sync = this.#opened();
    this.#pendingWrites++;
    try {
      // What was accepted before `close` is carried out; `close` waits for it.
      return await sync.whileNotReading(() => this.#write(sync, name, expected, next, deadlineMs));
    } catch (error) {
      throw this.#toError(error);
    } finally {
      this.#pendingWrites--;
    }
  }

  async reconcile(): Promise<void> {
    try {
      await this.#opened().readAll();
    } catch (error) {
      throw this.#toError(error);
    }
  }

  async announce(self: ReplicaInfo): Promise<void> {
    this.#opened();
    try {
      await this.#directory.announce(self);
    } catch (error) {
      throw this.#toError(error);
    }
  }

  async replicas(): Promise<readonly ReplicaInfo[]> {
    this.#opened();
    try {
      return await this.#directory.list();
    } catch (error) {
      throw this.#toError(error);
    }
  }

  /**
   * A further connection for the transfers of blobs, not connected yet and without a time limit per
   * command; ended at the latest by `close`. @throws LoramuxError registry_unavailable after `close`.
   */
  openBlobConnection(): Redis {
    if (this.#closing !== undefined) throw unavailable('it is closed');
    return this.#link.openBlobConnection();
  }

  /** What every key of this deployment begins with. */
  get keyRoot(): string {
    return this.#keys.root;
  }

  close(): Promise<void> {
    this.#closing ??= (async () => {
      await this.#sync?.close();
      // Without it the announcement expires.
      await this.#directory.withdraw().catch(() => undefined);
      this.#link.close();
      await this.#file.flush();
    })();
    return this.#closing;
  }

  #newBoard(onStatus: (status: RegistryStatus) => void): StatusBoard {
    return new StatusBoard(this.#now, () => this.#link.errors, onStatus);
  }

  #newSync(listener: RegistryListener, cachedId: string | undefined): RegistrySync {
    const { schemaVersion, reconcileMs, onWarning } = this.#options;
    return new RegistrySync({
      link: this.#link,
      keys: this.#keys,
      known: this.#known,
      reader: this.#reader,
      board: this.#board,
      listener,
      schemaVersion,
      reconcileMs,
      now: this.#now,
      onWarning,
      onMet: async (id) => {
        if (cachedId !== undefined && cachedId !== id) await this.#setCacheAside(cachedId, id);
      },
      onChanged: () => this.#saveSoon(),
      onRound: () => {
        if (++this.#rounds % HEALTH_EVERY === 0) void this.#checkHealth();
        this.#showWarnings();
      },
    });
  }

  async #write(
    sync: RegistrySync,
    name: string,
    expected: number | 'damaged',
    next: NameEntry | undefined,
    deadlineMs: number,
  ): Promise<WriteResult> {
    const registryId = this.#knownId();
    if (performance.now() >= deadlineMs) {
      throw new LoramuxError(
        'registry_unavailable',
        'The change waited too long for a reading of the registry; nothing was changed. Retry later.',
      );
    }
    const proofOfDamage = this.#known.proofOfDamage(name);
    const order = { registryId, name, expected, next, proofOfDamage, deadlineMs };
    let outcome: WriteOutcome;
    try {
      outcome = await this.#writer.write(order);
    } catch (error) {
      sync.request('delta');
      throw error;
    }
    const { result, confirmedBy } = outcome;
    if (result.status !== 'written') {
      if (result.status === 'conflict') sync.request('delta');
      return result;
    }
    this.#tellWritten(sync, name, next, { ...result, ...outcome });
    if (confirmedBy === undefined) return result;
    throw new LoramuxError(
      'registry_outcome_unknown',
      `The change is made (revision ${result.revision}), but only ${confirmedBy} of ` +
        `${this.#options.waitReplicas} Redis replicas confirmed it in time: a failover may lose it.`,
    );
  }

  /** Listeners know of an own change when its call resolves. */
  #tellWritten(
    sync: RegistrySync,
    name: string,
    next: NameEntry | undefined,
    { revision, changeId, changeIdBefore }: MadeChange,
  ): void {
    const { position } = this.#known;
    if (revision <= position.revision) return;
    const change = {
      changed: next === undefined ? [] : [Object.freeze({ revision, changeId, entry: next })],
      removed: next === undefined ? [{ name, revision }] : [],
      damaged: [],
    };
    if (position.revision === revision - 1 && position.changeId === changeIdBefore) {
      sync.apply({ ...change, position: { revision, changeId } });
      return;
    }
    // Something else was changed in between, perhaps this very name: a reading brings both.
    sync.request('delta');
    const newest = this.#known.entries.get(name)?.revision ?? 0;
    if (revision > newest) sync.apply({ ...change, position });
  }

  /** What the cache has, until Redis can be asked. */
  #serveCached(
    listener: RegistryListener,
    cached: NonNullable<Awaited<ReturnType<SnapshotFile['load']>>>,
  ): void {
    if (this.#board.state !== 'connecting') return;
    const { id, revision, changeId, completeAtMs, entries, damaged } = cached;
    const unproven = { changeId: '', keyType: '', revision: 0 };
    this.#known.id = id;
    this.#known.replace(
      { revision, changeId },
      entries,
      damaged.map((name) => ({ ...unproven, ...name })),
    );
    this.#board.complete(completeAtMs);
    listener.onSnapshot(this.#known.snapshot(), 0);
    const when = new Date(completeAtMs).toISOString();
    const why = this.#board.status().reason ?? this.#link.downReason();
    this.#board.set('degraded', `${why}; serving what was known at ${when}`);
  }

  async #refuseOtherSchema(): Promise<void> {
    const failure = this.#sync?.lastFailure;
    if (!(failure instanceof Unusable) || failure.status !== 'schema') return;
    await this.close();
    throw new LoramuxError('config_invalid', `${capitalised(failure.message)}.`);
  }

  async #setCacheAside(cachedId: string, id: string): Promise<void> {
    const aside = await this.#file.setAside();
    this.#options.onWarning(
      `${capitalised(this.#link.place)} has another adapter registry (${id}) than this server knew ` +
        `before (${cachedId}). What Redis has holds; the old copy is kept as ${aside ?? 'nothing'}.`,
    );
  }

  #saveSoon(): void {
    this.#file.schedule(() => {
      const { id = '', position } = this.#known;
      const { entries, damaged } = this.#known.snapshot();
      const completeAtMs = this.#now() - this.#board.status().lagMs;
      return { id, ...position, completeAtMs, entries, damaged };
    });
  }

  async #checkHealth(): Promise<void> {
    if (!this.#link.isUp) return;
    this.#healthWarnings = await redisWarnings(this.#link.commands);
    this.#showWarnings();
  }

  #showWarnings(): void {
    const warnings = [...this.#healthWarnings];
    if (this.#link.isUp && !this.#link.noticesUp) {
      warnings.push(
        `change notices do not arrive; changes are seen every ${this.#options.reconcileMs} ms`,
      );
    }
    this.#board.warn(warnings.length === 0 ? undefined : warnings.join('; '));
  }

  /** @throws LoramuxError registry_unavailable before `open` and after `close`. */
  #opened(): RegistrySync {
    if (this.#sync !== undefined && this.#closing === undefined) return this.#sync;
    const when = this.#closing === undefined ? 'not open yet' : 'closed';
    throw new LoramuxError('registry_unavailable', `The adapter registry is ${when}.`);
  }

  /** @throws LoramuxError registry_unavailable, registry_lost. */
  #registryId(): string {
    this.#opened();
    return this.#knownId();
  }

  /** @throws as `#registryId`, but not for being closed. */
  #knownId(): string {
    const { state, reason } = this.#board.status();
    if (state === 'lost') throw lost(reason ?? 'it is not the one that was known');
    const { id } = this.#known;
    if (id !== undefined) return id;
    throw unavailable(reason ?? 'it was not read yet');
  }

  #toError(error: unknown): LoramuxError {
    if (error instanceof LoramuxError) return error;
    if (error instanceof RedisFailure) return unavailable(error.message, error);
    if (error instanceof Unusable) {
      if (!error.isLoss) return unavailable(error.message, error);
      if (this.#closing === undefined) this.#sync?.request('complete');
      return lost(error.message, error);
    }
    return new LoramuxError('internal_error', (error as Error).message, { cause: error });
  }
}

interface MadeChange {
  readonly revision: number;
  readonly changeId: string;
  readonly changeIdBefore?: string | undefined;
}

function unavailable(reason: string, cause?: Error): LoramuxError {
  return new LoramuxError(
    'registry_unavailable',
    `The adapter registry cannot be used: ${reason}. Nothing was changed; retry later.`,
    { cause },
  );
}

function lost(reason: string, cause?: Error): LoramuxError {
  return new LoramuxError(
    'registry_lost',
    `Changes are refused, known adapters go on being served: ${reason}.`,
    { cause },
  );
}

function capitalised(text: string): string {
  return text.slice(0, 1).toUpperCase() + text.slice(1);
}
