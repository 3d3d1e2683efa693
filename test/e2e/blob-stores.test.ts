/**
 * Two real servers over each place that can hold a fleet's adapter files: what one is given the other
 * answers with, what nobody needs goes, and bytes that vanish or change there are never an answer.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { answeredBy, complete } from '../support/clients.ts';
import {
  answerOf,
  CONTENT_MODEL,
  type Content,
  type Contents,
  makeContents,
} from '../support/contents.ts';
import { type Fleet, startFleet, untilAnswers } from '../support/fleet.ts';
import type { Json, TestServer } from '../support/server.ts';
import {
  directoryBlobs,
  redisBlobs,
  type S3SharedBlobs,
  type SharedBlobs,
  s3Blobs,
} from '../support/shared-blobs.ts';
import { until } from '../support/until.ts';

/** Long enough for a rollback in between, short enough to wait for. */
const GRACE_MS = 1000;
const FLEET_ARGS = [
  ...['--blob-grace-ms', String(GRACE_MS), '--registry-reconcile-ms', '300'],
  ...['--max-generations', '2', '--max-loras', '4', '--adapter-wait-ms', '100'],
];
/** Refusals of a server that cannot get an adapter's file now. */
const AWAY = ['blob_missing', 'blob_unavailable'];

const STORES: readonly (readonly [string, () => Promise<SharedBlobs>])[] = [
  ['Redis', async () => redisBlobs()],
  ['a bucket', s3Blobs],
  ['a shared folder', directoryBlobs],
];

let contents: Contents;
beforeAll(async () => {
  contents = await makeContents(6);
});
afterAll(() => contents?.remove());

/** As `untilAnswers`, but refusals for want of the file are waited out; returns how many there were. */
async function untilRepaired(server: TestServer, name: string, content: Content): Promise<number> {
  let refusals = 0;
  await until(
    `${name} is answered again`,
    () => complete(server, name),
    ({ status, body }) => {
      if (status === 503) {
        expect(AWAY, JSON.stringify(body)).toContain(body.error.code);
        refusals += 1;
        return false;
      }
      if (status === 404) return false;
      expect([status, body.adapter_generation]).toEqual([200, content.generation]);
      expect(answerOf(body)).toBe(content.answer);
      return true;
    },
  );
  return refusals;
}

