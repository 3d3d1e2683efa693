/** Redis that is away, slow, restarted, emptied or written by others: nothing acknowledged is lost. */
import { afterEach, describe, expect, it } from 'vitest';
import type { RedisOptions, TestRedis } from '../../../support/redis.ts';
import { freePort, startRedis } from '../../../support/redis.ts';
import { type RegistryFleet, registryFleet } from '../../../support/redis-registry.ts';
import {
  codeOf,
  nameEntry,
  RecordingListener,
  replicaInfo,
  until,
  written,
} from '../../../support/registry-entries.ts';
import { startTcpProxy, type TcpProxy } from '../../../support/tcp-proxy.ts';

const closers: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

async function redisServer(options: RedisOptions = {}): Promise<TestRedis> {
  const redis = await startRedis(options);
  closers.push(() => redis.stop());
  return redis;
}

async function fleetOn(
  url: string,
  common: Parameters<typeof registryFleet>[1] = {},
): Promise<RegistryFleet> {
  const fleet = await registryFleet(url, common);
  closers.push(() => fleet.close());
  return fleet;
}

async function proxyTo(port: number): Promise<TcpProxy> {
  const proxy = await startTcpProxy(port);
  closers.push(() => proxy.close());
  return proxy;
}

const urlOf = (port: number) => `redis://127.0.0.1:${port}`;
const a1 = nameEntry('a', 'one');
const a2 = nameEntry('a', 'one', 'two');

describe('Redis away at start', () => {
  it('waits, says why, and begins when Redis comes', async () => {
    const port = await freePort();
    const fleet = await fleetOn(urlOf(port), { timeoutMs: 300 });
    const { registry } = fleet.create();
    const listener = new RecordingListener();
    await registry.open(listener);
    expect(registry.status()).toMatchObject({ kind: 'redis', state: 'connecting' });
    expect(registry.status().reason).toContain(`127.0.0.1:${port}`);
    expect(listener.snapshots).toEqual([]);
    expect(await codeOf(registry.read('a'))).toBe('registry_unavailable');
    expect(await codeOf(registry.write('a', 0, a1))).toBe('registry_unavailable');
    expect(await codeOf(registry.replicas())).toBe('registry_unavailable');
    await redisServer({ port });
    await until('the first reading', () => listener.snapshots.length > 0);
    expect(registry.status().state).toBe('ok');
    await written(registry, 'a', 0, a1);
  });

  it('serves what the cache file has, and goes on from there', async () => {
    const redis = await redisServer({ appendfsync: 'always' });
    const fleet = await fleetOn(redis.url, { timeoutMs: 300 });
    const cacheFile = `${fleet.dir}/cache`;
    const first = await fleet.open({ cacheFile });
    const version = await written(first.registry, 'a', 0, a1);
    await first.registry.close();
    await redis.kill9();

    const { registry } = fleet.create({ cacheFile, atStart: 'cached' });
    const listener = new RecordingListener();
    await registry.open(listener);
    expect(listener.entries.get('a')).toEqual({ ...version, entry: a1, status: undefined });
    expect(registry.status().state).toBe('degraded');
    expect(registry.status().reason).toMatch(/serving what was known at/);
    expect(registry.status().lagMs).toBeGreaterThan(0);
    expect(await codeOf(registry.write('a', version.revision, a2))).toBe('registry_unavailable');
    await redis.restart();
    await until('ok', () => registry.status().state === 'ok');
    await written(registry, 'a', version.revision, a2);
    expect(listener.entries.get('a')?.entry).toEqual(a2);
  });

  it('waits although it has a cache file, when it is told to wait', async () => {
    const redis = await redisServer({ appendfsync: 'always' });
    const fleet = await fleetOn(redis.url, { timeoutMs: 300 });
    const cacheFile = `${fleet.dir}/cache`;
    const first = await fleet.open({ cacheFile });
    await written(first.registry, 'a', 0, a1);
    await first.registry.close();
    await redis.kill9();
    const { registry } = fleet.create({ cacheFile, atStart: 'wait' });
    const listener = new RecordingListener();
    await registry.open(listener);
    expect(listener.snapshots).toEqual([]);
    expect(registry.status().state).toBe('connecting');
  });

  it('takes what Redis has when it is another registry, and keeps the old copy', async () => {
    const redis = await redisServer();
    const fleet = await fleetOn(redis.url);
    const cacheFile = `${fleet.dir}/cache`;
    const first = await fleet.open({ cacheFile });
    await written(first.registry, 'a', 0, a1);
    await first.registry.close();
    await redis.command('FLUSHALL');
    const { registry, listener, warnings } = await fleet.open({ cacheFile, atStart: 'cached' });
    expect(listener.entries.size).toBe(0);
    expect(registry.status().state).toBe('ok');
    expect(warnings.join()).toContain(`${cacheFile}.bak`);
    await written(registry, 'a', 0, a2);
  });

  it('refuses a registry of another schema version', async () => {
    const redis = await redisServer();
    const fleet = await fleetOn(redis.url);
    const { registry: first } = await fleet.open();
    await written(first, 'a', 0, a1);
    await redis.command('HSET', `${first.keyRoot}:meta`, 'schema', '2');
    const { registry } = fleet.create();
    const error = await registry.open(new RecordingListener()).catch((e: Error) => e);
    expect(error).toMatchObject({ code: 'config_invalid' });
    expect((error as Error).message).toContain('schema version 2');
  });
});

