/** Blobs in a real Redis. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { Redis } from 'ioredis';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { REDIS_CHUNK_BYTES, RedisBlobs } from '../../../../src/adapters/blobs/redis-blobs.ts';
import { TempDir } from '../../../support/adapter-files.ts';
import {
  blobStoreConformance,
  codeOf,
  contentOf,
  sha256,
} from '../../../support/blob-store-conformance.ts';
import { startRedis, type TestRedis } from '../../../support/redis.ts';
import { startTcpProxy, type TcpProxy } from '../../../support/tcp-proxy.ts';

const MIB = 1024 * 1024;
const PREFIX = '{test:v1}';
const temp = new TempDir();
let redis: TestRedis;
/** For what a test does behind the store's back. */
let direct: Redis;
beforeAll(async () => {
  redis = await startRedis();
  direct = new Redis(redis.url);
});
afterAll(async () => {
  direct?.disconnect();
  await redis?.stop();
  temp.remove();
});

function open(
  options: { port?: number; maxBlobBytes?: number; timeoutMs?: number } = {},
  retryMs = 500,
): RedisBlobs {
  const { port = redis.port, maxBlobBytes = 64 * MIB, timeoutMs } = options;
  const connect = () => new Redis(port, '127.0.0.1', { retryStrategy: () => retryMs });
  return new RedisBlobs({ connect, keyPrefix: PREFIX, maxBlobBytes, timeoutMs });
}

const key = (location: string) => `${PREFIX}:blob:${location}`;
const chunk = (location: string, index: number) => `${key(location)}:${index}`;

blobStoreConformance('redis', () => ({
  open: async () => open(),
  async damage(location, how) {
    const first = chunk(location, 0);
    if (how === 'lose') await direct.del(first);
    else if (how === 'truncate') await direct.set(first, Buffer.alloc(10));
    else {
      const byte = await direct.getrangeBuffer(first, 77, 77);
      await direct.setrange(first, 77, Buffer.from([byte[0]! ^ 4]));
    }
  },
  remains: (location) => direct.keys(`${key(location)}*`),
}));

