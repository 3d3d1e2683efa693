/**
 * One name over two generations, on real servers: every key keeps its side over REST, server-sent
 * events, WebSocket and replicas, the weight is kept, and what runs is not touched by what changes.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Answer, complete, send, sendJson } from '../support/clients.ts';
import {
  answerOf,
  askBody,
  type Content,
  type Contents,
  makeContents,
} from '../support/contents.ts';
import { type Fleet, startFleet, untilAnswers } from '../support/fleet.ts';
import { type Json, readAdapterFiles, type TestServer } from '../support/server.ts';
import { type Streamed, StreamSocket, streamSse } from '../support/streams.ts';
import { until } from '../support/until.ts';

const KEYS = Array.from({ length: 400 }, (_, i) => `user-${i}`);
/** Tokens of a long stream: many, so that changes come while it runs. */
const LONG = 300;

let fleet: Fleet;
let contents: Contents;
let a: TestServer;
let b: TestServer;
let c: readonly Content[];
beforeAll(async () => {
  [contents, fleet] = await Promise.all([
    makeContents(4),
    startFleet({ replicas: 2, args: ['--max-loras', '6', '--registry-reconcile-ms', '300'] }),
  ]);
  [a, b] = fleet.servers as [TestServer, TestServer];
  c = contents.list;
});
afterAll(async () => {
  await fleet?.end();
  await contents?.remove();
});

async function putCanary(
  server: TestServer,
  name: string,
  content: Content,
  weight: number,
): Promise<Answer> {
  const body = new FormData();
  for (const [file, bytes] of Object.entries(await readAdapterFiles(content.dir))) {
    body.set(file, new Blob([bytes]), file);
  }
  return send(server, 'PUT', `/v1/adapters/${name}?canary_weight=${weight}`, { body });
}

const show = async (server: TestServer, name: string): Promise<Json> =>
  (await server.call('GET', `/v1/adapters/${name}`)).body;
const untilSplit = (server: TestServer, name: string, weight: number | undefined) =>
  until(
    `the split of ${name} arrives`,
    () => show(server, name),
    ({ split }) => split?.weight === weight,
  );

/** The side of each key, after checking that the answer is that side's. */
async function sides(server: TestServer, name: string, keys: readonly string[]) {
  const found = new Map<string, string>();
  const asking = keys.map(async (key) => {
    const { status, body } = await complete(server, name, { split_key: key, max_tokens: 6 });
    expect(status, JSON.stringify(body)).toBe(200);
    expect(answerOf(body)).toBe(contents.byGeneration(body.adapter_generation).answer);
    found.set(key, body.adapter_generation);
  });
  await Promise.all(asking);
  return found;
}

const share = (found: ReadonlyMap<string, string>, content: Content) =>
  [...found.values()].filter((generation) => generation === content.generation).length / found.size;

/** Every chunk named one and the same generation, and its tokens are that one's. */
function checkStream({ generations, tokens, named, answer }: Streamed): string {
  expect([generations.length, named]).toEqual([1, tokens]);
  expect(answer).toBe(contents.byGeneration(generations[0]!).answer);
  return generations[0]!;
}

