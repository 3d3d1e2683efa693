/**
 * Malformed requests of every route and malformed socket frames, against a real server with a real
 * model: always an answer of the contract, never a 500, nothing left over, and right answers afterwards.
 * `LORAMUX_FUZZ_CASES=<n>` makes it longer, `LORAMUX_FUZZ_SEED=<seed>` takes other cases.
 */
import { mkdtemp, readdir, readlink, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import Schema from 'typebox/schema';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ERRORS, type ErrorCode } from '../../src/errors.ts';
import { ErrorSchema } from '../../src/http/schemas/error.ts';
import { GenerateFrameSchema } from '../../src/http/schemas/stream.ts';
import { floodModel } from '../support/flood.ts';
import { type MutationContext, malformed, validRequests } from '../support/http-mutations.ts';
import { type Json, readOpenApi } from '../support/openapi.ts';
import { Random } from '../support/random.ts';
import { abandon, exchange, parseAnswers, type RawAnswer } from '../support/raw-http.ts';
import { readAdapterFiles, startTestServer, type TestServer } from '../support/server.ts';
import { FRAMES_PER_SOCKET, socketOfFrames } from '../support/socket-mutations.ts';
import { until } from '../support/until.ts';

const SEED = Number(process.env.LORAMUX_FUZZ_SEED ?? 20_261_122);
const CASES = Number(process.env.LORAMUX_FUZZ_CASES ?? 3000);
/** Connections at once. */
const CLIENTS = 32;
const WARM_UP = 500;
/** A small heap: what is not released ends the server. */
const NODE_OPTIONS = '--max-old-space-size=96';

const { document } = readOpenApi();
const ASK = { model: 'flood', prompt: [5, 6, 7], max_tokens: 6, temperature: 0, logprobs: 0 };

let folder: string;
let server: TestServer;
let context: MutationContext;
let right: unknown;

/** Asked again when the machine was too busy to send it within the server's short limit. */
const call = (method: string, route: string, body?: unknown) =>
  until(
    `${route} is asked in time`,
    () => server.call(method, route, body),
    ({ status }) => status !== 408,
  );

const answerAlone = async () => {
  const { status, body } = await call('POST', '/v1/completions', ASK);
  expect(status, JSON.stringify(body)).toBe(200);
  return body.choices;
};

/** Valid bodies by route; the others are made of openapi.yaml's examples. */
function bodiesOf(adapterPath: string): Record<string, Json[]> {
  const bodies: Record<string, Json[]> = {};
  for (const [route, methods] of Object.entries(document.paths)) {
    for (const { requestBody } of Object.values(methods)) {
      const { example, examples = {} } = requestBody?.content['application/json'] ?? {};
      const values = [example, ...Object.values(examples).map(({ value }) => value)];
      const known = bodies[route] ?? [];
      bodies[route] = [...known, ...values.filter((value) => value !== undefined)];
    }
  }
  // Names that are there, and few tokens: what is accepted is generated.
  const text = JSON.stringify(bodies)
    .replaceAll('"demo"', '"flood"')
    .replaceAll('"subtract"', '"a"')
    .replaceAll('"team-a/subtract"', JSON.stringify(adapterPath));
  return JSON.parse(text) as Record<string, Json[]>;
}

async function multipart(dir: string): Promise<{ type: string; body: Buffer }> {
  const form = new FormData();
  for (const [name, bytes] of Object.entries(await readAdapterFiles(dir))) {
    form.set(name, new Blob([bytes]), name);
  }
  const response = new Response(form);
  return {
    type: response.headers.get('content-type')!,
    body: Buffer.from(await response.arrayBuffer()),
  };
}

beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'loramux-fuzz-'));
  const { modelDir, adapters } = await floodModel(folder, 2);
  server = await startTestServer(
    [
      ...['--model', modelDir, '--max-loras', '2', '--max-model-len', '64', '--max-choices', '4'],
      // What is not sent in full, or not followed by anything, ends soon.
      ...['--headers-timeout-ms', '500', '--request-timeout-ms', '500'],
      ...['--keep-alive-timeout-ms', '500'],
      // Nothing is fetched from elsewhere.
      ...['--adapter-root', folder, '--remote-sources', 'false', '--max-adapters', '20'],
      ...['--body-limit-kb', '64', '--max-queued-requests', '64', '--log-level', 'silent'],
    ],
    { env: { NODE_OPTIONS } },
  );
  for (const [i, name] of ['a', 'b'].entries()) {
    expect((await server.upload(name, adapters[i]!.dir)).status).toBe(201);
  }
  const requests = validRequests(
    document,
    ['a', 'b', 'team/one', 'flood'],
    bodiesOf(path.relative(folder, adapters[0]!.dir)),
  );
  const upload = await multipart(adapters[0]!.dir);
  const put = { method: 'PUT', path: '/v1/adapters/c', json: undefined, body: upload.body };
  for (let i = 0; i < 4; i++) {
    requests.push({ ...put, headers: [['content-type', upload.type]] });
  }
  context = {
    random: new Random(SEED),
    requests,
    fields: [...Object.keys(GenerateFrameSchema.properties), 'messages', 'stream', 'path', 'x'],
  };
  right = await answerAlone();
});
afterAll(async () => {
  expect(await server?.end()).toBe(0);
  await rm(folder, { recursive: true, force: true });
});

