/** openapi.yaml against the server's own routes: paths, methods, schemas, statuses, error codes. */
import type { LightMyRequestResponse, RouteOptions } from 'fastify';
import Schema from 'typebox/schema';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ERRORS, type ErrorCode } from '../../src/errors.ts';
import { buildApp } from '../../src/http/app.ts';
import { ErrorSchema } from '../../src/http/schemas/error.ts';
import { ResponseEventSchema } from '../../src/http/schemas/responses-events.ts';
import {
  CancelFrameSchema,
  CreditFrameSchema,
  DoneFrameSchema,
  ErrorFrameSchema,
  GenerateFrameSchema,
  PingFrameSchema,
  PongFrameSchema,
  TokenFrameSchema,
} from '../../src/http/schemas/stream.ts';
import { VERSION } from '../../src/version.ts';
import { checkAnswer } from '../support/contract.ts';
import {
  bare,
  type Json,
  type JsonObject,
  type Operation,
  readOpenApi,
} from '../support/openapi.ts';
import { replica, type TestServer, testServer } from '../unit/http/support.ts';

interface Parameters {
  properties: Record<string, unknown>;
  required?: string[];
}

interface RouteSchema {
  params?: Parameters;
  querystring?: Parameters;
  headers?: Parameters;
  consumes?: string[];
  body?: JsonObject & { content?: Record<string, { schema: JsonObject }> };
  response: Record<
    string,
    JsonObject & { 'x-codes'?: ErrorCode[]; content?: Record<string, { schema: JsonObject }> }
  >;
}

const { document, unusedSchemas } = readOpenApi();
const routes = new Map<string, RouteSchema>();
let server: TestServer;

beforeAll(async () => {
  server = await testServer();
  server.adapters.fleet.push(replica('replica-1'), replica('replica-2'));
  const app = await buildApp(server.services, {
    onRoute: ({ method, url, schema }: RouteOptions) => {
      if (method === 'HEAD') return;
      const path = url.replaceAll(/:(\w+)/g, '{$1}');
      routes.set(`${String(method).toLowerCase()} ${path}`, schema as unknown as RouteSchema);
    },
  });
  await app.ready();
  await app.close();
});
afterAll(() => server.close());

const operations: [string, Operation][] = Object.entries(document.paths).flatMap(
  ([path, methods]) =>
    Object.entries(methods).map(([method, operation]): [string, Operation] => [
      `${method} ${path}`,
      operation,
    ]),
);

/** The body schemas by media type. */
function bodiesOf(body: RouteSchema['body']): Record<string, Json> {
  if (body === undefined) return {};
  const content = body.content ?? { 'application/json': { schema: body } };
  return Object.fromEntries(
    Object.entries(content).map(([type, { schema }]) => [type, bare(schema)]),
  );
}

/** Where a parameter is, and which part of a route's schema says so. Headers have no case. */
const PLACES = { path: 'params', query: 'querystring', header: 'headers' } as const;

describe('openapi.yaml', () => {
  it('is of this version', () => {
    expect(document.openapi).toMatch(/^3\.1\./);
    expect(document.info.version).toBe(VERSION);
  });

  it('has exactly the routes of the server', () => {
    expect(operations.map(([key]) => key).sort()).toEqual([...routes.keys()].sort());
  });

  it('names every operation once and uses every schema', () => {
    const ids = operations.map(([, { operationId }]) => operationId);
    expect(new Set(ids).size).toBe(ids.length);
    // The chunk is what an event of the stream holds; a media type cannot reference that.
    expect(unusedSchemas).toEqual([]);
  });

  it.each(operations)('%s: parameters and bodies', (key, operation) => {
    const route = routes.get(key)!;
    const { parameters = [], requestBody } = operation;
    for (const [place, part] of Object.entries(PLACES)) {
      const here = parameters.filter((parameter) => parameter.in === place);
      const nameOf = ({ name }: { name: string }) =>
        place === 'header' ? name.toLowerCase() : name;
      const documented = here.map((one) => [nameOf(one), bare(one.schema)]);
      const own = route[part as keyof typeof route] as Parameters | undefined;
      expect(Object.fromEntries(documented), place).toEqual(bare(own?.properties ?? {}));
      for (const one of here) {
        expect(one.required ?? false, one.name).toBe(own!.required?.includes(nameOf(one)) ?? false);
      }
    }
    const types = Object.keys(requestBody?.content ?? {});
    const bodies = bodiesOf(route.body);
    expect(types).toEqual(route.consumes ?? Object.keys(bodies));
    for (const [type, schema] of Object.entries(bodies)) {
      expect(bare(requestBody?.content[type]?.schema), type).toEqual(schema);
    }
  });

  it.each(operations)('%s: statuses, error codes and answers', (key, operation) => {
    const { response } = routes.get(key)!;
    expect(Object.keys(operation.responses).sort()).toEqual(Object.keys(response).sort());
    for (const [status, documented] of Object.entries(operation.responses)) {
      const { 'x-codes': codes, content, ...schema } = response[status]!;
      const json = documented.content?.['application/json']?.schema;
      expect(documented['x-codes'], status).toEqual(codes);
      if (codes !== undefined) {
        expect(bare(json), status).toEqual(bare(ErrorSchema));
        for (const code of codes) expect(ERRORS[code].status, code).toBe(Number(status));
      } else if (content !== undefined) {
        const types = Object.entries(documented.content ?? {});
        expect(types.map(([type, m]) => [type, bare(m.schema)])).toEqual(
          Object.entries(content).map(([type, m]) => [type, bare(m.schema)]),
        );
      } else if ('properties' in schema) {
        expect(bare(json), status).toEqual(bare(schema));
      }
    }
  });

  it('documents the events of responses', () => {
    const { content } = document.paths['/v1/responses']!.post!.responses[200]!;
    expect(bare(content!['text/event-stream']!['x-event'])).toEqual(bare(ResponseEventSchema));
  });

  it('documents the frames of the WebSocket', () => {
    const frames = document.paths['/v1/stream']?.get?.['x-websocket'];
    expect(frames?.client.map(bare)).toEqual(
      [GenerateFrameSchema, CancelFrameSchema, CreditFrameSchema, PingFrameSchema].map(bare),
    );
    expect(frames?.server.map(bare)).toEqual(
      [TokenFrameSchema, DoneFrameSchema, ErrorFrameSchema, PongFrameSchema].map(bare),
    );
  });
});

