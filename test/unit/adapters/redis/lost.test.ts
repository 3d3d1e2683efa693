/** Redis that was emptied, evicted keys or was written by others: clear words, and the rest works. */
import { describe, expect, it } from 'vitest';
import { testbed } from '../../../support/redis-registry.ts';
import {
  codeOf,
  nameEntry,
  RecordingListener,
  until,
  written,
} from '../../../support/registry-entries.ts';

const bed = testbed();
const a1 = nameEntry('a', 'one');
const a2 = nameEntry('a', 'one', 'two');

describe('Redis that lost or changed what it had', () => {
  it('refuses changes after a flush, goes on serving, and does so for all replicas', async () => {
    const redis = await bed.redis();
    const fleet = await bed.fleet(redis.url);
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
    const redis = await bed.redis();
    const fleet = await bed.fleet(redis.url, { reconcileMs: 60_000 });
    const { registry } = await fleet.open();
    await written(registry, 'a', 0, a1);
    await redis.command('FLUSHALL');
    expect(await codeOf(registry.write('a', 1, a2))).toBe('registry_lost');
    await until('lost', () => registry.status().state === 'lost');
    expect(await redis.command('DBSIZE')).toBe('0');
  });

  it('comes back by itself when the registry is back', async () => {
    const redis = await bed.redis();
    const fleet = await bed.fleet(redis.url);
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
    const redis = await bed.redis();
    const fleet = await bed.fleet(redis.url);
    const { registry } = await fleet.open();
    await redis.command('FLUSHALL');
    await registry.reconcile();
    expect(registry.status().state).toBe('ok');
    await written(registry, 'a', 0, a1);
  });

  it.each(['evicted', 'of another type'])('is lost when the index is %s', async (how) => {
    const redis = await bed.redis();
    const fleet = await bed.fleet(redis.url);
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
    const redis = await bed.redis();
    const fleet = await bed.fleet(redis.url);
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
    const redis = await bed.redis();
    const fleet = await bed.fleet(redis.url);
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
    const redis = await bed.redis();
    const fleet = await bed.fleet(redis.url);
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

  it('hears that another replica put back what it had found damaged', async () => {
    const redis = await bed.redis();
    const fleet = await bed.fleet(redis.url);
    const { registry: knows } = await fleet.open({ reconcileMs: 60_000 });
    await written(knows, 'a', 0, a1);
    await redis.command('DEL', `${knows.keyRoot}:name:a`);
    const { listener } = await fleet.open({ reconcileMs: 20 });
    expect([...listener.damaged.keys()]).toEqual(['a']);
    await knows.reconcile();
    await until('it is healthy here too', () => listener.damaged.size === 0);
    expect(listener.entries.get('a')?.entry).toEqual(a1);
  });

  it('reports a name whose key another program wrote, and works for the others', async () => {
    const redis = await bed.redis();
    const fleet = await bed.fleet(redis.url);
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
    const redis = await bed.redis();
    const fleet = await bed.fleet(redis.url);
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
      const redis = await bed.redis();
      const fleet = await bed.fleet(redis.url);
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