describe('Redis lost while running', () => {
  it('goes on with what is known, refuses changes, and is whole again after a restart', async () => {
    const redis = await redisServer({ appendfsync: 'always' });
    const fleet = await fleetOn(redis.url, { timeoutMs: 500 });
    const { registry, listener } = await fleet.open();
    const version = await written(registry, 'a', 0, a1);
    await redis.kill9();
    await until('degraded', () => registry.status().state === 'degraded');
    expect(registry.status().reason).toContain('cannot reach Redis at 127.0.0.1');
    expect(listener.entries.has('a')).toBe(true);
    expect(await codeOf(registry.write('a', version.revision, a2))).toBe('registry_unavailable');
    await redis.restart();
    await until('ok', () => registry.status().state === 'ok');
    expect((await registry.read('a'))?.entry).toEqual(a1);
    await written(registry, 'a', version.revision, a2);
    expect(registry.status().errors).toBeGreaterThan(0);
  });

  it('loses no acknowledged change when Redis is killed again and again (appendfsync always)', async () => {
    const redis = await redisServer({ appendfsync: 'always' });
    const fleet = await fleetOn(redis.url, { timeoutMs: 1000 });
    const { registry, listener } = await fleet.open();
    const acknowledged = new Map<string, { revision: number; content: number }>();
    const uncertain = new Map<string, number>();
    let stop = false;
    const writer = async (name: string) => {
      for (let content = 1; !stop; content++) {
        const before = acknowledged.get(name)?.revision;
        const entry = nameEntry(name, `content ${content}`);
        try {
          // What was uncertain is read back first, as the message of the error says.
          const found = uncertain.has(name) ? await registry.read(name) : undefined;
          const expected = uncertain.has(name) ? (found?.revision ?? 0) : (before ?? 0);
          const result = await registry.write(name, expected, entry);
          if (result.status !== 'written') throw new Error(`${name}: ${result.status}`);
          acknowledged.set(name, { revision: result.revision, content });
          uncertain.delete(name);
        } catch (error) {
          const { code } = error as { code?: string };
          if (code === 'registry_outcome_unknown') uncertain.set(name, content);
          else if (code !== 'registry_unavailable') throw error;
          await new Promise((resolve) => setTimeout(resolve, 5));
        }
      }
    };
    const writers = ['x', 'y', 'z'].map(writer);
    for (let round = 0; round < 6; round++) {
      const count = acknowledged.get('x')?.content ?? 0;
      await until('progress', () => (acknowledged.get('x')?.content ?? 0) > count + 5);
      await redis.kill9();
      await redis.restart();
    }
    stop = true;
    await Promise.all(writers);
    await until('ok', () => registry.status().state === 'ok');
    const fresh = await fleet.open();
    for (const [name, { revision, content }] of acknowledged) {
      const found = await registry.read(name);
      const allowed = [content, uncertain.get(name)].map(
        (n) => nameEntry(name, `content ${n}`).current,
      );
      expect(allowed, name).toContain(found?.entry.current);
      expect(found?.revision, name).toBeGreaterThanOrEqual(revision);
      expect(fresh.listener.entries.get(name), name).toEqual(found);
      await until(
        `${name} is known`,
        () => listener.entries.get(name)?.revision === found?.revision,
      );
    }
  });

  it('answers within its time when Redis stalls, and recovers', async () => {
    const redis = await redisServer();
    const proxy = await proxyTo(redis.port);
    const fleet = await fleetOn(urlOf(proxy.port), { timeoutMs: 200 });
    const { registry } = await fleet.open();
    const version = await written(registry, 'a', 0, a1);
    proxy.stall();
    const code = await codeOf(registry.write('a', version.revision, a2));
    expect(['registry_outcome_unknown', 'registry_unavailable']).toContain(code);
    await until('degraded', () => registry.status().state === 'degraded');
    proxy.cut();
    proxy.restore();
    await until('ok', () => registry.status().state === 'ok');
    const found = (await registry.read('a'))!;
    await written(registry, 'a', found.revision, nameEntry('a', 'three'));
  });

  it('finds the outcome of a change whose answer was lost, by the same change id', async () => {
    const redis = await redisServer();
    const proxy = await proxyTo(redis.port);
    const fleet = await fleetOn(urlOf(proxy.port), { timeoutMs: 4000 });
    const { registry, listener } = await fleet.open();
    const direct = await fleet.open({ url: redis.url });
    await written(registry, 'a', 0, a1);
    proxy.stall('answers');
    const write = registry.write('a', 1, a2);
    await until('the change', () => direct.listener.entries.get('a')?.revision === 2);
    proxy.cut();
    proxy.restore();
    expect(await write).toMatchObject({ status: 'written', revision: 2 });
    expect(listener.entries.get('a')?.entry).toEqual(a2);
    expect((await registry.read('a'))?.revision).toBe(2);
  });

  it('says that the outcome is unknown when no answer comes at all', async () => {
    const redis = await redisServer();
    const proxy = await proxyTo(redis.port);
    const fleet = await fleetOn(urlOf(proxy.port), { timeoutMs: 150 });
    const { registry, listener } = await fleet.open();
    await written(registry, 'a', 0, a1);
    proxy.stall('answers');
    expect(await codeOf(registry.write('a', 1, a2))).toBe('registry_outcome_unknown');
    proxy.cut();
    proxy.restore();
    await until('the truth', () => listener.entries.get('a')?.revision === 2);
    expect(listener.entries.get('a')?.entry).toEqual(a2);
  });

  it('works with slow answers within the time, and is degraded beyond it', async () => {
    const redis = await redisServer();
    const proxy = await proxyTo(redis.port);
    const fleet = await fleetOn(urlOf(proxy.port), { timeoutMs: 500 });
    const { registry } = await fleet.open();
    proxy.delay(40);
    await written(registry, 'a', 0, a1);
    expect(registry.status().state).toBe('ok');
    proxy.delay(2000);
    await until('degraded', () => registry.status().state === 'degraded');
    proxy.restore();
    proxy.cut();
    await until('ok', () => registry.status().state === 'ok');
    expect((await registry.read('a'))?.entry).toEqual(a1);
  });

  it('waits for a Redis that hangs', async () => {
    const redis = await redisServer();
    const fleet = await fleetOn(redis.url, { timeoutMs: 200 });
    const { registry } = await fleet.open();
    redis.pause();
    await until('degraded', () => registry.status().state === 'degraded');
    redis.resume();
    await until('ok', () => registry.status().state === 'ok');
    expect(await registry.read('a')).toBeUndefined();
  });

  it('runs its scripts after Redis forgot them', async () => {
    const redis = await redisServer();
    const fleet = await fleetOn(redis.url);
    const { registry } = await fleet.open();
    await written(registry, 'a', 0, a1);
    await redis.command('SCRIPT', 'FLUSH');
    await written(registry, 'a', 1, a2);
    await registry.reconcile();
    expect(registry.status().errors).toBe(0);
  });
});

