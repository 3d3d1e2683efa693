/** Which shared blob is where: races of uploads, garbage and names, and repair after damage. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type {
  RedisRegistry,
  RedisRegistryOptions,
} from '../../../../src/adapters/registry/redis/redis-registry.ts';
import { Random } from '../../../support/random.ts';
import { startRedis, type TestRedis } from '../../../support/redis.ts';
import { provideBlobs, type RegistryFleet, testbed } from '../../../support/redis-registry.ts';
import { codeOf, nameEntry, sha256, until, written } from '../../../support/registry-entries.ts';

const FOREVER_MS = 3_600_000;

let redis: TestRedis;
const bed = testbed();
beforeAll(async () => {
  redis = await startRedis();
});
afterAll(() => redis.stop());

async function fleetOf(options: Partial<RedisRegistryOptions> = {}): Promise<RegistryFleet> {
  const common = { sharesBlobs: true, blobGraceMs: 0, uploadTtlMs: FOREVER_MS, ...options };
  return bed.fleet(redis.url, common);
}

async function opened(options: Partial<RedisRegistryOptions> = {}): Promise<RedisRegistry> {
  return (await (await fleetOf(options)).open()).registry;
}

const one = sha256('one');
const two = sha256('two');

async function upload({ ledger }: RedisRegistry, digest: string): Promise<string> {
  const location = await ledger.beginUpload(digest);
  expect(await ledger.commitUpload(digest, location)).toBe(location);
  return location;
}

/** All garbage there is, confirmed as removed. */
async function collect({ ledger }: RedisRegistry): Promise<string[]> {
  const all: string[] = [];
  for (;;) {
    const locations = await ledger.claimGarbage(16);
    if (locations.length === 0) return all;
    for (const location of locations) await ledger.confirmRemoved(location);
    all.push(...locations);
  }
}

/** Nothing is left of any blob but these fields of the ledger. */
async function sizes(registry: RedisRegistry): Promise<Record<string, string>> {
  const root = registry.keyRoot;
  const count = async (key: string, verb: string) => [key, await redis.command(verb, root + key)];
  return Object.fromEntries(
    await Promise.all([
      count(':blobs', 'HLEN'),
      count(':refs', 'HLEN'),
      count(':uploads', 'ZCARD'),
      count(':garbage', 'ZCARD'),
      count(':deleting', 'ZCARD'),
      count(':wanted', 'SCARD'),
    ]),
  );
}

describe('uploads', () => {
  it('are located after their commit, and not before', async () => {
    const registry = await opened();
    const { ledger } = registry;
    expect(await ledger.locate(one)).toBeUndefined();
    const location = await ledger.beginUpload(one);
    expect(location).toMatch(new RegExp(`^${one}/[0-9a-f-]{36}$`));
    expect(await ledger.locate(one)).toBeUndefined();
    expect(await ledger.commitUpload(one, location)).toBe(location);
    expect(await ledger.commitUpload(one, location)).toBe(location);
    expect(await ledger.locate(one)).toBe(location);
  });

  it('of one digest by two: the first stays, the second is deleted', async () => {
    const registry = await opened();
    const { ledger } = registry;
    const [first, second] = await Promise.all([ledger.beginUpload(one), ledger.beginUpload(one)]);
    expect(first).not.toBe(second);
    expect(await ledger.commitUpload(one, second)).toBe(second);
    expect(await ledger.commitUpload(one, first)).toBe(second);
    await written(registry, 'a', 0, nameEntry('a', 'one'));
    expect(await collect(registry)).toEqual([first]);
    expect(await ledger.locate(one)).toBe(second);
  });

  it('are given up when they are not committed in time, and deleted', async () => {
    const registry = await opened({ uploadTtlMs: 30 });
    const { ledger } = registry;
    const location = await ledger.beginUpload(one);
    let claimed: readonly string[] = [];
    await until('given up', async () => {
      claimed = await ledger.claimGarbage(10);
      return claimed.length > 0;
    });
    expect(claimed).toEqual([location]);
    await ledger.confirmRemoved(location);
    // The uploader was only slow: what it wrote after the deletion is deleted once more.
    expect(await codeOf(ledger.commitUpload(one, location))).toBe('blob_unavailable');
    expect(await ledger.locate(one)).toBeUndefined();
    expect(await collect(registry)).toEqual([location]);
    expect(Object.values(await sizes(registry))).toEqual(['0', '0', '0', '0', '0', '0']);
  });

  it('that failed are confirmed as removed by the uploader itself', async () => {
    const registry = await opened();
    const location = await registry.ledger.beginUpload(one);
    await registry.ledger.confirmRemoved(location);
    expect(await collect(registry)).toEqual([]);
    expect((await sizes(registry))[':uploads']).toBe('0');
  });
});

