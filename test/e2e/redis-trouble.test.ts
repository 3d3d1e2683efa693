/**
 * Two real servers, each behind a proxy to one real Redis that gets slow, silent, emptied, damaged or
 * replaced: what was reported as done is done, what is known goes on being served, and nothing has to
 * be restarted afterwards.
 */
import { cp, mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { complete, sendJson } from '../support/clients.ts';
import {
  CONTENT_MODEL_DIR,
  type Content,
  type Contents,
  makeContents,
} from '../support/contents.ts';
import {
  generationOf,
  type Made,
  made,
  REFUSED,
  removed,
  UNKNOWN,
  untilGeneration,
  uploaded,
} from '../support/patient-clients.ts';
import { startRedis, type TestRedis } from '../support/redis.ts';
import { type Json, startTestServer, type TestServer } from '../support/server.ts';
import { startTcpProxy, type TcpProxy } from '../support/tcp-proxy.ts';
import { until } from '../support/until.ts';

const TIMEOUT_MS = 1000;
const ARGS = [
  ...['--model', CONTENT_MODEL_DIR, '--max-loras', '4'],
  ...['--redis-timeout-ms', String(TIMEOUT_MS), '--registry-reconcile-ms', '100'],
];
/** Of a server that waits for Redis for as long as any machine takes. */
const PATIENT_ARGS = [...ARGS, '--redis-timeout-ms', '60000'];
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
const rollback = (server: TestServer, name: string, generation?: string) =>
  sendJson(
    server,
    'POST',
    `/v1/adapters/${name}/rollback`,
    generation === undefined ? {} : { generation },
  );

const remove = (server: TestServer, name: string) => server.call('DELETE', `/v1/adapters/${name}`);
const seen = (server: TestServer, name: string) => generationOf(server, name, contents);
const untilAnswers = (server: TestServer, name: string, content: Content | undefined) =>
  untilGeneration(server, name, content, contents);

interface Change {
  readonly name: string;
  readonly before: string | undefined;
  readonly after: string | undefined;
  readonly make: (server: TestServer) => Promise<Made>;
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
    await until(
      `${name} is the same on both, one of ${states.join(' and ')}`,
      async () => [await seen(servers[0], name), await seen(servers[1], name)] as const,
      ([one, other]) => one === other && states.includes(one),
    );
  }
}

