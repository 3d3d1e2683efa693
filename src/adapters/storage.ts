/** Where names and files are kept: embedded in the data folder, or shared by a fleet. */
import { createHash } from 'node:crypto';
import path from 'node:path';
import { createBlobFiles, type ManagedBlobFiles } from './blobs/blob-files.ts';
import { createBlobStore } from './blobs/blob-store.ts';
import { createLocalBlobs } from './blobs/local-blobs.ts';
import type { LocalBlobs } from './blobs/types.ts';
import { Periodic } from './periodic.ts';
import { FileRegistry } from './registry/file-registry.ts';
import { redisKeys } from './registry/redis/keys.ts';
import type { GenerationMeta, RegistryBackend } from './registry/types.ts';
import { nodeStoreFs, type StoreFs } from './store/store-fs.ts';

/** Pause between two looks for files that may go or that others miss, milliseconds. */
const UPKEEP_MS_MIN = 1000;
const UPKEEP_MS_MAX = 30_000;
/** Transfers to and from the fleet at the same time, each way. */
const TRANSFERS_MAX = 4;
/** Further tries when what was fetched is not the content it should be. */
const TRANSFER_RETRIES = 2;

export interface Storage {
  readonly backend: RegistryBackend;
  readonly local: LocalBlobs;
  readonly files: ManagedBlobFiles;
  /** Ends what works in the background; after the files and the backend, before the local files. */
  readonly onClose: (() => Promise<void>) | undefined;
}

export interface StorageOptions {
  readonly dataDir: string;
  readonly maxAdapters: number;
  readonly onWarning: (message: string, error: unknown) => void;
}

/** A registry in Redis and how its files travel. */
export interface FleetOptions {
  /** redis:// or rediss://. */
  readonly redisUrl: string;
  readonly prefix: string;
  readonly schemaVersion: number;
  readonly atStart: 'wait' | 'cached';
  /** Longest answer to one command. */
  readonly timeoutMs: number;
  /** Redis replicas that must have a change before it is acknowledged. */
  readonly waitReplicas: number;
  readonly reconcileMs: number;
  readonly replicaTtlMs: number;
  /** redis, s3://BUCKET/PREFIX or file:///FOLDER. */
  readonly blobStore: string;
  /** Largest file that is shared through Redis. */
  readonly redisBlobBytes: number;
  /** How long a shared file stays after its last name. */
  readonly blobGraceMs: number;
  /** Budget of the files on this replica. */
  readonly diskCacheBytes: number;
  readonly s3Endpoint: string | undefined;
  readonly s3PathStyle: boolean;
}

/** One process, one folder. The local files are open when it resolves, the registry is not. */
export async function openEmbedded(options: StorageOptions): Promise<Storage> {
  const { dataDir, maxAdapters, onWarning } = options;
  const root = path.join(dataDir, 'adapters');
  const warn = (message: string) => onWarning(message, undefined);
  const local = createLocalBlobs({ root, onWarning: warn });
  await local.open();
  const backend = new FileRegistry({
    root,
    maxNames: maxAdapters,
    checkBlob: (meta) => checkBlobFile(nodeStoreFs, local.path(meta.digest), meta),
    onWarning,
  });
  const files = createBlobFiles({
    local,
    concurrency: TRANSFERS_MAX,
    retries: TRANSFER_RETRIES,
    onWarning: warn,
  });
  return { backend, local, files, onClose: undefined };
}

/** Several processes on one Redis. The local files are open when it resolves, the registry is not. */
export async function openFleet(options: StorageOptions & FleetOptions): Promise<Storage> {
  const { dataDir, maxAdapters, onWarning } = options;
  const warn = (message: string) => onWarning(message, undefined);
  // Not the folder of an embedded registry, whose files no budget may evict.
  const root = path.join(dataDir, 'cache');
  const local = createLocalBlobs({ root, maxBytes: options.diskCacheBytes, onWarning: warn });
  await local.open();
  try {
    // Here, so that servers without Redis do not wait for its client.
    const { createRedisRegistry } = await import('./registry/redis/redis-registry.ts');
    const registry = createRedisRegistry({
      url: options.redisUrl,
      prefix: options.prefix,
      schemaVersion: options.schemaVersion,
      timeoutMs: options.timeoutMs,
      waitReplicas: options.waitReplicas,
      reconcileMs: options.reconcileMs,
      replicaTtlMs: options.replicaTtlMs,
      maxNames: maxAdapters,
      atStart: options.atStart,
      cacheFile: path.join(root, 'registry.json'),
      sharesBlobs: true,
      blobGraceMs: options.blobGraceMs,
      onWarning,
    });
    const store = await createBlobStore(options.blobStore, {
      redis: {
        connect: () => registry.openBlobConnection(),
        keyPrefix: redisKeys(options.prefix, options.schemaVersion).root,
        maxBlobBytes: options.redisBlobBytes,
      },
      s3: { endpoint: options.s3Endpoint, pathStyle: options.s3PathStyle },
      onWarning: warn,
    });
    const files = createBlobFiles({
      local,
      ledger: registry.ledger,
      store,
      concurrency: TRANSFERS_MAX,
      retries: TRANSFER_RETRIES,
      onWarning: warn,
    });
    const upkeep = new Periodic({
      everyMs: Math.min(UPKEEP_MS_MAX, Math.max(UPKEEP_MS_MIN, options.blobGraceMs / 2)),
      work: async () => {
        if (registry.status().state !== 'ok') return;
        await files.repair();
        await files.collectGarbage();
      },
      onError: (error) => onWarning('the upkeep of shared adapter files failed', error),
    });
    return { backend: registry, local, files, onClose: () => upkeep.close() };
  } catch (error) {
    await local.close();
    throw error;
  }
}

/** The cheap check at start: size and header, byte for byte. The rest is checked at each load. */
export async function checkBlobFile(
  fs: Pick<StoreFs, 'size' | 'readHead'>,
  file: string,
  meta: GenerationMeta,
): Promise<string | undefined> {
  const size = await fs.size(file);
  if (size === undefined) return 'its canonical file is missing';
  if (size !== meta.fileBytes) {
    return `its canonical file has ${size} bytes, not ${meta.fileBytes}`;
  }
  const header = await fs.readHead(file, meta.headerBytes);
  const digest = createHash('sha256').update(header).digest('hex');
  if (digest !== meta.headerDigest) return 'the header of its canonical file is damaged';
  return undefined;
}