describe('garbage', () => {
  it('is what no name keeps, after the grace time', async () => {
    const fleet = await fleetOf({ blobGraceMs: FOREVER_MS });
    const { registry: patient } = await fleet.open();
    const { registry } = await fleet.open({ blobGraceMs: 0 });
    const location = await upload(registry, one);
    const kept = await upload(registry, two);
    const a = await written(registry, 'a', 0, nameEntry('a', 'one', 'two'));
    const b = await written(registry, 'b', 0, nameEntry('b', 'two'));
    expect(await collect(registry)).toEqual([]);
    await written(registry, 'a', a.revision, undefined);
    expect(await collect(patient)).toEqual([]);
    expect(await collect(registry)).toEqual([location]);
    expect(await registry.ledger.locate(two)).toBe(kept);
    await written(registry, 'b', b.revision, undefined);
    expect(await collect(registry)).toEqual([kept]);
    expect(Object.values(await sizes(registry))).toEqual(['0', '0', '0', '0', '0', '0']);
  });

  it('gets its grace time anew whenever somebody asks for it', async () => {
    const registry = await opened();
    await upload(registry, one);
    const since = () => redis.command('ZSCORE', `${registry.keyRoot}:garbage`, one);
    const before = Number(await since());
    await until('a later time', async () => {
      await registry.ledger.locate(one);
      return Number(await since()) > before;
    });
  });

  it('that is registered again before it is claimed stays; after that it is uploaded again', async () => {
    const registry = await opened();
    const { ledger } = registry;
    const location = await upload(registry, one);
    const a = await written(registry, 'a', 0, nameEntry('a', 'one'));
    const b = await written(registry, 'a', a.revision, undefined);
    await written(registry, 'b', 0, nameEntry('b', 'one'));
    expect(await collect(registry)).toEqual([]);
    expect(b.revision).toBe(2);
    await written(registry, 'b', 3, undefined);
    expect(await ledger.claimGarbage(10)).toEqual([location]);
    const missing = { status: 'blobs_missing', digests: [one] };
    expect(await registry.write('c', 0, nameEntry('c', 'one'))).toEqual(missing);
    const again = await upload(registry, one);
    expect(again).not.toBe(location);
    await written(registry, 'c', 0, nameEntry('c', 'one'));
    await ledger.confirmRemoved(location);
    expect(await collect(registry)).toEqual([]);
    expect(await ledger.locate(one)).toBe(again);
  });

  it('is claimed by one only', async () => {
    const fleet = await fleetOf();
    const registries = await Promise.all([fleet.open(), fleet.open(), fleet.open()]);
    const { registry } = registries[0]!;
    const digests = Array.from({ length: 40 }, (_, i) => sha256(String(i)));
    for (const digest of digests) await upload(registry, digest);
    const claims = await Promise.all(
      registries.flatMap((r) => [
        r.registry.ledger.claimGarbage(9),
        r.registry.ledger.claimGarbage(9),
      ]),
    );
    const all = claims.flat();
    expect(new Set(all).size).toBe(all.length);
    expect(all.length).toBe(40);
  });

  it('is never what a name keeps, whatever uploaders, names and collectors do at once', async () => {
    const seed = Number(process.env.LORAMUX_TEST_SEED ?? 20_261_101);
    const random = new Random(seed);
    // Without any grace a blob could be gone again before its name is written, for ever.
    const fleet = await fleetOf({ blobGraceMs: 100 });
    const registries = (await Promise.all([fleet.open(), fleet.open()])).map((r) => r.registry);
    const contents = ['c0', 'c1', 'c2', 'c3'];
    const deleted = new Set<string>();
    let done = false;
    const collector = async (registry: RedisRegistry) => {
      while (!done) {
        for (const location of await registry.ledger.claimGarbage(4)) {
          deleted.add(location);
          await registry.ledger.confirmRemoved(location);
        }
      }
    };
    const worker = async (registry: RedisRegistry, name: string) => {
      for (let i = 0; i < 60; i++) {
        const before = await registry.read(name);
        const content = random.pick(contents);
        const next = random.chance(0.3) ? undefined : nameEntry(name, content);
        if (before === undefined && next === undefined) continue;
        for (;;) {
          const result = await registry.write(name, before?.revision ?? 0, next);
          if (result.status === 'written') break;
          expect(result.status, `seed ${seed}`).toBe('blobs_missing');
          await provideBlobs(registry, [sha256(content)]);
        }
        const after = await registry.read(name);
        for (const { digest } of after?.entry.generations ?? []) {
          const location = await registry.ledger.locate(digest);
          expect(location, `seed ${seed}: ${name} keeps ${digest}`).toBeDefined();
          expect(deleted.has(location!), `seed ${seed}: deleted ${location}`).toBe(false);
        }
      }
    };
    const collectors = registries.map(collector);
    const names = ['n0', 'n1', 'n2', 'n3'];
    try {
      await Promise.all(names.map((name, i) => worker(registries[i % 2]!, name)));
    } finally {
      done = true;
      await Promise.all(collectors);
    }
    for (const name of names) {
      const found = await registries[0]!.read(name);
      if (found !== undefined) await written(registries[0]!, name, found.revision, undefined);
    }
    await until('everything is gone', async () => {
      await collect(registries[0]!);
      return Object.values(await sizes(registries[0]!)).every((size) => size === '0');
    });
  });
});

