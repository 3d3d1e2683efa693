/** Redis registries for tests: several backends on one real Redis, closed after each test. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach } from 'vitest';
import {
  createRedisRegistry,
  type RedisRegistry,
  type RedisRegistryOptions,
} from '../../src/adapters/registry/redis/redis-registry.ts';
import { type RedisOptions, startRedis, type TestRedis } from './redis.ts';
import { RecordingListener, until } from './registry-entries.ts';
import { startTcpProxy, type TcpProxy } from './tcp-proxy.ts';

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
      timeoutMs: 20_000,
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

export interface Testbed {
  redis(options?: RedisOptions): Promise<TestRedis>;
  fleet(url: string, common?: Partial<RedisRegistryOptions>): Promise<RegistryFleet>;
  proxy(targetPort: number): Promise<TcpProxy>;
}

/** Makes what tests of one file need and ends it after each of them, the newest first. */
export function testbed(): Testbed {
  const closers: (() => Promise<void>)[] = [];
  afterEach(async () => {
    for (const close of closers.splice(0).reverse()) await close();
  });
  return {
    async redis(options) {
      const redis = await startRedis(options);
      closers.push(() => redis.stop());
      return redis;
    },
    async fleet(url, common) {
      const fleet = await registryFleet(url, common);
      closers.push(() => fleet.close());
      return fleet;
    },
    async proxy(targetPort) {
      const proxy = await startTcpProxy(targetPort);
      closers.push(() => proxy.close());
      return proxy;
    },
  };
}

export const loopbackUrl = (port: number): string => `redis://127.0.0.1:${port}`;
