/**
 * kill -9 of a server or of Redis at random instants during uploads, replaces and removals. After
 * each: no acknowledged change is lost, no adapter is torn, and every answer is that of the content
 * that the server says answered. Redis runs with appendfsync always.
 */
import { once } from 'node:events';
import { describe, expect, it } from 'vitest';
import {
  answerOf,
  askBody,
  CONTENT_MODEL_DIR,
  type Contents,
  makeContents,
} from '../support/contents.ts';
import { Random } from '../support/random.ts';
import { startRedis } from '../support/redis.ts';
import {
  type Json,
  readAdapterFiles,
  startTestServer,
  type TestServer,
} from '../support/server.ts';
import { PATIENCE_MS, until } from '../support/until.ts';

const SEED = Number(process.env.LORAMUX_FUZZ_SEED ?? 909);
const NAMES = ['a', 'b', 'c', 'd'];
/** Longest time between two kills, milliseconds. */
const CALM_MS = 200;
const ABSENT = 'absent';
/** Codes of changes that were certainly not made. */
const REFUSALS = ['registry_unavailable', 'blob_unavailable', 'blob_missing', 'shutting_down'];
/** Codes of answers that say nothing of a name: a busy Redis missed its time. */
const AWAY = ['registry_unavailable', 'blob_unavailable', 'blob_missing'];

/** What a name may be: one state when everything was acknowledged, more after an unknown outcome. */
type Possible = Map<string, Set<string>>;

interface World {
  readonly servers: TestServer[];
  readonly contents: Contents;
  readonly random: Random;
  readonly possible: Possible;
  stopped: boolean;
  acknowledged: number;
  unknown: number;
}

interface Outcome {
  readonly status: number;
  readonly body: Json;
}

/** Changes one name once and notes what it may be now. */
async function change(world: World, name: string): Promise<void> {
  const { random, contents, servers, possible } = world;
  const server = random.pick(servers);
  const content = random.pick(contents.list);
  const removes = random.chance(0.25);
  const target = removes ? ABSENT : content.generation;
  const before = possible.get(name)!;
  // From the moment it is sent, either may be true.
  possible.set(name, new Set([...before, target]));
  let outcome: Outcome;
  try {
    outcome = removes
      ? await server.call('DELETE', `/v1/adapters/${name}`)
      : await server.uploadFiles(name, await readAdapterFiles(content.dir));
  } catch {
    world.unknown += 1;
    return;
  }
  const code: string | undefined = outcome.body?.error?.code;
  if (outcome.status < 300) {
    world.acknowledged += 1;
    possible.set(name, new Set([target]));
  } else if (code === 'adapter_not_found') {
    expect([...before], `${name} was removed already`).toContain(ABSENT);
    possible.set(name, new Set([ABSENT]));
  } else if (code === 'registry_outcome_unknown' || code === undefined) {
    world.unknown += 1;
  } else {
    expect(REFUSALS, JSON.stringify(outcome.body)).toContain(code);
    possible.set(name, before);
  }
}

/** One writer; its names are changed by nobody else. */
async function write(world: World, names: readonly string[]): Promise<void> {
  while (!world.stopped) {
    await change(world, world.random.pick(names));
    await new Promise(setImmediate);
  }
}

/** Waits until every server has read the registry again. */
async function settled(servers: readonly TestServer[]): Promise<void> {
  for (const server of servers) {
    await until(
      'the server is well again',
      async () => (await server.call('GET', '/health')).body,
      ({ status }) => status === 'ok',
    );
  }
}

/** What a server says a name is; the answer must be that content's. Undefined when it cannot say. */
async function observe(
  world: World,
  server: TestServer,
  name: string,
): Promise<string | undefined> {
  const { status, body } = await server.call('POST', '/v1/completions', askBody(name));
  if (status === 404) return ABSENT;
  if (status === 503) {
    expect(AWAY, JSON.stringify(body)).toContain(body.error.code);
    return undefined;
  }
  expect(status, JSON.stringify(body)).toBe(200);
  const generation: string = body.adapter_generation;
  expect(answerOf(body), `${name} answers as its generation`).toBe(
    world.contents.byGeneration(generation).answer,
  );
  return generation;
}