describe('missing blobs', () => {
  it('are wanted while names keep them, until somebody uploads them again', async () => {
    const registry = await opened();
    const { ledger } = registry;
    const location = await upload(registry, one);
    await written(registry, 'a', 0, nameEntry('a', 'one'));
    await ledger.reportMissing(one, `${one}/another`);
    expect(await ledger.locate(one)).toBe(location);
    await ledger.reportMissing(one, location);
    await ledger.reportMissing(one, location);
    expect(await ledger.locate(one)).toBeUndefined();
    expect(await ledger.wanted()).toEqual([one]);
    expect(await collect(registry)).toEqual([location]);
    // The name can be changed meanwhile: what it kept before is not asked for again.
    await upload(registry, two);
    await written(registry, 'a', 1, nameEntry('a', 'one', 'two'));
    const again = await upload(registry, one);
    expect(await ledger.wanted()).toEqual([]);
    expect(await ledger.locate(one)).toBe(again);
  });

  it('are not wanted when no name keeps them any more', async () => {
    const registry = await opened();
    const { ledger } = registry;
    const location = await upload(registry, one);
    await ledger.reportMissing(one, location);
    expect(await ledger.wanted()).toEqual([]);
    const second = await upload(registry, one);
    await written(registry, 'a', 0, nameEntry('a', 'one'));
    await ledger.reportMissing(one, second);
    expect(await ledger.wanted()).toEqual([one]);
    await written(registry, 'a', 1, undefined);
    expect(await ledger.wanted()).toEqual([]);
  });

  it('are wanted after the list of blobs was evicted', async () => {
    const registry = await opened();
    await upload(registry, one);
    await written(registry, 'a', 0, nameEntry('a', 'one'));
    await redis.command('DEL', `${registry.keyRoot}:blobs`);
    expect(await registry.ledger.locate(one)).toBeUndefined();
    expect(await registry.ledger.wanted()).toEqual([one]);
  });
});

describe('damage of the ledger', () => {
  it('deletes nothing after the references were evicted, and counts them again', async () => {
    const registry = await opened();
    await upload(registry, one);
    await upload(registry, two);
    const a = await written(registry, 'a', 0, nameEntry('a', 'one'));
    await written(registry, 'b', 0, nameEntry('b', 'two'));
    await redis.command('DEL', `${registry.keyRoot}:refs`);
    await written(registry, 'a', a.revision, undefined);
    expect(await registry.ledger.claimGarbage(10)).toEqual([]);
    expect(await collect(registry)).toHaveLength(1);
    expect(await registry.ledger.locate(one)).toBeUndefined();
    expect(await registry.ledger.locate(two)).toBeDefined();
    expect((await sizes(registry))[':refs']).toBe('1');
  });

  it('keeps what a damaged name may keep, until it was replaced', async () => {
    const fleet = await fleetOf();
    const { registry } = await fleet.open();
    const { registry: later } = await fleet.open();
    await upload(registry, one);
    const spare = await upload(registry, two);
    await written(registry, 'a', 0, nameEntry('a', 'one'));
    await redis.command('HSET', `${registry.keyRoot}:name:a`, 'digests', '');
    await redis.command('DEL', `${registry.keyRoot}:refs`);
    expect(await collect(registry)).toEqual([]);
    expect(await registry.ledger.locate(one)).toBeDefined();
    await registry.ledger.locate(spare);
    await written(registry, 'a', 'damaged', nameEntry('a', 'one'));
    await collect(later);
    expect(await registry.ledger.locate(one)).toBeDefined();
    expect((await sizes(registry))[':refs']).toBe('1');
  });

  it.each(['blobs', 'uploads', 'deleting'])('names the key %s when it is not ours', async (key) => {
    const registry = await opened();
    await redis.command('SET', `${registry.keyRoot}:${key}`, 'mine');
    const { ledger } = registry;
    const attempts = [ledger.locate(one), ledger.beginUpload(one), ledger.claimGarbage(1)];
    const messages = await Promise.all(
      attempts.map((p) => p.then(String, (e: Error) => e.message)),
    );
    expect(messages.join()).toContain(`${registry.keyRoot}:${key}`);
  });

  it('is not confused by a Redis that is away', async () => {
    const server = await bed.redis();
    const fleet = await bed.fleet(server.url, { sharesBlobs: true });
    const { registry } = await fleet.open();
    const location = await upload(registry, one);
    await server.kill9();
    await until('degraded', () => registry.status().state === 'degraded');
    const { ledger } = registry;
    const attempts = [
      ledger.locate(one),
      ledger.beginUpload(one),
      ledger.commitUpload(one, location),
      ledger.reportMissing(one, location),
      ledger.wanted(),
      ledger.claimGarbage(1),
      ledger.confirmRemoved(location),
    ];
    for (const attempt of attempts.map(codeOf)) expect(await attempt).toBe('registry_unavailable');
  });
});
