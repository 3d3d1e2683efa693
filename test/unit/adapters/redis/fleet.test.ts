/** Several replicas on one Redis: what one changes, the others know; failovers; who is there. */
import { readFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import {
  MAX_REPLICA_BYTES,
  MAX_REPLICAS,
} from '../../../../src/adapters/registry/redis/replica-directory.ts';
import type { TestRedis } from '../../../support/redis.ts';
import { loopbackUrl, testbed } from '../../../support/redis-registry.ts';
import {
  codeOf,
  nameEntry,
  replicaInfo,
  sha256,
  until,
  written,
} from '../../../support/registry-entries.ts';

/** Longer than any test: what is seen before was told by a notice. */
const NEVER_MS = 3_600_000;

const bed = testbed();
const a1 = nameEntry('a', 'one');
const a2 = nameEntry('a', 'one', 'two');

describe('what another replica changes', () => {
  it('is known by a notice, without any periodic reading', async () => {
    const redis = await bed.redis();
    const fleet = await bed.fleet(redis.url, { reconcileMs: NEVER_MS });
    const one = await fleet.open();
    const two = await fleet.open();
    for (let i = 0; i < 20; i++) {
      const { registry } = i % 2 === 0 ? one : two;
      await written(registry, `n${i}`, 0, nameEntry(`n${i}`, 'one'));
      for (const { listener } of [one, two]) {
        await until('the name', () => listener.entries.has(`n${i}`));
      }
    }
    expect(one.registry.status().events).toBeGreaterThan(0);
    await written(one.registry, 'n3', 4, undefined);
    await until('the removal', () => !two.listener.entries.has('n3'));
  });

  it('is known by the periodic reading when notices are lost', async () => {
    const redis = await bed.redis();
    const fleet = await bed.fleet(redis.url, { reconcileMs: 50 });
    const one = await fleet.open();
    // This one may not subscribe, so it never hears a notice.
    await redis.command('ACL', 'SETUSER', 'deaf', 'on', '>pw', '~*', '+@all', 'resetchannels');
    const deaf = await fleet.open({ url: `redis://deaf:pw@127.0.0.1:${redis.port}` });
    await written(one.registry, 'a', 0, a1);
    await until('the name', () => deaf.listener.entries.has('a'));
    await until('the warning', () => deaf.registry.status().reason?.includes('notices') === true);
    expect(deaf.registry.status()).toMatchObject({ state: 'ok', events: 0 });
    await written(one.registry, 'a', 1, undefined);
    await until('the removal', () => !deaf.listener.entries.has('a'));
    // Its own changes are heard by others.
    await written(deaf.registry, 'b', 0, nameEntry('b', 'one'));
    await until('the name', () => one.listener.entries.has('b'));
  });

  it('is known after the subscription was killed', async () => {
    const redis = await bed.redis();
    const fleet = await bed.fleet(redis.url, { reconcileMs: NEVER_MS });
    const one = await fleet.open();
    const two = await fleet.open();
    await redis.command('CLIENT', 'KILL', 'TYPE', 'pubsub');
    await written(one.registry, 'a', 0, a1);
    await until('the name', () => two.listener.entries.has('a'));
    await written(one.registry, 'a', 1, a2);
    await until('the change', () => two.listener.entries.get('a')?.revision === 2);
  });

  it('notices a subscription that is dead without being closed', async () => {
    const redis = await bed.redis();
    const proxy = await bed.proxy(redis.port);
    const fleet = await bed.fleet(redis.url, { reconcileMs: 50, timeoutMs: 3000 });
    const one = await fleet.open({ url: loopbackUrl(proxy.port) });
    const direct = await fleet.open();
    proxy.stall();
    await written(direct.registry, 'a', 0, a1);
    await until('degraded', () => one.registry.status().state === 'degraded');
    // Old connections stay silent for ever; only new ones work.
    proxy.freeze();
    proxy.restore();
    await until('ok', () => one.registry.status().state === 'ok');
    expect(one.listener.entries.has('a')).toBe(true);
    const { events } = one.registry.status();
    let revision = 1;
    await until('a notice', async () => {
      ({ revision } = await written(direct.registry, 'a', revision, a2));
      return one.registry.status().events > events;
    });
  });

  it('is read in pages, while others change names', async () => {
    const redis = await bed.redis();
    const fleet = await bed.fleet(redis.url, { maxNames: 2000, timeoutMs: 20_000 });
    const one = await fleet.open();
    const count = 700;
    const names = Array.from({ length: count }, (_, i) => `n${i}`);
    await Promise.all(names.map((name) => written(one.registry, name, 0, nameEntry(name, name))));
    // A reading goes on while names at its beginning move to its end or vanish.
    let busy = true;
    const others = (async () => {
      for (let i = 0; busy && i < 300; i++) {
        const name = `n${i}`;
        const { revision } = (await one.registry.read(name))!;
        const next = i % 3 === 0 ? undefined : nameEntry(name, name, 'more');
        await written(one.registry, name, revision, next);
      }
    })();
    const two = await fleet.open();
    for (let i = 0; i < 5; i++) await two.registry.reconcile();
    busy = false;
    await others;
    await two.registry.reconcile();
    expect([...two.listener.entries.keys()].sort()).toEqual(
      [...one.listener.entries.keys()].sort(),
    );
    expect(two.listener.entries).toEqual(one.listener.entries);
  });

  it('is found by a complete reading when removals are forgotten already', async () => {
    const redis = await bed.redis();
    const fleet = await bed.fleet(redis.url, { reconcileMs: NEVER_MS });
    const one = await fleet.open();
    const two = await fleet.open();
    for (const name of ['a', 'b', 'c']) await written(one.registry, name, 0, nameEntry(name, 'x'));
    await until('three', () => two.listener.entries.size === 3);
    await two.registry.close();
    const three = await fleet.open();
    const root = one.registry.keyRoot;
    await redis.command('CLIENT', 'KILL', 'TYPE', 'pubsub');
    await written(one.registry, 'a', 1, undefined);
    await redis.command('DEL', `${root}:removed`, `${root}:log`);
    await redis.command('HSET', `${root}:meta`, 'floor', '4');
    await written(one.registry, 'd', 0, nameEntry('d', 'x'));
    await until('the same', () => three.listener.revision === 5);
    expect([...three.listener.entries.keys()].sort()).toEqual(['b', 'c', 'd']);
  });
});

describe('failover', () => {
  /** A primary, a replica that follows it through a proxy, and a proxy that decides who is asked. */
  async function pair() {
    const primary = await bed.redis({ args: ['--repl-diskless-sync-delay', '0'] });
    const following = await bed.proxy(primary.port);
    const replica = await bed.redis({
      args: ['--replicaof', `127.0.0.1 ${following.port}`, '--repl-diskless-sync-delay', '0'],
    });
    await until('the replica follows', async () =>
      (await replica.command('INFO', 'replication')).includes('master_link_status:up'),
    );
    const proxy = await bed.proxy(primary.port);
    return { primary, replica, proxy, following };
  }

  const caughtUp = (primary: TestRedis, replica: TestRedis) => async () => {
    const offset = (info: string) => /master_repl_offset:(\d+)/.exec(info)?.[1];
    const infos = [primary, replica].map((redis) => redis.command('INFO', 'replication'));
    const [one, two] = await Promise.all(infos);
    return offset(one!) === offset(two!);
  };

  it('that loses a change is believed, and said', async () => {
    const { primary, replica, proxy, following } = await pair();
    const fleet = await bed.fleet(loopbackUrl(proxy.port));
    const { registry, listener, warnings } = await fleet.open();
    await written(registry, 'a', 0, a1);
    await written(registry, 'b', 0, nameEntry('b', 'one'));
    await until('caught up', caughtUp(primary, replica));
    following.stall();
    await written(registry, 'a', 1, a2);
    await written(registry, 'c', 0, nameEntry('c', 'one'));
    proxy.refuse();
    await primary.kill9();
    following.refuse();
    await replica.command('REPLICAOF', 'NO', 'ONE');
    proxy.target(replica.port);
    proxy.restore();
    await until('ok', () => registry.status().state === 'ok');
    expect(listener.entries.get('a')).toMatchObject({ revision: 1, entry: a1 });
    expect([...listener.entries.keys()].sort()).toEqual(['a', 'b']);
    expect(warnings.join()).toContain('lost changes');
    await written(registry, 'a', 1, nameEntry('a', 'three'));
  });

  it('after which revisions are used again does not hide changes', async () => {
    const { primary, replica, proxy, following } = await pair();
    const fleet = await bed.fleet(loopbackUrl(proxy.port));
    const { registry, listener } = await fleet.open();
    await written(registry, 'a', 0, a1);
    await until('caught up', caughtUp(primary, replica));
    following.stall();
    await written(registry, 'a', 1, a2);
    proxy.refuse();
    await primary.kill9();
    following.refuse();
    await replica.command('REPLICAOF', 'NO', 'ONE');
    const other = await fleet.open({ url: replica.url });
    await written(other.registry, 'b', 0, nameEntry('b', 'one'));
    await written(other.registry, 'c', 0, nameEntry('c', 'one'));
    proxy.target(replica.port);
    proxy.restore();
    await until('ok', () => registry.status().state === 'ok');
    expect(listener.entries).toEqual(other.listener.entries);
    expect(listener.entries.get('a')?.entry).toEqual(a1);
  });

  it('on the same connection is noticed: a primary that became a replica', async () => {
    const { primary, replica } = await pair();
    const fleet = await bed.fleet(primary.url, { reconcileMs: 50 });
    const { registry, listener } = await fleet.open();
    await written(registry, 'a', 0, a1);
    await until('caught up', caughtUp(primary, replica));
    await replica.command('REPLICAOF', 'NO', 'ONE');
    await written(registry, 'a', 1, a2);
    const other = await fleet.open({ url: replica.url });
    await written(other.registry, 'b', 0, nameEntry('b', 'one'));
    await primary.command('REPLICAOF', '127.0.0.1', String(replica.port));
    await until('the other history', () => listener.entries.has('b'));
    expect(listener.entries.get('a')?.entry).toEqual(a1);
    expect(await codeOf(registry.write('a', 1, a2))).toBe('registry_unavailable');
  });

  it('can be survived by waiting for replicas', async () => {
    const { primary, replica } = await pair();
    const fleet = await bed.fleet(primary.url, { waitReplicas: 1, timeoutMs: 6000 });
    const { registry, listener } = await fleet.open();
    await written(registry, 'a', 0, a1);
    expect(await replica.command('HGET', `${registry.keyRoot}:meta`, 'revision')).toBe('1');
    await replica.stop();
    const error = await registry.write('a', 1, a2).catch((e: Error) => e);
    expect(error).toMatchObject({ code: 'registry_outcome_unknown' });
    expect((error as Error).message).toContain('0 of 1');
    // The primary has it, so it is known here too.
    expect(listener.entries.get('a')).toMatchObject({ revision: 2, entry: a2 });
    expect((await registry.read('a'))?.revision).toBe(2);
  });
});

describe('who is there', () => {
  it('expires when a replica dies', async () => {
    const redis = await bed.redis();
    const fleet = await bed.fleet(redis.url, { replicaTtlMs: 3000 });
    const one = await fleet.open();
    const two = await fleet.open();
    await one.registry.announce(replicaInfo('one'));
    await two.registry.announce(replicaInfo('two'));
    const ids = async () => (await two.registry.replicas()).map(({ id }) => id);
    expect(await ids()).toEqual(['one', 'two']);
    await until('one expired', async () => {
      await two.registry.announce(replicaInfo('two'));
      return (await ids()).join() === 'two';
    });
  });

  it('has bounds of number and size, and ignores what it cannot read', async () => {
    const redis = await bed.redis();
    const fleet = await bed.fleet(redis.url, { replicaTtlMs: NEVER_MS });
    const { registry, warnings } = await fleet.open();
    const adapters = Array.from({ length: 5000 }, (_, i) => ({
      generation: sha256(String(i)),
      names: [`n${i}`],
      level: 'host' as const,
      pinned: false,
    }));
    await registry.announce(replicaInfo('self', { adapters }));
    const [listed] = await registry.replicas();
    expect(listed?.adapters.length).toBeGreaterThan(1000);
    expect(JSON.stringify(listed).length).toBeLessThanOrEqual(MAX_REPLICA_BYTES);
    expect(warnings.join()).toContain('more resident adapters');
    await registry.announce(replicaInfo('odd'));
    for (const odd of ['no json', '7', 'null', '{"id":"odd"}', '[]']) {
      await redis.command('SET', `${registry.keyRoot}:replica:odd`, odd);
      expect((await registry.replicas()).map(({ id }) => id)).toEqual(['self']);
    }
    for (let i = 0; i < MAX_REPLICAS; i++) await registry.announce(replicaInfo(`r${i}`));
    expect((await registry.replicas()).length).toBe(MAX_REPLICAS - 1);
    expect(warnings.join()).toContain('this one is not listed');
  });
});

describe('what is unsafe about a Redis', () => {
  it('is said in the status, as far as it may be asked', async () => {
    const redis = await bed.redis({
      args: ['--maxmemory', '100mb', '--maxmemory-policy', 'allkeys-lru'],
    });
    const fleet = await bed.fleet(redis.url);
    const { registry } = await fleet.open();
    await until('the warning', () => registry.status().reason?.includes('allkeys-lru') === true);
    expect(registry.status().state).toBe('ok');
    expect(registry.status().reason).toContain('keeps nothing on disk');
    await redis.command('ACL', 'SETUSER', 'mute', 'on', '>pw', '~*', '&*', '+@all', '-info');
    await redis.command('ACL', 'SETUSER', 'mute', '-config');
    const mute = await fleet.open({ url: `redis://mute:pw@127.0.0.1:${redis.port}` });
    await written(mute.registry, 'a', 0, a1);
    // Until notices come, that is said.
    await until('no warning', () => mute.registry.status().reason === undefined);
    expect(mute.registry.status().state).toBe('ok');
  });

  it('is nothing with the configuration that comes with the project', async () => {
    const text = await readFile(new URL('../../../../deploy/redis.conf', import.meta.url), 'utf8');
    const settings = text.split('\n').filter((line) => /^[a-z]/.test(line));
    const args = settings.flatMap((line) => `--${line}`.split(' '));
    const redis = await bed.redis({ args });
    expect(await redis.command('CONFIG', 'GET', 'appendfsync')).toContain('always');
    const fleet = await bed.fleet(redis.url);
    const { registry, listener } = await fleet.open();
    await written(registry, 'a', 0, a1);
    await registry.reconcile();
    await until('no warning', () => registry.status().reason === undefined);
    const reasons = listener.statuses.map(({ reason }) => reason ?? 'change notices');
    expect(reasons.filter((reason) => !reason.startsWith('change notices'))).toEqual([]);
  });

  it('refuses new content when memory is full, and lets names be removed', async () => {
    const redis = await bed.redis({ args: ['--maxmemory-policy', 'noeviction'] });
    const fleet = await bed.fleet(redis.url);
    const { registry } = await fleet.open();
    await written(registry, 'a', 0, a1);
    await redis.command('CONFIG', 'SET', 'maxmemory', '1');
    const error = await registry.write('b', 0, nameEntry('b', 'one')).catch((e: Error) => e);
    expect(error).toMatchObject({ code: 'registry_unavailable' });
    expect((error as Error).message).toContain('OOM');
    expect(await registry.read('b')).toBeUndefined();
    await written(registry, 'a', 1, undefined);
    await registry.reconcile();
    expect(registry.status().state).toBe('ok');
  });
});