describe('Redis that answers late or not at all', () => {
  it('is waited for within its time', async () => {
    const changes = await prepareChanges();
    const proxy = await startTcpProxy(redis.port);
    const patient = await startTestServer([
      ...[...PATIENT_ARGS, '--redis', `redis://127.0.0.1:${proxy.port}`],
    ]);
    try {
      proxy.delay(200);
      const { outcomes, possible } = await attempt(patient, changes);
      expect(outcomes).toEqual({ done: changes.length, refused: 0, unknown: 0 });
      await verify(possible);
    } finally {
      proxy.restore();
      await patient.end();
      await proxy.close();
    }
  });

  it('makes changes fail, and what was reported holds', async () => {
    const changes = await prepareChanges();
    // Both ways: the answer to a command comes after one and a half times the limit.
    proxies[0].delay(TIMEOUT_MS * 0.75);
    const { outcomes, possible } = await attempt(servers[0], changes);
    expect(outcomes.done).toBe(0);
    expect(await seen(servers[0], changes[1]!.name)).toBe(changes[1]!.before);
    const { registry } = await untilState(servers[0], 'degraded');
    expect(registry.reason).toMatch(/did not answer within 1000 ms|cannot reach|was lost/);
    proxies[0].restore();
    await verify(possible);
  });

  it.each(['all', 'answers'] as const)('with a stalled connection (%s) as well', async (what) => {
    const changes = await prepareChanges();
    proxies[0].stall(what);
    // Ends while nothing is passed on: by the limits of its commands, not by the patience of TCP.
    const { outcomes, possible } = await attempt(servers[0], changes);
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
    const second = await uploaded(a, 'retried', c[1].dir);
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
      expect((await complete(server, 'kept')).body.adapter_generation).toBe(c[0].generation);
      for (const ask of [
        () => server.upload('kept', c[1].dir),
        () => server.upload('another', c[1].dir),
        () => remove(server, 'kept'),
        () => complete(server, 'never-seen'),
      ]) {
        await until('it is refused because of the loss', ask, ({ status, body }) => {
          expect(status).toBe(503);
          return body.error.code === 'registry_lost';
        });
      }
    }
    // A server that starts now makes a new registry of the empty Redis; the others do not join it.
    const fresh = await startTestServer([...PATIENT_ARGS, '--redis', redis.url]);
    expect((await fresh.upload('kept', c[2].dir)).status).toBe(201);
    for (const server of servers) {
      await until(
        'the other registry is seen',
        () => health(server),
        ({ registry }) => registry.state === 'lost' && /another/.test(registry.reason),
      );
      expect((await complete(server, 'kept')).body.adapter_generation).toBe(c[0].generation);
    }
    await fresh.end();

    await redis.kill9();
    for (const file of await readdir(redis.dir))
      await rm(path.join(redis.dir, file), { recursive: true });
    await cp(backup, redis.dir, { recursive: true });
    await rm(backup, { recursive: true });
    await redis.restart();
    for (const server of servers) await untilState(server, 'ok');
    expect(await seen(a, 'kept')).toBe(c[0].generation);
    expect((await uploaded(b, 'kept', c[1].dir)).status).toBe(200);
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
    expect((await uploaded(b, 'evicted', c[1].dir)).status).toBe(200);
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
        await until(
          'the damage is seen',
          () => complete(server, name),
          ({ body }) => body.error?.code === 'store_corrupt',
        );
        await untilAnswers(server, 'beside', c[1]);
        const list = (await server.call('GET', '/v1/adapters')).body;
        expect(list.damaged.map((each: Json) => each.name)).toEqual([name]);
        const rolled = await made('a rollback is answered', () => rollback(server, name));
        expect(rolled.body.error.code).toBe('store_corrupt');
        expect((await health(server)).adapters.damaged).toBe(1);
      }
      if (method === 'PUT') {
        expect((await uploaded(b, name, c[2].dir)).status).toBe(200);
      } else {
        await removed(a, name);
      }
      for (const server of servers) {
        await until(
          'the other server knows it as well',
          () => complete(server, name),
          ({ status }) => status !== 500,
        );
        await untilAnswers(server, name, method === 'PUT' ? c[2] : undefined);
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
      for (const ask of [
        () => a.upload('full', c[1].dir),
        () => b.upload('more', c[1].dir),
        () => b.call('POST', '/v1/adapters/full/pin'),
      ]) {
        await until('it is refused for want of memory', ask, ({ status, body }) => {
          expect(status).toBe(503);
          return body.error.message.includes('OOM');
        });
      }
      expect(await seen(a, 'more')).toBeUndefined();
      await untilAnswers(b, 'full', c[0]);
      await removed(b, 'full');
    } finally {
      await redis.command('CONFIG', 'SET', 'maxmemory', '0');
    }
    await uploaded(a, 'full', c[1].dir);
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
      expect((await uploaded(a, 'moved', c[1].dir)).status).toBe(200);
      await uploaded(b, 'lost', c[1].dir);
      await removed(a, 'removed');
      await untilAnswers(b, 'moved', c[1]);
      for (const proxy of proxies) {
        proxy.target(replica.port);
        proxy.cut();
      }
      for (const server of servers) {
        await untilAnswers(server, 'moved', c[0]);
        await untilAnswers(server, 'removed', c[0]);
        await untilAnswers(server, 'lost', undefined);
        expect((await untilState(server, 'ok')).status).toBe('ok');
      }
      // Life goes on there, from the same revisions that the old primary gave to other changes.
      expect((await uploaded(b, 'moved', c[2].dir)).status).toBe(200);
      await uploaded(a, 'lost', c[0].dir);
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
      await untilAnswers(server, 'moved', c[1]);
      await untilAnswers(server, 'removed', undefined);
    }
  });

  it('is safe where changes wait for a replica', async () => {
    const careful = await startTestServer([
      ...[...ARGS, '--redis', redis.url, '--redis-prefix', 'careful'],
      ...['--redis-wait-replicas', '1', '--redis-timeout-ms', '3000'],
    ]);
    const replica = await startRedis();
    try {
      let tries = 0;
      const alone = await until(
        'a change is made that nobody confirms',
        () => careful.upload(`alone-${tries++}`, c[0].dir),
        ({ status, body }) => {
          expect(status).toBe(503);
          return body.error.code === UNKNOWN && body.error.message.includes('0 of 1');
        },
      );
      expect(alone.body.error.message).toMatch(/The change is made/);
      await untilAnswers(careful, `alone-${tries - 1}`, c[0]);
      await replica.command('REPLICAOF', '127.0.0.1', String(redis.port));
      // The same content again would be no change.
      await until(
        'a change is confirmed',
        () => careful.upload('waited', c[tries++ % 2]!.dir),
        ({ status }) => status < 300,
      );
      const key = '{careful:v1}:name:waited';
      const confirmed = c[(tries - 1) % 2]!.generation;
      expect(await replica.command('HGET', key, 'entry')).toContain(confirmed);
    } finally {
      await careful.end();
      await replica.stop();
    }
  });
});

describe('one Redis', () => {
  it('for two deployments keeps them apart', async () => {
    const [a] = servers;
    const other = await startTestServer([
      ...[...PATIENT_ARGS, '--redis', redis.url, '--redis-prefix', 'other'],
    ]);
    try {
      await uploaded(a, 'same', c[0].dir);
      expect((await other.upload('same', c[1].dir)).status).toBe(201);
      await untilAnswers(a, 'same', c[0]);
      await untilAnswers(other, 'same', c[1]);
      expect((await other.call('GET', '/v1/adapters')).body.data).toHaveLength(1);
      const replicas = await until(
        'it announced itself',
        async () => (await other.call('GET', '/v1/replicas')).body.data as Json[],
        (data) => data.length > 0,
      );
      expect(replicas.map(({ url }) => url)).toEqual([other.url]);
      expect((await remove(other, 'same')).status).toBe(200);
      await untilAnswers(a, 'same', c[0]);
    } finally {
      await other.end();
    }
  });
});