describe('a canary', () => {
  it('gets its share, key by key the same everywhere, and keeps keys while it grows', async () => {
    const [first, second] = c as [Content, Content];
    await a.upload('growing', first.dir);
    const put = await putCanary(a, 'growing', second, 0.1);
    expect(put).toMatchObject({
      status: 200,
      body: { generation: first.generation, split: { generation: second.generation, weight: 0.1 } },
    });
    await untilSplit(b, 'growing', 0.1);
    const small = await sides(a, 'growing', KEYS);
    expect(share(small, second)).toBeGreaterThan(0.04);
    expect(share(small, second)).toBeLessThan(0.18);
    expect(await sides(b, 'growing', KEYS)).toEqual(small);

    const split = { generation: second.generation, weight: 0.5 };
    expect((await sendJson(b, 'PUT', '/v1/adapters/growing/split', split)).status).toBe(200);
    await untilSplit(a, 'growing', 0.5);
    const half = await sides(a, 'growing', KEYS);
    expect(share(half, second)).toBeGreaterThan(0.4);
    expect(share(half, second)).toBeLessThan(0.6);
    for (const [key, generation] of small) {
      if (generation === second.generation) expect(half.get(key), key).toBe(generation);
    }
  });

  it('answers streams of every kind on the same side, each chunk with its generation', async () => {
    const known = await sides(b, 'growing', KEYS.slice(0, 24));
    expect(new Set(known.values()).size).toBe(2);
    const sockets = await Promise.all([StreamSocket.open(a), StreamSocket.open(b)]);
    const asking = [...known].flatMap(([key, generation]) =>
      [
        streamSse(a, askBody('growing', { split_key: key })),
        streamSse(b, askBody('growing', { user: key })),
        ...sockets.map((socket) => socket.generate(askBody('growing', { split_key: key }))),
      ].map(async (streamed) => expect(checkStream(await streamed), key).toBe(generation)),
    );
    await Promise.all(asking);
    for (const socket of sockets) await socket.close();
  });

  it('draws sides for requests without a key', async () => {
    const generations: string[] = [];
    const drawing = Array.from({ length: 60 }, async () => {
      generations.push(checkStream(await streamSse(a, askBody('growing'))));
    });
    await Promise.all(drawing);
    expect(new Set(generations).size).toBe(2);
  });

  it('is promoted by its generation, or ended', async () => {
    const [first, second, third] = c as [Content, Content, Content];
    const promotion = { generation: second.generation };
    const promoted = await sendJson(b, 'POST', '/v1/adapters/growing/rollback', promotion);
    expect(promoted).toMatchObject({
      status: 200,
      body: { generation: second.generation, split: null },
    });
    await untilSplit(a, 'growing', undefined);
    expect(share(await sides(a, 'growing', KEYS.slice(0, 40)), second)).toBe(1);
    // A second try with another content, that is called off.
    await putCanary(b, 'growing', third, 0.5);
    await untilSplit(a, 'growing', 0.5);
    expect((await a.call('DELETE', '/v1/adapters/growing/split')).status).toBe(200);
    await untilSplit(b, 'growing', undefined);
    expect(share(await sides(b, 'growing', KEYS.slice(0, 40)), second)).toBe(1);
    const back = await a.call('POST', '/v1/adapters/growing/rollback', {});
    expect(back.body.generation).toBe(first.generation);
  });

  it.each([
    ['a new name', 'brand-new', 0, 0.5, 400, 'invalid_request'],
    ['the current content', 'refusing', 0, 0.5, 409, 'generation_current'],
    ['all requests', 'refusing', 1, 1, 400, 'invalid_request'],
    ['no request', 'refusing', 1, 0, 400, 'invalid_request'],
  ] as const)('is refused for %s', async (_what, name, content, weight, status, code) => {
    if (name === 'refusing') await a.upload(name, c[0]!.dir);
    const put = await putCanary(a, name, c[content]!, weight);
    expect(put).toMatchObject({ status, body: { error: { code } } });
  });

  it('comes under the condition that it names', async () => {
    await a.upload('conditional', c[0]!.dir);
    await untilAnswers(b, 'conditional', c[0]!);
    await a.upload('conditional', c[1]!.dir);
    const split = { generation: c[0]!.generation, weight: 0.5 };
    const route = '/v1/adapters/conditional/split';
    const stale = { 'if-match': `"${c[0]!.generation}"` };
    const refused = await sendJson(b, 'PUT', route, split, stale);
    expect(refused.status).toBe(412);
    expect(refused.body.error.current_generation).toBe(c[1]!.generation);
    expect(refused.headers.get('etag')).toBe(`"${c[1]!.generation}"`);
    const right = { 'if-match': refused.headers.get('etag')! };
    expect((await sendJson(b, 'PUT', route, split, right)).status).toBe(200);
  });
});

describe('a name that changes under running streams', () => {
  it('leaves each to its generation, to the last token', async () => {
    const [first, second, third] = c as [Content, Content, Content];
    const long = askBody('running', { max_tokens: LONG });
    const alone = new Map<string, string>();
    for (const content of [first, second, third]) {
      await a.upload('running', content.dir);
      alone.set(content.generation, (await streamSse(a, long)).answer);
    }
    await sendJson(a, 'POST', '/v1/adapters/running/rollback', { generation: first.generation });
    await putCanary(a, 'running', second, 0.5);
    await untilSplit(b, 'running', 0.5);
    const socket = await StreamSocket.open(a);
    let begun = 0;
    const onToken = () => {
      begun += 1;
    };
    const streams = Array.from({ length: 8 }, (_, i) => {
      const body = { ...long, split_key: `key-${i}` };
      return i % 2 === 0 ? streamSse(a, body, onToken) : socket.generate(body, onToken);
    });
    await until(
      'all of them run',
      () => begun,
      (tokens) => tokens >= streams.length,
    );
    // Moved, rolled back and removed, here and elsewhere, while they run.
    await sendJson(b, 'POST', '/v1/adapters/running/rollback', { generation: third.generation });
    await untilSplit(a, 'running', undefined);
    await a.upload('running', c[3]!.dir);
    await a.call('POST', '/v1/adapters/running/evict');
    await b.call('DELETE', '/v1/adapters/running');
    await until(
      'the removal arrives',
      () => complete(a, 'running'),
      ({ status }) => status === 404,
    );
    const running = (await a.call('GET', '/health')).body.engine.running;
    const results = await Promise.all(streams);
    await socket.close();
    console.log(`${running} of ${streams.length} streams still ran when the name was gone`);
    const seen = new Set<string>();
    for (const { generations, tokens, named, answer } of results) {
      expect([generations.length, tokens, named]).toEqual([1, LONG, LONG]);
      expect(answer).toBe(alone.get(generations[0]!));
      seen.add(generations[0]!);
    }
    expect([...seen].sort()).toEqual([first.generation, second.generation].sort());
    await until(
      'nothing of it stays in memory',
      () => a.metric('loramux_adapters_in_use'),
      (inUse) => inUse === 0,
    );
  });
});
