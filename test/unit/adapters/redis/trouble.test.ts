/** Redis that is away, slow, killed or closed to us: nothing acknowledged is lost. */
import { describe, expect, it } from 'vitest';
import { freePort } from '../../../support/redis.ts';
import { loopbackUrl, provideBlobs, testbed } from '../../../support/redis-registry.ts';
import {
  codeOf,
  nameEntry,
  RecordingListener,
  replicaInfo,
  until,
  written,
} from '../../../support/registry-entries.ts';

const bed = testbed();
const a1 = nameEntry('a', 'one');
const a2 = nameEntry('a', 'one', 'two');

describe('Redis away at start', () => {
  it('waits, says why, and begins when Redis comes', async () => {
    const port = await freePort();
    const fleet = await bed.fleet(loopbackUrl(port), { timeoutMs: 2000 });
    const { registry } = fleet.create();
    const listener = new RecordingListener();
    await registry.open(listener);
    expect(registry.status()).toMatchObject({ kind: 'redis', state: 'connecting' });
    expect(registry.status().reason).toContain(`127.0.0.1:${port}`);
    expect(listener.snapshots).toEqual([]);
    expect(await codeOf(registry.read('a'))).toBe('registry_unavailable');
    expect(await codeOf(registry.write('a', 0, a1))).toBe('registry_unavailable');
    expect(await codeOf(registry.replicas())).toBe('registry_unavailable');
    await bed.redis({ port });
    await until('the first reading', () => listener.snapshots.length > 0);
    expect(registry.status().state).toBe('ok');
    await written(registry, 'a', 0, a1);
  });

  it('serves what the cache file has, and goes on from there', async () => {
    const redis = await bed.redis({ appendfsync: 'always' });
    const fleet = await bed.fleet(redis.url, { timeoutMs: 2000 });
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
    const redis = await bed.redis({ appendfsync: 'always' });
    const fleet = await bed.fleet(redis.url, { timeoutMs: 2000 });
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
    const redis = await bed.redis();
    const fleet = await bed.fleet(redis.url);
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
    const redis = await bed.redis();
    const fleet = await bed.fleet(redis.url);
    const { registry: first } = await fleet.open();
    await written(first, 'a', 0, a1);
    await redis.command('HSET', `${first.keyRoot}:meta`, 'schema', '2');
    const { registry } = fleet.create();
    const error = await registry.open(new RecordingListener()).catch((e: Error) => e);
    expect(error).toMatchObject({ code: 'config_invalid' });
    expect((error as Error).message).toContain('schema version 2');
  });
});

describe('access rules', () => {
  it('are said when they keep the server out, without the password', async () => {
    const redis = await bed.redis();
    await redis.command('ACL', 'SETUSER', 'me', 'on', '>right', '~*', '&*', '+@all');
    const fleet = await bed.fleet(`redis://me:wrong-one@127.0.0.1:${redis.port}`, {
      timeoutMs: 300,
    });
    const { registry } = fleet.create();
    await registry.open(new RecordingListener());
    await until('the reason', () => registry.status().reason?.includes('WRONGPASS') === true);
    expect(registry.status().state).toBe('connecting');
    expect(registry.status().reason).not.toContain('wrong-one');
  });

  it('may be as narrow as the keys and the channel of the deployment', async () => {
    const redis = await bed.redis();
    const rules = '~{narrow:v1}:* &{narrow:v1}:changes -@all +@read +@write +@scripting +@pubsub';
    const more = '+@connection +time +publish -@dangerous +wait';
    const words = `${rules} ${more}`.split(' ');
    await redis.command('ACL', 'SETUSER', 'narrow', 'on', '>pw', ...words);
    const fleet = await bed.fleet(`redis://narrow:pw@127.0.0.1:${redis.port}`, {
      prefix: 'narrow',
      sharesBlobs: true,
      blobGraceMs: 0,
      reconcileMs: 3_600_000,
    });
    const one = await fleet.open();
    const two = await fleet.open();
    const { registry } = one;
    await provideBlobs(registry, [a1.current, a2.current]);
    await written(registry, 'a', 0, a1);
    await until('a notice', () => two.listener.entries.has('a'));
    await written(registry, 'a', 1, a2);
    await written(registry, 'a', 2, undefined);
    await registry.reconcile();
    await registry.announce(replicaInfo('one'));
    expect((await two.registry.replicas()).map(({ id }) => id)).toEqual(['one']);
    expect((await registry.ledger.claimGarbage(10)).length).toBe(2);
    expect(await registry.ledger.wanted()).toEqual([]);
    expect(registry.status()).toMatchObject({ state: 'ok', errors: 0 });
    // Elsewhere it may do nothing, and says so.
    const { registry: elsewhere } = fleet.create({ prefix: 'other', timeoutMs: 300 });
    await elsewhere.open(new RecordingListener());
    await until('the reason', () => elsewhere.status().reason?.includes('NOPERM') === true);
  });
});