describe('examples of openapi.yaml', () => {
  /** The generations that the examples name, the current one last. */
  const EXAMPLES = [
    'c9f0f895fb98ab9159f51fd0297e236d1d5a6b7c8e9f0a1b2c3d4e5f60718293',
    '8f14e45fceea167a5a36dedd4bea2543ba5e0d1f7c2d9b3a6e4f5d6c7b8a9012',
  ];
  it('are frames of the WebSocket', () => {
    const frames = document.paths['/v1/stream']!.get!['x-websocket']!;
    for (const side of ['client', 'server'] as const) {
      for (const [i, example] of frames.examples[side].entries()) {
        expect(Schema.Errors(frames[side][i]!, example)[1], JSON.stringify(example)).toEqual([]);
      }
    }
  });

  /** Names of the examples as the server of the tests has them. */
  const named = (value: Json) =>
    JSON.parse(JSON.stringify(value).replaceAll('"demo"', '"base"')) as JsonObject;

  it('are accepted where they are sent', async () => {
    const other = await testServer();
    const { adapters } = other;
    for (const [key, operation] of operations) {
      const [method, path] = key.split(' ') as [string, string];
      const { examples } = operation.requestBody?.content['application/json'] ?? {};
      for (const [name, { value }] of Object.entries(examples ?? {})) {
        // Two generations, the first of which is the one that the examples name.
        adapters.entries.delete('subtract');
        const isNew = /load_lora_adapter$/.test(path) && !path.includes('unload');
        if (!isNew || name === 'replace') adapters.seed('subtract', EXAMPLES);
        const response = await other.app.inject({
          method: method.toUpperCase() as 'PUT',
          url: path.replace('{name}', 'subtract'),
          payload: named(value),
        });
        expect(response.statusCode, `${key} ${name}: ${response.body}`).toBeLessThan(300);
      }
    }
    await other.close();
  });
});

