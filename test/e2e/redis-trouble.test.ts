/**
 * Two real servers, each behind a proxy to one real Redis that gets slow, silent, emptied, damaged or
 * replaced: what was reported as done is done, what is known goes on being served, and nothing has to
 * be restarted afterwards.
 */
import { cp, mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Answer, complete, sendJson } from '../support/clients.ts';
import {
  answerOf,
  CONTENT_MODEL_DIR,
  type Content,
  type Contents,
  makeContents,
} from '../support/contents.ts';
import { untilAnswers } from '../support/fleet.ts';
import { startRedis, type TestRedis } from '../support/redis.ts';
import { type Json, startTestServer, type TestServer } from '../support/server.ts';
import { startTcpProxy, type TcpProxy } from '../support/tcp-proxy.ts';
import { until } from '../support/until.ts';

const TIMEOUT_MS = 400;
const ARGS = [
  ...['--model', CONTENT_MODEL_DIR, '--max-loras', '4'],
  ...['--redis-timeout-ms', String(TIMEOUT_MS), '--registry-reconcile-ms', '100'],
];
/** Answers to a change that was not made, and to one of which that is not known. */
const REFUSED = ['registry_unavailable', 'blob_unavailable'];
const UNKNOWN = 'registry_outcome_unknown';

/** Begins to feed a replica at once. */
const startPrimary = () =>
  startRedis({ appendfsync: 'always', args: ['--repl-diskless-sync-delay', '0'] });

let contents: Contents;
let redis: TestRedis;
let proxies: [TcpProxy, TcpProxy];
let servers: [TestServer, TestServer];
let c: readonly [Content, Content, Content];

beforeAll(async () => {
  [contents, redis] = await Promise.all([makeContents(3), startPrimary()]);
  c = contents.list as unknown as typeof c;
  proxies = [await startTcpProxy(redis.port), await startTcpProxy(redis.port)];
  const starting = proxies.map(({ port }) =>
    startTestServer([...ARGS, '--redis', `redis://127.0.0.1:${port}`]),
  );
  servers = (await Promise.all(starting)) as [TestServer, TestServer];
});
afterAll(async () => {
  await Promise.all((servers ?? []).map((server) => server.end()));
  for (const proxy of proxies ?? []) await proxy.close();
  await redis?.stop();
  await contents?.remove();
});

const health = async (server: TestServer): Promise<Json> =>
  (await server.call('GET', '/health')).body;
const untilState = (server: TestServer, state: string): Promise<Json> =>
  until(
    `the registry is ${state}`,
    () => health(server),
    ({ registry }) => registry.state === state,
  );
const remove = (server: TestServer, name: string) => server.call('DELETE', `/v1/adapters/${name}`);
const rollback = (server: TestServer, name: string, generation?: string) =>
  sendJson(
    server,
    'POST',
    `/v1/adapters/${name}/rollback`,
    generation === undefined ? {} : { generation },
  );

/** Uploads until it is done: on a busy machine Redis misses its time now and then. */
const uploaded = (server: TestServer, name: string, dir: string) =>
  until(
    `${name} is uploaded`,
    () => server.upload(name, dir),
    ({ status }) => status === 200 || status === 201,
  );

/** The generation that a name has on a server, with its right answer; undefined for none. */
async function seen(server: TestServer, name: string): Promise<string | undefined> {
  const { status, body } = await complete(server, name);
  if (status === 404) return undefined;
  expect(status, JSON.stringify(body)).toBe(200);
  expect(answerOf(body)).toBe(contents.byGeneration(body.adapter_generation).answer);
  return body.adapter_generation;
}

interface Change {
  readonly name: string;
  readonly before: string | undefined;
  readonly after: string | undefined;
  readonly make: (server: TestServer) => Promise<Pick<Answer, 'status' | 'body'>>;
}

let round = 0;

/** Names with known states, and a change of every kind. */
async function prepareChanges(): Promise<Change[]> {
  const [a, b] = servers;
  const n = (kind: string) => `${kind}-${round}`;
  round += 1;
  const [one, two, three] = c.map(({ generation }) => generation) as [string, string, string];
  for (const name of [n('put'), n('remove'), n('rollback'), n('if-match')]) {
    await uploaded(a, name, c[0].dir);
    await uploaded(a, name, c[1].dir);
    await untilAnswers(b, name, c[1]);
  }
  const moved = { ifMatch: `"${two}"` };
  return [
    { name: n('new'), before: undefined, after: one, make: (s) => s.upload(n('new'), c[0].dir) },
    { name: n('put'), before: two, after: three, make: (s) => s.upload(n('put'), c[2].dir) },
    { name: n('remove'), before: two, after: undefined, make: (s) => remove(s, n('remove')) },
    { name: n('rollback'), before: two, after: one, make: (s) => rollback(s, n('rollback')) },
    {
      name: n('if-match'),
      before: two,
      after: one,
      make: (s) =>
        sendJson(
          s,
          'POST',
          `/v1/adapters/${n('if-match')}/rollback`,
          { generation: one },
          {
            'if-match': moved.ifMatch,
          },
        ),
    },
  ];
}

