/**
 * Redis gets slow, silent, unheard or unreachable at random moments, for one server or both, while
 * both change names. Then: what was reported as done is done, what was reported as not done is not,
 * and every answer is that of the content it names.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { complete, sendJson } from '../support/clients.ts';
import { answerOf, CONTENT_MODEL_DIR, type Contents, makeContents } from '../support/contents.ts';
import { Random } from '../support/random.ts';
import { startRedis, type TestRedis } from '../support/redis.ts';
import { type Json, startTestServer, type TestServer } from '../support/server.ts';
import { startTcpProxy, type TcpProxy } from '../support/tcp-proxy.ts';
import { until } from '../support/until.ts';

const SEED = Number(process.env.LORAMUX_FUZZ_SEED ?? 77);
const ROUNDS = Number(process.env.LORAMUX_FUZZ_RUNS ?? 16);
/** More than a round can take before one of its own limits ends it. */
const ROUND_MS_MAX = 300_000;
const TIMEOUT_MS = 300;
const CONTENTS = 4;
/** Each is changed by one writer only, through either server. */
const NAMES = ['a', 'b', 'c', 'd'];
const ABSENT = 'absent';
/** Codes of changes that were certainly not made. */
const NOT_MADE = ['registry_unavailable', 'blob_unavailable', 'blob_missing'];

const TROUBLES: Readonly<Record<string, (proxy: TcpProxy) => void>> = {
  slow: (proxy) => proxy.delay(TIMEOUT_MS * 0.75),
  late: (proxy) => proxy.delay(TIMEOUT_MS * 0.45),
  stalled: (proxy) => proxy.stall('all'),
  unheard: (proxy) => proxy.stall('answers'),
  cut: (proxy) => proxy.cut(),
  refused: (proxy) => proxy.refuse(),
  frozen: (proxy) => proxy.freeze(),
};

describe(`an unsteady Redis (seed ${SEED})`, () => {
  const random = new Random(SEED);
  const possible = new Map(NAMES.map((name) => [name, new Set([ABSENT])]));
  const counts = { done: 0, refused: 0, unknown: 0 };
  let ended = 0;
  let contents: Contents;
  let redis: TestRedis;
  let proxies: TcpProxy[];
  let servers: TestServer[];
  let stopped = false;

  beforeAll(async () => {
    [contents, redis] = await Promise.all([makeContents(CONTENTS), startRedis()]);
    proxies = [await startTcpProxy(redis.port), await startTcpProxy(redis.port)];
    const starting = proxies.map(({ port }) =>
      startTestServer([
        ...['--model', CONTENT_MODEL_DIR, '--redis', `redis://127.0.0.1:${port}`],
        ...['--redis-timeout-ms', String(TIMEOUT_MS), '--registry-reconcile-ms', '100'],
        ...['--max-loras', '3', '--blob-grace-ms', '500', '--log-level', 'fatal'],
      ]),
    );
    servers = await Promise.all(starting);
  });
  afterAll(async () => {
    await Promise.all((servers ?? []).map((server) => server.end()));
    for (const proxy of proxies ?? []) await proxy.close();
    await redis?.stop();
    await contents?.remove();
  });

  async function change(name: string): Promise<void> {
    const server = random.pick(servers);
    const content = random.pick(contents.list);
    const kind = random.pick(['put', 'put', 'remove', 'rollback']);
    const before = possible.get(name)!;
    const target = kind === 'remove' ? ABSENT : content.generation;
    possible.set(name, new Set([...before, target]));
    let answer: { status: number; body: Json };
    if (kind === 'put') answer = await server.upload(name, content.dir);
    else if (kind === 'remove') answer = await server.call('DELETE', `/v1/adapters/${name}`);
    else {
      const body = { generation: content.generation };
      answer = await sendJson(server, 'POST', `/v1/adapters/${name}/rollback`, body);
    }
    ended += 1;
    const code: string | undefined = answer.body?.error?.code;
    if (answer.status < 300) {
      counts.done += 1;
      possible.set(name, new Set([target]));
    } else if (code === 'adapter_not_found') {
      expect([...before], `${name} does not exist`).toContain(ABSENT);
      possible.set(name, new Set([ABSENT]));
    } else if (code === 'generation_not_found') {
      possible.set(name, before);
    } else if (code === 'registry_outcome_unknown') {
      counts.unknown += 1;
    } else {
      expect(NOT_MADE, `${kind} ${name}: ${JSON.stringify(answer.body)}`).toContain(code);
      counts.refused += 1;
      possible.set(name, before);
    }
  }

  /** What a server answers for a name; undefined while it cannot answer. */
  async function observe(server: TestServer, name: string): Promise<string | undefined> {
    const { status, body } = await complete(server, name);
    if (status === 404) return ABSENT;
    if (status === 503) return undefined;
    expect(status, JSON.stringify(body)).toBe(200);
    const generation: string = body.adapter_generation;
    expect(answerOf(body)).toBe(contents.byGeneration(generation).answer);
    return generation;
  }

  async function write(names: readonly string[]): Promise<void> {
    while (!stopped) await change(random.pick(names));
  }

  /** Rounds are of changes, also where one takes longer than a round's pauses. */
  const changesEnd = (count: number) => {
    const last = ended + count;
    return until(
      'changes end',
      () => ended,
      (number) => number >= last,
    );
  };

  async function read(): Promise<void> {
    while (!stopped) await observe(random.pick(servers), random.pick(NAMES));
  }

  async function verify(round: string): Promise<void> {
    for (const server of servers) {
      await until(
        `${round}: the registry is ok again`,
        async () => (await server.call('GET', '/health')).body.registry,
        ({ state }) => state === 'ok',
      );
    }
    for (const name of NAMES) {
      const states = [...possible.get(name)!];
      const seen = await until(
        `${round}: ${name} is the same everywhere, one of ${states}`,
        () => Promise.all(servers.map((server) => observe(server, name))),
        ([first, ...others]) =>
          states.includes(first ?? '') && others.every((other) => other === first),
      );
      possible.set(name, new Set([seen[0]!]));
    }
  }

  it(
    `loses and invents nothing in ${ROUNDS} troubles`,
    async () => {
      for (let round = 0; round < ROUNDS; round++) {
        stopped = false;
        const workers = [write(NAMES.slice(0, 2)), write(NAMES.slice(2)), read()];
        // A failure ends the round; it is thrown below.
        for (const worker of workers) worker.catch(() => undefined);
        await Promise.race([changesEnd(2), ...workers]);
        await sleep(random.int(0, 120));
        const kind = random.pick(Object.keys(TROUBLES));
        const hit = random.pick([[proxies[0]!], [proxies[1]!], proxies]);
        for (const proxy of hit) TROUBLES[kind]!(proxy);
        await Promise.race([changesEnd(2), ...workers]);
        await sleep(random.int(0, 2 * TIMEOUT_MS));
        stopped = true;
        // In half of the rounds the last changes end before the trouble does.
        if (random.chance(0.5)) await Promise.all(workers);
        for (const proxy of hit) proxy.restore();
        await Promise.all(workers);
        await verify(`round ${round}, ${kind}`);
      }
      console.log(`changes: ${JSON.stringify(counts)}`);
      expect(counts.done).toBeGreaterThan(ROUNDS);
      expect(counts.refused + counts.unknown).toBeGreaterThan(ROUNDS / 4);
    },
    ROUNDS * ROUND_MS_MAX,
  );
});