describe('Redis lost while running', () => {
  it('goes on with what is known, refuses changes, and is whole again after a restart', async () => {
    const redis = await bed.redis({ appendfsync: 'always' });
    const fleet = await bed.fleet(redis.url);
    const { registry, listener } = await fleet.open();
    const version = await written(registry, 'a', 0, a1);
    await redis.kill9();
    await until('degraded', () => registry.status().state === 'degraded');
    expect(registry.status().reason).toMatch(/(cannot reach|connection to) Redis at 127\.0\.0\.1/);
    expect(listener.entries.has('a')).toBe(true);
    expect(await codeOf(registry.write('a', version.revision, a2))).toBe('registry_unavailable');
    await redis.restart();
    await until('ok', () => registry.status().state === 'ok');
    expect((await registry.read('a'))?.entry).toEqual(a1);
    await written(registry, 'a', version.revision, a2);
    expect(registry.status().errors).toBeGreaterThan(0);
  });

  it('loses no acknowledged change when Redis is killed again and again (appendfsync always)', async () => {
    const redis = await bed.redis({ appendfsync: 'always' });
    const fleet = await bed.fleet(redis.url);
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
    const redis = await bed.redis();
    const proxy = await bed.proxy(redis.port);
    const fleet = await bed.fleet(loopbackUrl(proxy.port), { timeoutMs: 2000 });
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
    const redis = await bed.redis();
    const proxy = await bed.proxy(redis.port);
    // No periodic reading: the write would wait for one that gets no answer.
    const fleet = await bed.fleet(loopbackUrl(proxy.port), {
      timeoutMs: 20_000,
      reconcileMs: 3_600_000,
    });
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
    const redis = await bed.redis();
    const proxy = await bed.proxy(redis.port);
    const fleet = await bed.fleet(loopbackUrl(proxy.port), {
      timeoutMs: 2000,
      reconcileMs: 3_600_000,
    });
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
    const redis = await bed.redis();
    const proxy = await bed.proxy(redis.port);
    const fleet = await bed.fleet(loopbackUrl(proxy.port), { timeoutMs: 2000 });
    const { registry } = await fleet.open();
    proxy.delay(40);
    await written(registry, 'a', 0, a1);
    expect(registry.status().state).toBe('ok');
    proxy.delay(3000);
    await until('degraded', () => registry.status().state === 'degraded');
    proxy.restore();
    proxy.cut();
    await until('ok', () => registry.status().state === 'ok');
    expect((await registry.read('a'))?.entry).toEqual(a1);
  });

  it('waits for a Redis that hangs', async () => {
    const redis = await bed.redis();
    const fleet = await bed.fleet(redis.url, { timeoutMs: 2000 });
    const { registry } = await fleet.open();
    redis.pause();
    await until('degraded', () => registry.status().state === 'degraded');
    redis.resume();
    await until('ok', () => registry.status().state === 'ok');
    expect(await registry.read('a')).toBeUndefined();
  });

  it('runs its scripts after Redis forgot them', async () => {
    const redis = await bed.redis();
    const fleet = await bed.fleet(redis.url);
    const { registry } = await fleet.open();
    await written(registry, 'a', 0, a1);
    await redis.command('SCRIPT', 'FLUSH');
    await written(registry, 'a', 1, a2);
    await registry.reconcile();
    expect(registry.status().errors).toBe(0);
  });
});

describe('deployments on one Redis', () => {
  it('never meet when their prefixes differ', async () => {
    const redis = await bed.redis();
    const fleet = await bed.fleet(redis.url);
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
    const fleet = await bed.fleet('redis://127.0.0.1:1');
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