/** Makes changes at once; returns what each name may be afterwards. */
async function attempt(server: TestServer, changes: readonly Change[]) {
  const outcomes = { done: 0, refused: 0, unknown: 0 };
  const possible = new Map<string, (string | undefined)[]>();
  const making = changes.map(async ({ name, before, after, make }) => {
    const { status, body } = await make(server);
    const code = body?.error?.code;
    if (status < 300) {
      outcomes.done += 1;
      possible.set(name, [after]);
    } else if (code === UNKNOWN) {
      expect(status).toBe(503);
      outcomes.unknown += 1;
      possible.set(name, [before, after]);
    } else {
      expect(status, `${name}: ${JSON.stringify(body)}`).toBe(503);
      expect(REFUSED, `${name}: ${JSON.stringify(body)}`).toContain(code);
      outcomes.refused += 1;
      possible.set(name, [before]);
    }
  });
  await Promise.all(making);
  return { outcomes, possible };
}

/** Both servers end up with one and the same possible state of each name. */
async function verify(possible: ReadonlyMap<string, readonly (string | undefined)[]>) {
  for (const server of servers) await untilState(server, 'ok');
  for (const [name, states] of possible) {
    const first = await seen(servers[1], name);
    expect(states, name).toContain(first);
    await until(
      `${name} is the same on both`,
      () => seen(servers[0], name),
      (other) => other === first,
    );
  }
}

describe('Redis that answers late or not at all', () => {
  it('is waited for within its time', async () => {
    const changes = await prepareChanges();
    proxies[0].delay(TIMEOUT_MS / 8);
    const { outcomes, possible } = await attempt(servers[0], changes);
    proxies[0].restore();
    expect(outcomes).toEqual({ done: changes.length, refused: 0, unknown: 0 });
    await verify(possible);
  });

  it('makes changes fail, and what was reported holds', async () => {
    const changes = await prepareChanges();
    // Both ways: the answer to a command comes after one and a half times the limit.
    proxies[0].delay(TIMEOUT_MS * 0.75);
    const { outcomes, possible } = await attempt(servers[0], changes);
    expect(outcomes.done).toBe(0);
    expect(await seen(servers[0], changes[1]!.name)).toBe(changes[1]!.before);
    const { registry } = await untilState(servers[0], 'degraded');
    expect(registry.reason).toMatch(/did not answer within 400 ms|cannot reach|was lost/);
    proxies[0].restore();
    await verify(possible);
  });

  it.each(['all', 'answers'] as const)('with a stalled connection (%s) as well', async (what) => {
    const changes = await prepareChanges();
    proxies[0].stall(what);
    const beganMs = performance.now();
    const { outcomes, possible } = await attempt(servers[0], changes);
    // Bounded by the limits of a few commands, not by the patience of TCP.
    expect(performance.now() - beganMs).toBeLessThan(20 * TIMEOUT_MS);
    expect(outcomes.done).toBe(0);
    await untilState(servers[0], 'degraded');
    // Names go on being answered, also those that cannot be asked about.
    expect(await seen(servers[0], changes[1]!.name)).toBe(changes[1]!.before);
    expect(await complete(servers[0], 'never-seen')).toMatchObject({ status: 503 });
    expect(await seen(servers[1], changes[1]!.name)).toBeDefined();
    proxies[0].restore();
    await verify(possible);
  });

  it('and the unknown outcome of one client is no obstacle to the next', async () => {
    const [a, b] = servers;
    await uploaded(a, 'retried', c[0].dir);
    proxies[0].stall('answers');
    const first = await a.upload('retried', c[1].dir);
    expect(first.status).toBe(503);
    proxies[0].restore();
    await untilState(a, 'ok');
    const second = await a.upload('retried', c[1].dir);
    expect([second.status, second.body.generation]).toEqual([200, c[1].generation]);
    await untilAnswers(b, 'retried', c[1]);
    const { body } = await b.call('GET', '/v1/adapters/retried/generations');
    expect(body.data).toHaveLength(2);
  });
});