/**
 * Every server must show one and the same state, among the possible ones. What one server was told
 * last reaches the others within a moment.
 */
async function verify(world: World): Promise<void> {
  await settled(world.servers);
  for (const name of NAMES) {
    const possible = [...world.possible.get(name)!];
    const [first] = await until(
      `${name} is the same everywhere after the kill, one of ${possible.join(' and ')}`,
      () => Promise.all(world.servers.map((server) => observe(world, server, name))),
      ([one, ...others]) =>
        one !== undefined && possible.includes(one) && others.every((other) => other === one),
    );
    world.possible.set(name, new Set([first!]));
  }
}

/** The next change that is acknowledged. */
async function acknowledgement(world: World): Promise<void> {
  const before = world.acknowledged;
  const endMs = performance.now() + PATIENCE_MS;
  while (world.acknowledged === before) {
    if (performance.now() > endMs) throw new Error('no change was acknowledged');
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}

/** A kill, and afterwards what starts the killed one again. */
type Kill = () => Promise<() => Promise<void>>;

async function rounds(world: World, count: number, kill: Kill): Promise<void> {
  for (let round = 0; round < count; round++) {
    world.stopped = false;
    const writers = [write(world, NAMES.slice(0, 2)), write(world, NAMES.slice(2))];
    // A server's first change is slow; most kills should come among those that are not.
    if (world.random.chance(0.7)) await acknowledgement(world);
    const pauseMs = world.random.int(0, CALM_MS);
    await new Promise((resolve) => setTimeout(resolve, pauseMs));
    const restart = await kill();
    world.stopped = true;
    // Changes under way wait for Redis to come back, or fail; both are to be seen.
    await Promise.all([restart(), ...writers]);
    await verify(world);
  }
}

const newWorld = (servers: TestServer[], contents: Contents, seed: number): World => ({
  servers,
  contents,
  random: new Random(seed),
  possible: new Map(NAMES.map((name) => [name, new Set([ABSENT])])),
  stopped: false,
  acknowledged: 0,
  unknown: 0,
});

/** Kills a server; another one starts on its data folder. */
async function killServer(servers: TestServer[], index: number, args: readonly string[]) {
  const { child, dataDir } = servers[index]!;
  child.kill('SIGKILL');
  await once(child, 'exit');
  return async () => {
    servers[index] = await startTestServer(args, { dataDir });
  };
}

describe(`kill -9 (seed ${SEED})`, () => {
  it('loses nothing of the fleet registry, 200 times', async () => {
    const contents = await makeContents(6);
    const redis = await startRedis({ appendfsync: 'always' });
    const args = ['--model', CONTENT_MODEL_DIR, '--redis', redis.url];
    args.push('--registry-reconcile-ms', '200', '--blob-grace-ms', '1000', '--log-level', 'fatal');
    args.push('--redis-timeout-ms', '1000');
    const owned = await Promise.all([startTestServer(args), startTestServer(args)]);
    const world = newWorld([...owned], contents, SEED);
    try {
      await rounds(world, 200, async () => {
        if (world.random.chance(0.7)) {
          await redis.kill9();
          return () => redis.restart();
        }
        return killServer(world.servers, world.random.int(0, 1), args);
      });
      console.log(`${world.acknowledged} acknowledged, ${world.unknown} unknown changes`);
      expect(world.acknowledged).toBeGreaterThan(200);
    } finally {
      await Promise.all(world.servers.map((server) => server.stop()));
      await Promise.all(owned.map((server) => server.end()));
      await redis.stop();
      await contents.remove();
    }
  }, 7_200_000);

  it('loses nothing of the embedded registry, 25 times', async () => {
    const contents = await makeContents(4);
    const args = ['--model', CONTENT_MODEL_DIR];
    const owned = await startTestServer(args);
    const world = newWorld([owned], contents, SEED + 1);
    try {
      await rounds(world, 25, () => killServer(world.servers, 0, args));
      expect(world.acknowledged).toBeGreaterThan(25);
    } finally {
      await world.servers[0]!.stop();
      await owned.end();
      await contents.remove();
    }
  }, 1_800_000);
});