describe('answers of the server', () => {
  const saidBy = (
    { statusCode: status, headers, body: text }: LightMyRequestResponse,
    method: string,
    path: string,
  ) => ({
    ...{ method, path, status, text },
    headers: new Headers(headers as Record<string, string>),
  });

  const LORA = { lora_name: 'sub', lora_path: 'folder' };
  const body = { model: 'sub', prompt: 'Q', logprobs: 2, echo: true, n: 2 };
  it.each([
    ['/v1/completions', 'post', '/v1/completions', 200, body],
    ['/v1/completions', 'post', '/v1/completions', 400, { ...body, logprobs: 99 }],
    ['/v1/completions', 'post', '/v1/completions', 404, { ...body, model: 'nobody' }],
    ['/v1/responses', 'post', '/v1/responses', 200, { model: 'sub', input: 'Q' }],
    ['/v1/responses', 'post', '/v1/responses', 200, { model: 'sub', input: 'Q', stream: true }],
    ['/v1/responses', 'post', '/v1/responses', 400, { model: 'sub', input: 'Q', store: true }],
    ['/v1/responses', 'post', '/v1/responses', 404, { model: 'nobody', input: 'Q' }],
    ['/v1/models', 'get', '/v1/models', 200, undefined],
    ['/v1/models/{id}', 'get', '/v1/models/sub', 200, undefined],
    ['/v1/models/{id}', 'get', '/v1/models/nobody', 404, undefined],
    ['/v1/adapters', 'get', '/v1/adapters', 200, undefined],
    ['/v1/adapters/{name}', 'get', '/v1/adapters/sub', 200, undefined],
    ['/v1/adapters/{name}', 'put', '/v1/adapters/other', 201, { path: 'folder' }],
    ['/v1/adapters/{name}', 'put', '/v1/adapters/other', 200, { path: 'folder' }],
    ['/v1/adapters/{name}', 'put', '/v1/adapters/other', 403, { path: '/folder' }],
    ['/v1/adapters/{name}/generations', 'get', '/v1/adapters/other/generations', 200, undefined],
    ['/v1/adapters/{name}/generations', 'get', '/v1/adapters/nobody/generations', 404, undefined],
    ['/v1/adapters/{name}', 'put', '/v1/adapters/other', 200, { repo: 'org/other' }],
    ['/v1/adapters/{name}', 'put', '/v1/adapters/other?canary_weight=.25', 200, { path: 'folder' }],
    ['/v1/adapters/{name}', 'get', '/v1/adapters/other', 200, undefined],
    ['/v1/adapters/{name}/generations', 'get', '/v1/adapters/other/generations', 200, undefined],
    ['/v1/adapters/{name}/split', 'delete', '/v1/adapters/other/split', 200, undefined],
    ['/v1/adapters/{name}/split', 'delete', '/v1/adapters/nobody/split', 404, undefined],
    ['/v1/adapters/{name}/split', 'put', '/v1/adapters/other/split', 400, { weight: 0.5 }],
    [
      '/v1/adapters/{name}/split',
      'put',
      '/v1/adapters/other/split',
      404,
      { generation: 'f'.repeat(64), weight: 0.5 },
    ],
    ['/v1/adapters/{name}/rollback', 'post', '/v1/adapters/other/rollback', 200, undefined],
    ['/v1/adapters/{name}/rollback', 'post', '/v1/adapters/sub/rollback', 404, {}],
    ['/v1/adapters/{name}/load', 'post', '/v1/adapters/other/load', 200, { pinned: true }],
    ['/v1/adapters/{name}/load', 'post', '/v1/adapters/nobody/load', 404, undefined],
    ['/v1/adapters/{name}/evict', 'post', '/v1/adapters/other/evict', 409, undefined],
    ['/v1/adapters/{name}/unpin', 'post', '/v1/adapters/other/unpin', 200, undefined],
    ['/v1/adapters/{name}/evict', 'post', '/v1/adapters/other/evict', 200, {}],
    ['/v1/adapters/{name}/pin', 'post', '/v1/adapters/other/pin', 200, undefined],
    ['/v1/adapters/{name}', 'delete', '/v1/adapters/other?now', 400, undefined],
    ['/v1/adapters/{name}', 'delete', '/v1/adapters/other', 200, undefined],
    ['/v1/replicas', 'get', '/v1/replicas', 200, undefined],
    ['/v1/load_lora_adapter', 'post', '/v1/load_lora_adapter', 400, LORA],
    ['/v1/unload_lora_adapter', 'post', '/v1/unload_lora_adapter', 404, { lora_name: 'nobody' }],
    ['/load_lora_adapter', 'post', '/load_lora_adapter', 200, { ...LORA, lora_name: 'x' }],
    ['/load_lora_adapter', 'post', '/load_lora_adapter', 400, LORA],
    ['/unload_lora_adapter', 'post', '/unload_lora_adapter', 200, { lora_name: 'x' }],
    ['/unload_lora_adapter', 'post', '/unload_lora_adapter', 400, { lora_name: 'x' }],
    ['/health', 'get', '/health', 200, undefined],
  ] as const)('%s %s (%s) %i', async (path, method, url, status, payload) => {
    const response = await server.app.inject({
      method: method.toUpperCase() as 'GET',
      url,
      ...(payload !== undefined && { payload }),
    });
    expect(response.statusCode, response.body).toBe(status);
    checkAnswer(saidBy(response, method, url));
    expect(document.paths[path]![method]!.responses[status]).toBeDefined();
  });

  it('tells the current generation when a condition does not hold', async () => {
    const response = await server.app.inject({
      method: 'PUT',
      url: '/v1/adapters/sub',
      headers: { 'if-match': '"other"' },
      payload: { path: 'folder' },
    });
    expect(response.statusCode).toBe(412);
    checkAnswer(saidBy(response, 'put', '/v1/adapters/sub'));
    expect(response.headers.etag).toBe(`"${response.json().error.current_generation}"`);
  });
});