describe('Redis that lost its data', () => {
  it('is not believed: what is known is served, and the data heals it', async () => {
    const [a, b] = servers;
    await uploaded(a, 'kept', c[0].dir);
    await untilAnswers(b, 'kept', c[0]);
    const backup = await mkdtemp(path.join(tmpdir(), 'loramux-backup-'));
    await cp(redis.dir, backup, { recursive: true });
    await redis.command('FLUSHALL');
    for (const server of servers) {
      const { status, registry } = await untilState(server, 'lost');
      expect(status).toBe('degraded');
      expect(registry.reason).toMatch(/flushed/);
      await untilAnswers(server, 'kept', c[0]);
      for (const refused of [
        await server.upload('kept', c[1].dir),
        await server.upload('another', c[1].dir),
        await remove(server, 'kept'),
        await complete(server, 'never-seen'),
      ]) {
        expect(refused).toMatchObject({ status: 503, body: { error: { code: 'registry_lost' } } });
      }
    }
    // A server that starts now makes a new registry of the empty Redis; the others do not join it.
    const fresh = await startTestServer([...ARGS, '--redis', redis.url]);
    expect((await fresh.upload('kept', c[2].dir)).status).toBe(201);
    expect(await seen(a, 'kept')).toBe(c[0].generation);
    expect((await untilState(b, 'lost')).registry.reason).toMatch(/another/);
    await fresh.end();

    await redis.kill9();
    for (const file of await readdir(redis.dir))
      await rm(path.join(redis.dir, file), { recursive: true });
    await cp(backup, redis.dir, { recursive: true });
    await rm(backup, { recursive: true });
    await redis.restart();
    for (const server of servers) await untilState(server, 'ok');
    expect(await seen(a, 'kept')).toBe(c[0].generation);
    expect((await b.upload('kept', c[1].dir)).status).toBe(200);
    await untilAnswers(a, 'kept', c[1]);
  });

  it('in one key gets it back from a server that knows it', async () => {
    const [a, b] = servers;
    await uploaded(a, 'evicted', c[0].dir);
    await untilAnswers(b, 'evicted', c[0]);
    const key = '{loramux:v1}:name:evicted';
    await redis.command('DEL', key);
    await until(
      'the key is back',
      () => redis.command('EXISTS', key),
      (exists) => exists === '1',
    );
    expect((await b.upload('evicted', c[1].dir)).status).toBe(200);
    await untilAnswers(a, 'evicted', c[1]);
  });

  it.each(['PUT', 'DELETE'])(
    'of another type damages one name, and %s heals it',
    async (method) => {
      const [a, b] = servers;
      const name = `mistyped-${method}`;
      await uploaded(a, name, c[0].dir);
      await uploaded(a, 'beside', c[1].dir);
      await untilAnswers(b, name, c[0]);
      const key = `{loramux:v1}:name:${name}`;
      await redis.command('DEL', key);
      await redis.command('LPUSH', key, 'not an adapter');
      for (const server of servers) {
        const { body } = await until(
          'the damage is seen',
          () => complete(server, name),
          ({ status }) => status !== 200,
        );
        expect(body.error.code).toBe('store_corrupt');
        await untilAnswers(server, 'beside', c[1]);
        const list = (await server.call('GET', '/v1/adapters')).body;
        expect(list.damaged.map((each: Json) => each.name)).toEqual([name]);
        expect((await rollback(server, name)).body.error.code).toBe('store_corrupt');
        expect((await health(server)).adapters.damaged).toBe(1);
      }
      if (method === 'PUT') {
        expect((await b.upload(name, c[2].dir)).status).toBe(200);
        for (const server of servers) await untilAnswers(server, name, c[2]);
      } else {
        expect((await remove(a, name)).status).toBe(200);
        await until(
          'the name is gone',
          () => complete(b, name),
          ({ status }) => status === 404,
        );
      }
      for (const server of servers) {
        await until(
          'nothing is damaged',
          () => health(server),
          ({ adapters }) => adapters.damaged === 0,
        );
      }
    },
  );
});

describe('Redis that is full', () => {
  it('refuses what would grow and lets go what does not', async () => {
    const [a, b] = servers;
    await uploaded(a, 'full', c[0].dir);
    await untilAnswers(b, 'full', c[0]);
    await redis.command('CONFIG', 'SET', 'maxmemory', '1mb');
    try {
      for (const refused of [
        await a.upload('full', c[1].dir),
        await b.upload('more', c[1].dir),
        await b.call('POST', '/v1/adapters/full/pin'),
      ]) {
        expect(refused.status).toBe(503);
        expect(refused.body.error.message).toContain('OOM');
      }
      expect((await complete(a, 'more')).status).toBe(404);
      await untilAnswers(b, 'full', c[0]);
      expect((await remove(b, 'full')).status).toBe(200);
    } finally {
      await redis.command('CONFIG', 'SET', 'maxmemory', '0');
    }
    expect((await a.upload('full', c[1].dir)).status).toBe(201);
    await untilAnswers(b, 'full', c[1]);
  });
});

