/** Malformed requests and frames by the thousand: always an answer, never a 5xx, nothing left over. */
import Schema from 'typebox/schema';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import WebSocket from 'ws';
import { COMPLETION_FIELDS } from '../../../src/http/schemas/completion.ts';
import { ErrorSchema } from '../../../src/http/schemas/error.ts';
import { ErrorFrameSchema } from '../../../src/http/schemas/stream.ts';
import { COMPLETION_UNSUPPORTED } from '../../../src/http/schemas/unsupported.ts';
import { Random } from '../../support/random.ts';
import { type TestServer, testServer, until } from './support.ts';

const SEED = Number(process.env.LORAMUX_FUZZ_SEED ?? 20261122);
const REQUESTS = 3000;
const FRAMES = 3000;

const FIELDS = [
  ...Object.keys(COMPLETION_FIELDS),
  ...Object.keys(COMPLETION_UNSUPPORTED),
  'type',
  'x',
];

let random: Random;
let server: TestServer;
beforeAll(async () => {
  server = await testServer({ engine: { maxModelLen: 64 } });
});
afterAll(() => server.close());

const pick = <T>(values: readonly T[]): T => random.pick(values);

/** Any JSON value, with a liking for the edges of what fields take. */
function value(depth = 0): unknown {
  const leaves: (() => unknown)[] = [
    () => null,
    () => random.int(0, 1) === 1,
    () => random.int(-3, 40),
    () => pick([0.5, -1e308, 1e308, 2 ** 31, 2 ** 53, -0, 1e-320]),
    () => pick(['', 'Q', 'sub', 'base', 'nobody', '\u0000', '\ud800', '你', 'x'.repeat(2000)]),
  ];
  const nested: (() => unknown)[] = [
    () => Array.from({ length: random.int(0, 5) }, () => value(depth + 1)),
    () => Array.from({ length: random.int(0, 5) }, () => random.int(-1, 300)),
    () =>
      Object.fromEntries(Array.from({ length: random.int(0, 4) }, () => [key(), value(depth + 1)])),
  ];
  return pick(depth < 3 ? [...leaves, ...leaves, ...nested] : leaves)();
}

const key = () => pick([...FIELDS, '65', '-1', '1e3', 'include_usage', '']);

/** A valid body with a few fields replaced, added or removed. */
function body(): Record<string, unknown> {
  const fields: Record<string, unknown> = { model: pick(['base', 'sub']), prompt: 'Q' };
  for (let i = random.int(0, 4); i > 0; i--) fields[pick(FIELDS)] = value();
  if (random.int(0, 9) === 0) delete fields[pick(['model', 'prompt'])];
  return fields;
}

/** A JSON text, sometimes with a damaged byte. */
function damaged(text: string): string {
  if (random.int(0, 4) > 0) return text;
  const at = random.int(0, text.length);
  return text.slice(0, at) + pick(['', '"', '{', '\u0000', ',', '\\u12']) + text.slice(at + 1);
}

describe(`fuzz (LORAMUX_FUZZ_SEED=${SEED})`, () => {
  it(`answers ${REQUESTS} requests without a 5xx`, async () => {
    random = new Random(SEED);
    const seen = new Set<number>();
    for (let i = 0; i < REQUESTS; i++) {
      const payload = damaged(JSON.stringify(body()));
      const response = await server.app.inject({
        method: 'POST',
        url: '/v1/completions',
        headers: { 'content-type': 'application/json' },
        payload,
      });
      seen.add(response.statusCode);
      expect(response.statusCode, payload).toBeLessThan(500);
      if (response.statusCode === 200) continue;
      expect(Schema.Check(ErrorSchema, response.json()), response.body).toBe(true);
    }
    expect(seen).toEqual(new Set([200, 400, 404]));
    await until(() => server.engine.numLive === 0);
    expect(server.adapters.holds).toBe(0);
  });

  it(`answers ${FRAMES} frames and keeps the socket open`, async () => {
    random = new Random(SEED + 1);
    const url = (await server.listen()).replace('http', 'ws');
    const socket = new WebSocket(`${url}/v1/stream`);
    const frames: Record<string, unknown>[] = [];
    socket.on('message', (data) => frames.push(JSON.parse(String(data))));
    await new Promise((resolve) => socket.once('open', resolve));
    for (let i = 0; i < FRAMES; i++) {
      const type = pick(['generate', 'generate', 'generate', 'cancel', 'ping', 'x', 5]);
      const frame = { type, id: pick([`${i}`, 'same', '', 7]), ...(type === 'generate' && body()) };
      socket.send(damaged(JSON.stringify(frame)), { binary: random.int(0, 50) === 0 });
      if (i % 100 === 0) await new Promise(setImmediate);
    }
    // Frames are read in order, so an answer to the last one means that all were read.
    socket.send('{"type":"generate","id":"last","model":"nobody","prompt":"Q"}');
    await until(() => frames.some(({ id }) => id === 'last'));
    const errors = frames.filter(({ type }) => type === 'error');
    expect(errors.length).toBeGreaterThan(FRAMES / 4);
    for (const frame of errors) {
      expect(Schema.Check(ErrorFrameSchema, frame), JSON.stringify(frame)).toBe(true);
      expect((frame.error as { code: string }).code).not.toBe('internal_error');
    }
    expect(socket.readyState).toBe(socket.OPEN);
    socket.close();
    await until(() => server.engine.numLive === 0 && server.adapters.holds === 0);
  });
});