describe('blobs in Redis', () => {
  const stores: RedisBlobs[] = [];
  const proxies: TcpProxy[] = [];
  afterEach(async () => {
    for (const store of stores.splice(0)) await store.close();
    for (const proxy of proxies.splice(0)) await proxy.close();
  });
  const opened = (...args: Parameters<typeof open>) => {
    const store = open(...args);
    stores.push(store);
    return store;
  };
  const proxied = async () => {
    const proxy = await startTcpProxy(redis.port);
    proxies.push(proxy);
    return proxy;
  };
  const content = contentOf(1, 6 * REDIS_CHUNK_BYTES + 9);
  const file = temp.fresh('.in');
  writeFileSync(file, content);
  let count = 0;
  const place = () => `${sha256(content)}/at-${count++}`;

  it('has chunks of almost one MiB beside a manifest, none of which expires', async () => {
    const location = place();
    await opened().upload(file, location);
    expect((await direct.keys(`${key(location)}*`)).sort()).toEqual(
      [key(location), ...Array.from({ length: 7 }, (_, i) => chunk(location, i))].sort(),
    );
    expect(await direct.get(key(location))).toBe(
      `{"version":1,"bytes":${content.length},"chunkBytes":${REDIS_CHUNK_BYTES}}`,
    );
    expect(await direct.strlen(chunk(location, 5))).toBe(REDIS_CHUNK_BYTES);
    expect(await direct.strlen(chunk(location, 6))).toBe(9);
    // What the allocator rounds a chunk up to.
    expect(await direct.memory('USAGE', chunk(location, 5))).toBeLessThan(1.01 * MIB);
    for (const name of await direct.keys(`${key(location)}*`)) {
      expect(await direct.pttl(name)).toBe(-1);
    }
  });

  it.each<[string, (location: string) => Promise<unknown>]>([
    ['manifest is gone', (at) => direct.del(key(at))],
    ['manifest is of another type', (at) => direct.multi().del(key(at)).lpush(key(at), 'x').exec()],
    ['manifest is not JSON', (at) => direct.set(key(at), '{"version":1')],
    ['manifest is of another version', (at) => direct.set(key(at), '{"version":2}')],
    ['manifest has no sizes', (at) => direct.set(key(at), '{"version":1,"bytes":-1}')],
    ['last chunk is gone', (at) => direct.del(chunk(at, 6))],
    ['chunk is short', (at) => direct.set(chunk(at, 2), 'short')],
    ['chunk is long', (at) => direct.append(chunk(at, 6), 'x')],
    [
      'chunk is of another type',
      (at) => direct.multi().del(chunk(at, 3)).hset(chunk(at, 3), 'a', 'b').exec(),
    ],
  ])('takes a blob for missing whose %s, and removes the rest', async (_what, damage) => {
    const store = opened();
    const location = place();
    await store.upload(file, location);
    await damage(location);
    const target = temp.fresh('.out');
    expect(await codeOf(store.download(location, target, content.length))).toBe('blob_missing');
    expect(existsSync(target)).toBe(false);
    await store.remove(location);
    expect(await direct.keys(`${key(location)}*`)).toEqual([]);
  });

  it('removes also what a server with a larger limit stored', async () => {
    const location = place();
    for (let i = 0; i < 600; i++) await direct.set(chunk(location, i), 'x');
    await opened({ maxBlobBytes: MIB }).remove(location);
    expect(await direct.keys(`${key(location)}*`)).toEqual([]);
  });

  it('refuses a blob above its limit before anything is sent', async () => {
    const location = place();
    const store = opened({ maxBlobBytes: 5 * MIB });
    expect(await codeOf(store.upload(file, location))).toBe('adapter_too_large');
    expect(await direct.keys(`${key(location)}*`)).toEqual([]);
  });

  it('leaves an upload that was cut without manifest and with chunks that expire', async () => {
    const proxy = await proxied();
    const store = opened({ port: proxy.port, timeoutMs: 3000 }, 20);
    const location = place();
    proxy.after('client', 3 * MIB, () => proxy.refuse());
    expect(await codeOf(store.upload(file, location))).toBe('blob_unavailable');
    const left = await direct.keys(`${key(location)}*`);
    expect(left.length).toBeGreaterThan(0);
    expect(left).not.toContain(key(location));
    for (const name of left) expect(await direct.pttl(name)).toBeGreaterThan(0);
    proxy.restore();
    // The same store goes on once Redis is back.
    await store.remove(location);
    expect(await direct.keys(`${key(location)}*`)).toEqual([]);
    await store.upload(file, location);
  });

  it('goes on over a lost connection when the next one comes in time', async () => {
    const proxy = await proxied();
    const store = opened({ port: proxy.port }, 20);
    const location = place();
    proxy.after('client', 3 * MIB, () => proxy.cut());
    await store.upload(file, location);
    proxy.after('server', 3 * MIB, () => proxy.cut());
    const target = temp.fresh('.out');
    await store.download(location, target, content.length);
    expect(readFileSync(target).equals(content)).toBe(true);
  });

  it('fails clearly when Redis is silent, and works when it answers again', async () => {
    const proxy = await proxied();
    const store = opened({ port: proxy.port, timeoutMs: 2000 });
    const location = place();
    await store.upload(file, location);
    const target = temp.fresh('.out');
    proxy.after('server', 2 * MIB, () => proxy.stall());
    const download = () => store.download(location, target, content.length);
    await expect(download()).rejects.toThrow(/no answer about a blob for 2000 ms/);
    expect(existsSync(target)).toBe(false);
    await expect(download()).rejects.toThrow(/Redis cannot be reached for blobs/);
    proxy.restore();
    await download();
    expect(readFileSync(target).equals(content)).toBe(true);
  });

  it('has patience with a slow Redis, as long as it answers something', async () => {
    const proxy = await proxied();
    const store = opened({ port: proxy.port, timeoutMs: 5000 });
    proxy.delay(150);
    const locations = [place(), place(), place(), place()];
    await Promise.all(locations.map((location) => store.upload(file, location)));
    await Promise.all(
      locations.map((at) => store.download(at, temp.fresh('.out'), content.length)),
    );
  });

  it('tells a Redis that is away from a blob that is', async () => {
    const other = await startRedis();
    const store = opened({ port: other.port, timeoutMs: 2500 }, 20);
    const location = place();
    await store.upload(file, location);
    await other.kill9();
    const target = temp.fresh('.out');
    const download = () => codeOf(store.download(location, target, content.length));
    try {
      expect(await download()).toBe('blob_unavailable');
      expect(await codeOf(store.remove(location))).toBe('blob_unavailable');
      await other.restart();
      // It came back without its memory.
      expect(await download()).toBe('blob_missing');
    } finally {
      await other.stop();
    }
  });

  it('says so when Redis is full, and when it evicts what is being stored', async () => {
    const full = await startRedis({ args: ['--maxmemory', '4mb'] });
    const evicting = await startRedis({
      args: ['--maxmemory', '4mb', '--maxmemory-policy', 'allkeys-lru'],
    });
    try {
      await expect(opened({ port: full.port }).upload(file, place())).rejects.toThrow(/OOM/);
      await expect(opened({ port: evicting.port }).upload(file, place())).rejects.toThrow(
        /lost a part .* is its memory full/,
      );
    } finally {
      await full.stop();
      await evicting.stop();
    }
  });

  it('ends transfers under way when it is closed', async () => {
    const proxy = await proxied();
    const store = opened({ port: proxy.port });
    const upload = store.upload(file, place());
    upload.catch(() => undefined);
    await new Promise<void>((resolve) => {
      proxy.after('client', MIB, () => {
        proxy.stall();
        resolve();
      });
    });
    await store.close();
    expect(await codeOf(upload)).toBe('blob_unavailable');
  });
});
