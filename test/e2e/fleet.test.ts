/** Three real servers and one real Redis: what one is told, all know, and trouble stays contained. */
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  answerOf,
  askBody,
  CONTENT_MODEL,
  type Contents,
  makeContents,
} from '../support/contents.ts';
import { type Fleet, startFleet, untilAnswers } from '../support/fleet.ts';
import { type Json, readAdapterFiles, type TestServer } from '../support/server.ts';
import { until } from '../support/until.ts';

const CONTENTS = 5;
const PUSHES = 100;

const completion = (server: TestServer, model: string, more = {}) =>
  server.call('POST', '/v1/completions', askBody(model, more));
const health = async (server: TestServer): Promise<Json> =>
  (await server.call('GET', '/health')).body;

describe('a fleet', () => {
  let fleet: Fleet;
  let contents: Contents;
  /** Ended servers whose data folders are still in use. */
  const leftOver: TestServer[] = [];
  beforeAll(async () => {
    [contents, fleet] = await Promise.all([
      makeContents(CONTENTS),
      startFleet({ replicas: 3, args: ['--max-loras', '4', '--registry-reconcile-ms', '500'] }),
    ]);
  });
  afterAll(async () => {
    await fleet?.end();
    for (const server of leftOver) await server.end();
    await contents?.remove();
  });

  it(`answers everywhere with what was pushed to one, ${PUSHES} times`, async () => {
    const slowest: number[] = [];
    for (let i = 0; i < PUSHES; i++) {
      const content = contents.list[i % CONTENTS]!;
      const to = fleet.servers[i % 3]!;
      const name = i % 2 === 0 ? 'shared' : `pushed-${i}`;
      expect((await to.upload(name, content.dir)).body.generation).toBe(content.generation);
      const others = fleet.servers.filter((server) => server !== to);
      const times = await Promise.all(others.map((server) => untilAnswers(server, name, content)));
      slowest.push(Math.max(...times));
    }
    slowest.sort((a, b) => a - b);
    console.log(
      `push to correct answer elsewhere, ms: median ${slowest[PUSHES / 2]!.toFixed(0)}, ` +
        `largest ${slowest.at(-1)!.toFixed(0)}`,
    );
  });

  it('moves, splits, rolls back and removes a name everywhere', async () => {
    const [a, b, c] = fleet.servers as [TestServer, TestServer, TestServer];
    const [first, second] = contents.list as [Contents['list'][0], Contents['list'][0]];
    await a.upload('moving', first.dir);
    await a.upload('moving', second.dir);
    await untilAnswers(b, 'moving', second);
    const rolled = await b.call('POST', '/v1/adapters/moving/rollback', {});
    expect(rolled).toMatchObject({ status: 200, body: { generation: first.generation } });
    await Promise.all([a, c].map((server) => untilAnswers(server, 'moving', first)));
    const split = { generation: second.generation, weight: 0.5 };
    expect((await c.call('PUT', '/v1/adapters/moving/split', split)).status).toBe(200);
    await until(
      'the split arrives',
      async () => (await a.call('GET', '/v1/adapters/moving')).body,
      (body) => body.split?.generation === second.generation,
    );
    const sides = new Map<string, number>();
    for (let key = 0; key < 40; key++) {
      const answers = await Promise.all(
        [a, c, a].map((server) => completion(server, 'moving', { split_key: `user-${key}` })),
      );
      const generations = new Set(answers.map(({ body }) => body.adapter_generation as string));
      expect(generations.size).toBe(1);
      const [generation] = generations as unknown as [string];
      const content = contents.byGeneration(generation);
      for (const { body } of answers) expect(answerOf(body)).toBe(content.answer);
      sides.set(generation, (sides.get(generation) ?? 0) + 1);
    }
    expect([...sides.keys()].sort()).toEqual([first.generation, second.generation].sort());
    expect((await b.call('DELETE', '/v1/adapters/moving')).status).toBe(200);
    for (const server of [a, c]) {
      await until(
        'the removal arrives',
        () => completion(server, 'moving'),
        ({ status }) => status === 404,
      );
    }
  });

  it('lets exactly one of two replicas win a compare-and-set', async () => {
    const [a, b] = fleet.servers as [TestServer, TestServer];
    const put = await a.upload('contested', contents.list[0]!.dir);
    let current: string = put.body.generation;
    for (let round = 0; round < 40; round++) {
      const challengers = contents.list.filter(({ generation }) => generation !== current);
      const answers = await Promise.all(
        [a, b].map(async (server, i) => {
          const form = new FormData();
          const files = await readAdapterFiles(challengers[(round + i) % 4]!.dir);
          for (const [file, bytes] of Object.entries(files))
            form.set(file, new Blob([bytes]), file);
          const response = await fetch(`${server.url}/v1/adapters/contested`, {
            method: 'PUT',
            headers: { 'if-match': `"${current}"` },
            body: form,
          });
          return { status: response.status, body: (await response.json()) as Json };
        }),
      );
      const winners = answers.filter(({ status }) => status === 200);
      const losers = answers.filter(({ status }) => status === 412);
      expect([winners.length, losers.length], JSON.stringify(answers)).toEqual([1, 1]);
      current = winners[0]!.body.generation;
      expect(losers[0]!.body.error.current_generation).toBe(current);
    }
  });

  it('lists its replicas and where an adapter is warm; a killed one goes', async () => {
    const short = await fleet.start(['--replica-ttl-ms', '5000', '--replica-id', 'short-lived']);
    await untilAnswers(
      short,
      'shared',
      contents.byGeneration((await short.call('GET', '/v1/adapters/shared')).body.generation),
    );
    const listed = await until(
      'the replica lists its adapter',
      async () => (await fleet.servers[0]!.call('GET', '/v1/replicas')).body.data as Json[],
      (data) =>
        data.length === 4 &&
        data.some(
          ({ id, adapters }) =>
            id === 'short-lived' && adapters.some((a: Json) => a.names.includes('shared')),
        ),
    );
    expect(listed.filter(({ self }) => self === true)).toHaveLength(1);
    expect(listed.map(({ url }) => url).sort()).toEqual(fleet.servers.map(({ url }) => url).sort());
    fleet.servers.splice(fleet.servers.indexOf(short), 1);
    short.child.kill('SIGKILL');
    await until(
      'the dead replica goes',
      async () => (await fleet.servers[0]!.call('GET', '/v1/replicas')).body.data as Json[],
      (data) => data.length === 3 && data.every(({ id }) => id !== 'short-lived'),
    );
    await short.end();
  });

  it('serves on without Redis, refuses changes, and catches up by itself', async () => {
    const [a, b] = fleet.servers as [TestServer, TestServer];
    const [first, second] = contents.list as [Contents['list'][0], Contents['list'][0]];
    await a.upload('steady', first.dir);
    await untilAnswers(b, 'steady', first);
    await fleet.redis.kill9();
    await until(
      'the loss is noticed',
      () => health(a),
      ({ status }) => status === 'degraded',
    );
    const still = await completion(b, 'steady');
    expect([still.status, answerOf(still.body)]).toEqual([200, first.answer]);
    expect((await completion(b, CONTENT_MODEL)).status).toBe(200);
    for (const refused of [
      await a.upload('steady', second.dir),
      await a.call('DELETE', '/v1/adapters/steady'),
      await a.call('POST', '/v1/adapters/steady/rollback', {}),
      await completion(a, 'never-seen'),
    ]) {
      expect(refused).toMatchObject({ status: 503 });
      expect(['registry_unavailable', 'registry_outcome_unknown']).toContain(
        refused.body.error.code,
      );
    }
    await fleet.redis.restart();
    for (const server of fleet.servers) {
      await until(
        'the return is noticed',
        () => health(server),
        ({ status }) => status === 'ok',
      );
    }
    expect((await a.upload('steady', second.dir)).status).toBe(200);
    await untilAnswers(b, 'steady', second);
  });

  it('waits for Redis at start, or serves from its disk cache, as configured', async () => {
    const [a] = fleet.servers as [TestServer];
    const content = contents.list[1]!;
    await a.upload('cached', content.dir);
    const before = await fleet.start();
    await untilAnswers(before, 'cached', content);
    const cache = path.join(before.dataDir, 'cache', 'registry.json');
    await until(
      'the registry is cached on disk',
      () => readFile(cache, 'utf8').catch(() => ''),
      (text) => text.includes('"cached"'),
    );
    fleet.servers.splice(fleet.servers.indexOf(before), 1);
    before.child.kill('SIGKILL');
    await new Promise((resolve) => before.child.once('exit', resolve));
    await fleet.redis.kill9();
    // It looks for Redis for as long as a command may take.
    const args = ['--redis-at-start', 'cached', '--redis-timeout-ms', '2000'];
    const cached = await fleet.start(args, before.dataDir);
    expect(await health(cached)).toMatchObject({
      status: 'degraded',
      registry: { state: 'degraded' },
    });
    const answer = await completion(cached, 'cached');
    expect([answer.status, answerOf(answer.body)]).toEqual([200, content.answer]);
    const waiting = fleet.start(['--redis-at-start', 'wait']);
    await fleet.redis.restart();
    const waited = await waiting;
    await untilAnswers(waited, 'cached', content);
    await until(
      'the cached one catches up',
      () => health(cached),
      ({ status }) => status === 'ok',
    );
    leftOver.push(before);
  });
});