describe('Redis that lost or changed what it had', () => {
  it('refuses changes after a flush, goes on serving, and does so for all replicas', async () => {
    const redis = await redisServer();
    const fleet = await fleetOn(redis.url);
    const one = await fleet.open();
    const two = await fleet.open();
    await written(one.registry, 'a', 0, a1);
    await until('two knows', () => two.listener.entries.has('a'));
    await redis.command('FLUSHALL');
    for (const { registry, listener } of [one, two]) {
      await until('lost', () => registry.status().state === 'lost');
      expect(registry.status().reason).toContain('flushed');
      expect(listener.entries.has('a')).toBe(true);
      expect(await codeOf(registry.write('a', 1, a2))).toBe('registry_lost');
      expect(await codeOf(registry.read('a'))).toBe('registry_lost');
      expect(await codeOf(registry.ledger.claimGarbage(1))).toBe('registry_lost');
    }
    // A server that starts meanwhile makes a new registry; those that run stay away from it.
    const fresh = await fleet.open();
    await written(fresh.registry, 'b', 0, nameEntry('b', 'one'));
    await until('another', () => one.registry.status().reason?.includes('another') === true);
    expect(one.listener.entries.has('a')).toBe(true);
    expect(one.listener.entries.has('b')).toBe(false);
  });

  it('refuses a change at once after a flush that nobody noticed yet', async () => {
    const redis = await redisServer();
    const fleet = await fleetOn(redis.url, { reconcileMs: 60_000 });
    const { registry } = await fleet.open();
    await written(registry, 'a', 0, a1);
    await redis.command('FLUSHALL');
    expect(await codeOf(registry.write('a', 1, a2))).toBe('registry_lost');
    await until('lost', () => registry.status().state === 'lost');
    expect(await redis.command('DBSIZE')).toBe('0');
  });

  it('comes back by itself when the registry is back', async () => {
    const redis = await redisServer();
    const fleet = await fleetOn(redis.url);
    const { registry } = await fleet.open();
    await written(registry, 'a', 0, a1);
    const keys = ['meta', 'index', 'name:a', 'log', 'refs'].map((k) => `${registry.keyRoot}:${k}`);
    for (const key of keys) await redis.command('RENAME', key, `moved-${key}`);
    await until('lost', () => registry.status().state === 'lost');
    for (const key of keys) await redis.command('RENAME', `moved-${key}`, key);
    await until('ok', () => registry.status().state === 'ok');
    await written(registry, 'a', 1, a2);
  });

  it('starts a new registry by itself where nothing was lost', async () => {
    const redis = await redisServer();
    const fleet = await fleetOn(redis.url);
    const { registry } = await fleet.open();
    await redis.command('FLUSHALL');
    await registry.reconcile();
    expect(registry.status().state).toBe('ok');
    await written(registry, 'a', 0, a1);
  });

  it.each(['evicted', 'of another type'])('is lost when the index is %s', async (how) => {
    const redis = await redisServer();
    const fleet = await fleetOn(redis.url);
    const { registry, listener } = await fleet.open();
    await written(registry, 'a', 0, a1);
    const index = `${registry.keyRoot}:index`;
    await redis.command('RENAME', index, 'aside');
    if (how !== 'evicted') await redis.command('SET', index, 'mine');
    expect(await codeOf(registry.write('a', 1, a2))).toBe('registry_lost');
    await until('lost', () => registry.status().state === 'lost');
    expect(registry.status().reason).toContain(index);
    expect(listener.entries.has('a')).toBe(true);
    // A server that starts has nothing to serve, and does not make a new registry of the rest.
    const { registry: fresh } = fleet.create();
    const freshListener = new RecordingListener();
    await fresh.open(freshListener);
    expect(fresh.status().state).toBe('lost');
    expect(freshListener.snapshots).toEqual([]);
    await redis.command('RENAME', 'aside', index);
    await until('ok', () => registry.status().state === 'ok' && fresh.status().state === 'ok');
    expect(freshListener.entries.get('a')?.entry).toEqual(a1);
  });

  it.each(['evicted', 'of another type'])('is lost when the head is %s', async (how) => {
    const redis = await redisServer();
    const fleet = await fleetOn(redis.url);
    const { registry } = await fleet.open();
    await written(registry, 'a', 0, a1);
    const meta = `${registry.keyRoot}:meta`;
    await redis.command('RENAME', meta, 'aside');
    if (how !== 'evicted') await redis.command('SADD', meta, 'mine');
    await until('lost', () => registry.status().state === 'lost');
    expect(registry.status().reason).toContain(meta);
    expect(await codeOf(registry.write('a', 1, a2))).toBe('registry_lost');
    await redis.command('RENAME', 'aside', meta);
    await until('ok', () => registry.status().state === 'ok');
  });

  it('puts back a name whose key was evicted', async () => {
    const redis = await redisServer();
    const fleet = await fleetOn(redis.url);
    const { registry, listener, warnings } = await fleet.open();
    await written(registry, 'a', 0, a1);
    await written(registry, 'b', 0, nameEntry('b', 'one'));
    const key = `${registry.keyRoot}:name:a`;
    await redis.command('DEL', key);
    expect((await registry.read('a'))?.entry).toEqual(a1);
    expect(warnings.join()).toContain('"a"');
    await redis.command('DEL', key);
    await registry.reconcile();
    expect(await redis.command('EXISTS', key)).toBe('1');
    expect(listener.damaged.size).toBe(0);
    await written(registry, 'a', 1, a2);
  });

  it('says that an evicted name is damaged where nobody knows it any more', async () => {
    const redis = await redisServer();
    const fleet = await fleetOn(redis.url);
    const { registry: first } = await fleet.open();
    await written(first, 'a', 0, a1);
    await written(first, 'b', 0, nameEntry('b', 'one'));
    await first.close();
    await redis.command('DEL', `${first.keyRoot}:name:a`);
    const { registry, listener } = await fleet.open();
    expect(listener.damaged.get('a')).toContain('gone from Redis');
    expect([...listener.entries.keys()]).toEqual(['b']);
    expect(await codeOf(registry.read('a'))).toBe('store_corrupt');
    expect(await registry.write('a', 1, a2)).toEqual({ status: 'conflict' });
    await written(registry, 'a', 'damaged', a2);
    expect((await registry.read('a'))?.entry).toEqual(a2);
  });

  it('reports a name whose key another program wrote, and works for the others', async () => {
    const redis = await redisServer();
    const fleet = await fleetOn(redis.url);
    const { registry, listener } = await fleet.open();
    await written(registry, 'a', 0, a1);
    await written(registry, 'b', 0, nameEntry('b', 'one'));
    const key = `${registry.keyRoot}:name:a`;
    await redis.command('DEL', key);
    await redis.command('RPUSH', key, 'mine');
    expect(await codeOf(registry.read('a'))).toBe('store_corrupt');
    await registry.reconcile();
    expect(listener.damaged.get('a')).toContain('holds a list');
    expect(registry.status().state).toBe('ok');
    await written(registry, 'b', 2, nameEntry('b', 'one', 'two'));
    expect(await redis.command('TYPE', key)).toBe('list');
    await written(registry, 'a', 'damaged', undefined);
    expect(await redis.command('EXISTS', key)).toBe('0');
  });

  it('lets an entry that only this version cannot read be replaced', async () => {
    const redis = await redisServer();
    const fleet = await fleetOn(redis.url);
    const { registry } = await fleet.open();
    await written(registry, 'a', 0, a1);
    const key = `${registry.keyRoot}:name:a`;
    // As a newer version would store it: whole and with its checksum, but of another form.
    const lua = `local f = redis.call('HMGET', KEYS[1], 'revision', 'changeId', 'digests')
      redis.call('HSET', KEYS[1], 'entry', ARGV[1], 'checksum', redis.sha1hex(table.concat(
      { 'a', f[1], f[2], f[3], ARGV[1] }, '\\n')))`;
    await redis.command('EVAL', lua, '1', key, '{"name":"a","news":1}');
    await registry.reconcile();
    expect(await codeOf(registry.read('a'))).toBe('store_corrupt');
    await written(registry, 'a', 'damaged', a2);
    expect((await registry.read('a'))?.entry).toEqual(a2);
  });

  it.each(['removed', 'log', 'refs', 'blobs', 'garbage', 'wanted'])(
    'names the helper key %s when another program wrote it',
    async (helper) => {
      const redis = await redisServer();
      const fleet = await fleetOn(redis.url);
      const { registry, listener } = await fleet.open();
      await written(registry, 'a', 0, a1);
      const key = `${registry.keyRoot}:${helper}`;
      await redis.command('SET', key, 'mine');
      const error = await registry.write('a', 1, a2).catch((e: Error) => e);
      expect(error).toMatchObject({ code: 'registry_unavailable' });
      expect((error as Error).message).toContain(key);
      expect(listener.entries.has('a')).toBe(true);
      await redis.command('DEL', key);
      await until('ok', () => registry.status().state === 'ok');
      await written(registry, 'a', 1, a2);
      await registry.reconcile();
    },
  );
});