describe.each(STORES)('a fleet that keeps files in %s', (_where, open) => {
  let store: SharedBlobs;
  let fleet: Fleet;
  let a: TestServer;
  let b: TestServer;
  let c: readonly Content[];
  beforeAll(async () => {
    store = await open();
    fleet = await startFleet({ replicas: 2, args: [...FLEET_ARGS, ...store.args], env: store.env });
    if ('useRedis' in store) (store as ReturnType<typeof redisBlobs>).useRedis(fleet.redis);
    [a, b] = fleet.servers as [TestServer, TestServer];
    c = contents.list;
  });
  afterAll(async () => {
    await fleet?.end();
    await store?.stop();
  });

  it('answers everywhere with what one server was given, replaced, rolled back and removed', async () => {
    expect((await a.upload('one', c[0]!.dir)).status).toBe(201);
    await untilAnswers(b, 'one', c[0]!);
    expect((await b.upload('one', c[1]!.dir)).status).toBe(200);
    await untilAnswers(a, 'one', c[1]!);
    const back = await a.call('POST', '/v1/adapters/one/rollback', {});
    expect(back.body.generation).toBe(c[0]!.generation);
    await untilAnswers(b, 'one', c[0]!);
    // Content that two names have is there once, and stays for the second.
    await b.upload('two', c[0]!.dir);
    expect((await a.call('DELETE', '/v1/adapters/one')).status).toBe(200);
    await until(
      'the removal arrives',
      () => complete(b, 'one'),
      ({ status }) => status === 404,
    );
    await until(
      'the other content is collected',
      () => store.list(),
      (found) => found.every((entry) => entry.includes(c[0]!.generation)),
    );
    expect(await store.list()).not.toEqual([]);
    await untilAnswers(a, 'two', c[0]!);
    await b.call('DELETE', '/v1/adapters/two');
    await until(
      'everything is collected',
      () => store.list(),
      (found) => found.length === 0,
    );
  });

  it('keeps content that came back before its time was over', async () => {
    await a.upload('again', c[2]!.dir);
    await a.call('DELETE', '/v1/adapters/again');
    expect((await a.upload('again', c[2]!.dir)).status).toBe(201);
    // Other content of which it is known that it was collected afterwards.
    await a.upload('later', c[3]!.dir);
    await a.call('DELETE', '/v1/adapters/later');
    await until(
      'the later one is collected',
      () => store.list(),
      (found) => !found.some((entry) => entry.includes(c[3]!.generation)),
    );
    await untilAnswers(b, 'again', c[2]!);
    await b.call('DELETE', '/v1/adapters/again');
  });

  it('stores again what vanished or changed in the store, and never answers with it', async () => {
    const damages = [
      ['gone', c[4]!, (digest: string) => store.destroy(digest)],
      ['changed', c[5]!, (digest: string) => store.corrupt(digest)],
    ] as const;
    for (const [name, content, damage] of damages) {
      await a.upload(name, content.dir);
      await damage(content.generation);
      // The server that has it is not disturbed.
      await untilAnswers(a, name, content);
      const refusals = await untilRepaired(b, name, content);
      expect(refusals, `it was met that ${name} is damaged`).toBeGreaterThan(0);
    }
    // And now they are whole in the store: a server without any files gets them at once.
    const fresh = await fleet.start();
    for (const [name, content] of damages) await untilAnswers(fresh, name, content);
    fleet.servers.splice(fleet.servers.indexOf(fresh), 1);
    await fresh.end();
    for (const [name] of damages) await a.call('DELETE', `/v1/adapters/${name}`);
    await until(
      'damaged and repaired ones are collected',
      () => store.list(),
      (found) => found.length === 0,
    );
  });

  if (_where === 'a bucket') {
    it('lets nobody else wait for a bucket that hangs', async () => {
      const { server } = store as S3SharedBlobs;
      await a.upload('resident', c[0]!.dir);
      await a.upload('hanging', c[1]!.dir);
      await untilAnswers(b, 'resident', c[0]!);
      server.pause();
      const hanging = complete(b, 'hanging');
      await until(
        'its load is under way',
        () => b.metric('loramux_adapters_loading'),
        (loading) => loading === 1,
      );
      // Longer than others may pass a request that waits for room.
      const endMs = performance.now() + 1000;
      while (performance.now() < endMs) {
        await untilAnswers(b, 'resident', c[0]!, 5000);
        expect((await complete(b, CONTENT_MODEL)).status).toBe(200);
      }
      server.resume();
      const { status, body } = await hanging;
      expect([status, answerOf(body)], JSON.stringify(body)).toEqual([200, c[1]!.answer]);
      for (const name of ['resident', 'hanging']) await a.call('DELETE', `/v1/adapters/${name}`);
      await until(
        'both are collected',
        () => store.list(),
        (found) => found.length === 0,
      );
    });

    it('goes on without the bucket, refuses what needs it, and is whole when it is back', async () => {
      const { server } = store as S3SharedBlobs;
      const [resident, cached, unfetched] = c as [Content, Content, Content];
      for (const [i, name] of ['resident', 'cached', 'unfetched'].entries()) {
        await a.upload(name, c[i]!.dir);
      }
      await untilAnswers(b, 'resident', resident);
      await untilAnswers(b, 'cached', cached);
      const evicted = await b.call('POST', '/v1/adapters/cached/evict');
      expect(evicted.body.residency.level).toBe('disk');
      await server.kill9();

      await untilAnswers(b, 'resident', resident);
      await untilAnswers(b, 'cached', cached);
      const refused = await complete(b, 'unfetched');
      expect(refused).toMatchObject({ status: 503, body: { error: { code: 'blob_unavailable' } } });
      const put = await a.upload('new', c[3]!.dir);
      expect(put).toMatchObject({ status: 503, body: { error: { code: 'blob_unavailable' } } });
      for (const each of [a, b]) expect((await complete(each, 'new')).status).toBe(404);
      // What needs no file is still done.
      expect((await b.call('POST', '/v1/adapters/cached/pin')).status).toBe(200);
      const { body } = await a.call('GET', '/health');
      expect(body).toMatchObject({ status: 'ok', registry: { state: 'ok' } });

      await server.restart();
      await untilRepaired(b, 'unfetched', unfetched);
      await until(
        'uploads work again',
        () => a.upload('new', c[3]!.dir),
        ({ status }) => status === 201,
      );
      await untilAnswers(b, 'new', c[3]!);
      for (const name of ['resident', 'cached', 'unfetched', 'new']) {
        await a.call('DELETE', `/v1/adapters/${name}`);
      }
      await until(
        'everything is collected',
        () => store.list(),
        (found) => found.length === 0,
      );
    });
  }
});

describe('a disk cache smaller than all adapters', () => {
  const COUNT = 6;
  let fleet: Fleet;
  let large: Contents;
  beforeAll(async () => {
    // About 260 KiB each: four fit the smallest cache there is.
    [large, fleet] = await Promise.all([
      makeContents(COUNT, { ranks: [32] }),
      startFleet({ replicas: 1, args: FLEET_ARGS }),
    ]);
  });
  afterAll(async () => {
    await fleet?.end();
    await large?.remove();
  });

  it('evicts and fetches again, with the right answer each time', async () => {
    const [full] = fleet.servers as [TestServer];
    for (const [i, { dir }] of large.list.entries()) await full.upload(`large-${i}`, dir);
    const small = await fleet.start([
      ...['--disk-cache-mb', '1', '--max-adapter-mb', '1'],
      ...['--host-cache-mb', '0', '--max-loras', '2'],
    ]);
    for (let round = 0; round < 3; round++) {
      const asked = large.list.map(async (content, i) => {
        expect(await answeredBy(small, `large-${i}`, large)).toBe(content);
      });
      await Promise.all(asked);
    }
    const loads = await readLoads(small);
    expect(loads.registry, 'more fetches than adapters').toBeGreaterThan(COUNT);
    expect(await small.metric('loramux_adapter_disk_evictions_total')).toBeGreaterThan(0);
    expect(await small.metric('loramux_adapter_disk_bytes')).toBeLessThanOrEqual(2 ** 20);
    expect(await small.metric('loramux_adapter_load_failures_total')).toBe(0);
  });
});

/** Loads by the tier that they read. */
async function readLoads(server: TestServer): Promise<Record<string, number>> {
  const text: string = await (await fetch(`${server.url}/metrics`)).text();
  const loads: Record<string, number> = {};
  for (const line of text.split('\n')) {
    const tier = /^loramux_adapter_load_seconds_count\{.*tier="(\w+)".*\} (\S+)$/.exec(line);
    if (tier !== null) loads[tier[1]!] = Number(tier[2]);
  }
  return loads satisfies Json;
}