/** The code of an error in OpenAI's shape, or in that of SGLang's routes. */
function codeOf(answer: Json): ErrorCode | undefined {
  if (Schema.Check(ErrorSchema, answer)) {
    return (answer as { error: { code: ErrorCode } }).error.code;
  }
  const { success, error_message: message } = answer as { [key: string]: Json };
  return success === false ? (String(message).split(':', 1)[0] as ErrorCode) : undefined;
}

/** What an answer has that the contract does not; undefined: nothing. */
function fault({ status, headers, body }: RawAnswer): string | undefined {
  if (status < 400) return undefined;
  if (status >= 500 && status !== 503) return `status ${status}`;
  // Answers to HEAD have no body.
  if (body === '') return Number(headers.get('content-length')) > 0 ? undefined : 'no body';
  const code = codeOf(JSON.parse(body) as Json);
  if (code === undefined) return `no error object: ${body}`;
  // SGLang's routes answer every refusal with 400.
  const inTable =
    'error' in (JSON.parse(body) as object) ? ERRORS[code]?.status === status : code in ERRORS;
  if (!inTable) return `${code} with status ${status}`;
  return undefined;
}

/** Runs `count` cases, a few at once. */
async function inTurn(count: number, one: (i: number) => Promise<void>): Promise<void> {
  let next = 0;
  const client = async () => {
    while (next < count) await one(next++);
  };
  await Promise.all(Array.from({ length: CLIENTS }, client));
}

/**
 * Sockets and files that the server has open. Pipes and event queues are its threads', which start
 * when they are first needed.
 */
async function openFiles(): Promise<number> {
  const folder = `/proc/${server.child.pid}/fd`;
  const links = await Promise.all(
    // What is closed meanwhile is not there any more.
    (await readdir(folder)).map((fd) => readlink(path.join(folder, fd)).catch(() => 'pipe:')),
  );
  return links.filter((link) => !/^(?:pipe|anon_inode):/.test(link)).length;
}

async function nothingLeft(filesBefore: number): Promise<void> {
  const { engine } = await until(
    'nothing runs',
    async () => (await call('GET', '/health')).body,
    (body) => body.engine.running + body.engine.waiting === 0,
  );
  expect(engine.kv_blocks_used).toBe(0);
  const { data } = (await call('GET', '/v1/adapters')).body;
  for (const { residency } of data) expect(residency.references).toBe(0);
  await until('connections are closed', openFiles, (files) => files <= filesBefore + 4);
  expect((await call('GET', '/health')).status).toBe(200);
  expect(await answerAlone()).toEqual(right);
  expect(server.child.exitCode).toBeNull();
}

describe(`malformed input (seed ${SEED})`, () => {
  it(`${CASES} requests`, async () => {
    const statuses = new Map<number, number>();
    const silent: string[] = [];
    const one = async () => {
      const bytes = malformed(context);
      // Some clients leave in the middle.
      if (context.random.chance(0.05)) {
        await abandon(server.url, bytes.subarray(0, context.random.int(0, bytes.length)));
        return;
      }
      const answers = parseAnswers(await exchange(server.url, bytes));
      const shown = () =>
        `${bytes.subarray(0, 2000).toString('latin1')}\n${JSON.stringify(answers)}`;
      for (const answer of answers) {
        expect(fault(answer), shown()).toBeUndefined();
        statuses.set(answer.status, (statuses.get(answer.status) ?? 0) + 1);
      }
      if (answers.length === 0) silent.push(shown().slice(0, 300));
    };
    // The first ones start threads, which have files of their own.
    await inTurn(WARM_UP, one);
    const filesBefore = await openFiles();
    await inTurn(CASES, one);
    // A connection without a request needs no answer.
    expect(silent.filter((text) => text.trim().length > 10)).toEqual([]);
    // The mutations must reach what they are there for.
    for (const status of [200, 400, 404, 405, 413, 415, 431]) {
      expect(statuses.get(status), JSON.stringify([...statuses])).toBeGreaterThan(0);
    }
    await nothingLeft(filesBefore);
  });

  it(`${CASES} socket frames`, async () => {
    const codes = new Map<string, number>();
    const { server: schemas } = document.paths['/v1/stream']!.get!['x-websocket']!;
    const one = async () => {
      const { frames, closeCode } = await socketOfFrames(server.url, context);
      for (const frame of frames) {
        const fits = schemas.some((schema) => Schema.Errors(schema, frame)[0]);
        expect(fits, JSON.stringify(frame)).toBe(true);
        if (frame.type !== 'error') continue;
        const { code } = frame.error as { code: ErrorCode };
        expect([500, 501, 502, undefined], JSON.stringify(frame)).not.toContain(
          ERRORS[code]?.status,
        );
        codes.set(code, (codes.get(code) ?? 0) + 1);
      }
      expect([1000, 1002, 1007, 1008, 1009]).toContain(closeCode);
      codes.set(String(closeCode), (codes.get(String(closeCode)) ?? 0) + 1);
    };
    await inTurn(WARM_UP / FRAMES_PER_SOCKET, one);
    const filesBefore = await openFiles();
    await inTurn(Math.ceil(CASES / FRAMES_PER_SOCKET), one);
    const reached = ['invalid_request', 'unknown_field', 'model_not_found', '1000', '1002', '1009'];
    for (const code of reached) {
      expect(codes.get(code), JSON.stringify([...codes])).toBeGreaterThan(0);
    }
    await nothingLeft(filesBefore);
  });
});