describe('deployments on one Redis', () => {
  it('never meet when their prefixes differ', async () => {
    const redis = await redisServer();
    const fleet = await fleetOn(redis.url);
    const one = await fleet.open({ prefix: 'p' });
    const two = await fleet.open({ prefix: 'p:v1' });
    await written(one.registry, 'a', 0, a1);
    await written(two.registry, 'a', 0, a2);
    await one.registry.announce(replicaInfo('one'));
    expect(await two.registry.replicas()).toEqual([]);
    for (const { registry } of [one, two]) await registry.reconcile();
    expect((await one.registry.read('a'))?.entry).toEqual(a1);
    expect((await two.registry.read('a'))?.entry).toEqual(a2);
    expect(two.registry.status().events + one.registry.status().events).toBeLessThanOrEqual(2);
    const keys = (await redis.command('KEYS', '*')).match(/\{[^\r]*/g)!;
    expect(keys.every((key) => /^\{(p|p:v1):v1\}:/.test(key))).toBe(true);
  });

  it('refuses prefixes and addresses that cannot work', async () => {
    const fleet = await fleetOn('redis://127.0.0.1:1');
    for (const prefix of ['a{b', 'a}b', '', 'a b', 'ä', 'x'.repeat(65)]) {
      expect(() => fleet.create({ prefix })).toThrow(/prefix/);
    }
    for (const url of ['http://x', 'localhost:6379', 'redis:/', 'redis://h/x', '']) {
      expect(() => fleet.create({ url }), url).toThrow(/redis:\/\/HOST/);
    }
    const secret = () => fleet.create({ url: 'http://user:secret@host' });
    expect(secret).toThrow(expect.not.stringContaining('secret') as unknown as string);
  });
});
