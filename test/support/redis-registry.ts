/** Redis registries for tests: several backends on one real Redis, closed together. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import {
  createRedisRegistry,
  type RedisRegistry,
  type RedisRegistryOptions,
} from '../../src/adapters/registry/redis/redis-registry.ts';
import { RecordingListener, until } from './registry-entries.ts';

export interface OpenedRegistry {
  readonly registry: RedisRegistry;
  readonly listener: RecordingListener;
  readonly warnings: readonly string[];
}

export interface RegistryFleet {
  /** Folder of the cache files. */
  readonly dir: string;
  /** Not opened yet. */
  create(overrides?: Partial<RedisRegistryOptions>): Omit<OpenedRegistry, 'listener'>;
  /** Opened; resolves after the first reading. */
  open(overrides?: Partial<RedisRegistryOptions>): Promise<OpenedRegistry>;
  close(): Promise<void>;
}

let counted = 0;

/** @param url of the Redis; options may name another, as that of a proxy. */
export async function registryFleet(
  url: string,
  common: Partial<RedisRegistryOptions> = {},
): Promise<RegistryFleet> {
  const dir = await mkdtemp(path.join(tmpdir(), 'loramux-redis-registry-'));
  const prefix = `test-${process.pid}-${++counted}`;
  const registries: RedisRegistry[] = [];
  const create: RegistryFleet['create'] = (overrides = {}) => {
    const warnings: string[] = [];
    const registry = createRedisRegistry({
      url,
      prefix,
      schemaVersion: 1,
      timeoutMs: 2000,
      waitReplicas: 0,
      reconcileMs: 200,
      replicaTtlMs: 15_000,
      maxNames: 1000,
      atStart: 'wait',
      cacheFile: path.join(dir, `cache-${registries.length}`),
      sharesBlobs: false,
      onWarning: (message) => void warnings.push(message),
      ...common,
      ...overrides,
    });
    registries.push(registry);
    return { registry, warnings };
  };
  return {
    dir,
    create,
    async open(overrides) {
      const created = create(overrides);
      const listener = new RecordingListener();
      await created.registry.open(listener);
      await until('the first reading', () => listener.snapshots.length > 0);
      return { ...created, listener };
    },
    async close() {
      await Promise.all(registries.map((registry) => registry.close()));
      await rm(dir, { recursive: true, force: true });
    },
  };
}

/** Commits blobs under these digests in the ledger, without any bytes. */
export async function provideBlobs(
  registry: RedisRegistry,
  digests: readonly string[],
): Promise<void> {
  for (const digest of digests) {
    if ((await registry.ledger.locate(digest)) !== undefined) continue;
    await registry.ledger.commitUpload(digest, await registry.ledger.beginUpload(digest));
  }
}