describe('Redis that fails over', () => {
  it('to a replica without the last changes: what it has holds, on every server', async () => {
    const [a, b] = servers;
    for (const name of ['moved', 'removed']) {
      await uploaded(a, name, c[0].dir);
      await untilAnswers(b, name, c[0]);
    }
    const replica = await startRedis({ appendfsync: 'always' });
    try {
      await replica.command('REPLICAOF', '127.0.0.1', String(redis.port));
      await until(
        'the replica has everything',
        () => replica.command('INFO', 'replication'),
        (info) => info.includes('master_link_status:up'),
      );
      // The last changes are acknowledged by the old primary and never reach the new one.
      await replica.command('REPLICAOF', 'NO', 'ONE');
      expect((await a.upload('moved', c[1].dir)).status).toBe(200);
      expect((await b.upload('lost', c[1].dir)).status).toBe(201);
      expect((await remove(a, 'removed')).status).toBe(200);
      await untilAnswers(b, 'moved', c[1]);
      for (const proxy of proxies) {
        proxy.target(replica.port);
        proxy.cut();
      }
      for (const server of servers) {
        await untilAnswersEither(server, 'moved', c[0]);
        await untilAnswersEither(server, 'removed', c[0]);
        await until(
          'the lost name is gone',
          () => complete(server, 'lost'),
          ({ status }) => status === 404,
        );
        expect((await untilState(server, 'ok')).status).toBe('ok');
      }
      // Life goes on there, from the same revisions that the old primary gave to other changes.
      expect((await b.upload('moved', c[2].dir)).status).toBe(200);
      expect((await a.upload('lost', c[0].dir)).status).toBe(201);
      await untilAnswers(a, 'moved', c[2]);
      await untilAnswers(b, 'lost', c[0]);
    } finally {
      for (const proxy of proxies) {
        proxy.target(redis.port);
        proxy.cut();
      }
      await replica.stop();
    }
    for (const server of servers) {
      await untilState(server, 'ok');
      await untilAnswersEither(server, 'moved', c[1]);
      await until(
        'the removal holds again',
        () => complete(server, 'removed'),
        ({ status }) => status === 404,
      );
    }
  });

  /** As `untilAnswers`, while the registry may be away. */
  async function untilAnswersEither(server: TestServer, name: string, content: Content) {
    await until(
      `${name} is answered by ${content.generation}`,
      async () => {
        const { status, body } = await complete(server, name);
        if (status !== 200) return undefined;
        expect(answerOf(body)).toBe(contents.byGeneration(body.adapter_generation).answer);
        return body.adapter_generation as string;
      },
      (generation) => generation === content.generation,
    );
  }

  it('is safe where changes wait for a replica', async () => {
    const careful = await startTestServer([
      ...[...ARGS, '--redis', redis.url, '--redis-prefix', 'careful'],
      ...['--redis-wait-replicas', '1'],
    ]);
    const replica = await startRedis();
    try {
      const alone = await careful.upload('waited', c[0].dir);
      expect(alone).toMatchObject({ status: 503, body: { error: { code: UNKNOWN } } });
      expect(alone.body.error.message).toMatch(/0 of 1/);
      await untilAnswers(careful, 'waited', c[0]);
      await replica.command('REPLICAOF', '127.0.0.1', String(redis.port));
      await until(
        'a change is confirmed',
        () => careful.upload('waited', c[1].dir),
        ({ status }) => status === 200,
      );
      const key = '{careful:v1}:name:waited';
      expect(await replica.command('HGET', key, 'entry')).toContain(c[1].generation);
    } finally {
      await careful.end();
      await replica.stop();
    }
  });
});

describe('one Redis', () => {
  it('for two deployments keeps them apart', async () => {
    const [a] = servers;
    const other = await startTestServer([...ARGS, '--redis', redis.url, '--redis-prefix', 'other']);
    try {
      await uploaded(a, 'same', c[0].dir);
      expect((await other.upload('same', c[1].dir)).status).toBe(201);
      await untilAnswers(a, 'same', c[0]);
      await untilAnswers(other, 'same', c[1]);
      expect((await other.call('GET', '/v1/adapters')).body.data).toHaveLength(1);
      const replicas = (await other.call('GET', '/v1/replicas')).body.data as Json[];
      expect(replicas.map(({ url }) => url)).toEqual([other.url]);
      expect((await remove(other, 'same')).status).toBe(200);
      await untilAnswers(a, 'same', c[0]);
    } finally {
      await other.end();
    }
  });
});
