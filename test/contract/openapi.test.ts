/** openapi.yaml against the server's own routes: paths, methods, schemas, statuses, error codes. */
import type { RouteOptions } from 'fastify';
import Schema from 'typebox/schema';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ERRORS, type ErrorCode } from '../../src/errors.ts';
import { buildApp } from '../../src/http/app.ts';
import { ErrorSchema } from '../../src/http/schemas/error.ts';
import {
  CancelFrameSchema,
  DoneFrameSchema,
  ErrorFrameSchema,
  GenerateFrameSchema,
  PingFrameSchema,
  PongFrameSchema,
  TokenFrameSchema,
} from '../../src/http/schemas/stream.ts';
import { VERSION } from '../../src/version.ts';
import { type TestServer, testServer } from '../unit/http/support.ts';
import { bare, type Json, type JsonObject, type Operation, readOpenApi } from './openapi.ts';

interface RouteSchema {
  params?: { properties: Record<string, unknown>; required: string[] };
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

const FORM = 'multipart/form-data';

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
    const { params, body } = routes.get(key)!;
    const documented = Object.fromEntries(
      (operation.parameters ?? []).map(({ name, schema }) => [name, bare(schema)]),
    );
    expect(documented).toEqual(bare(params?.properties ?? {}));
    for (const parameter of operation.parameters ?? []) {
      expect(parameter).toMatchObject({ in: 'path', required: true });
    }
    const { [FORM]: form, ...content } = operation.requestBody?.content ?? {};
    expect(
      Object.fromEntries(Object.entries(content).map(([type, m]) => [type, bare(m.schema)])),
    ).toEqual(bodiesOf(body));
    const takesForms = (routes.get(key) as { consumes?: string[] }).consumes?.includes(FORM);
    expect(form !== undefined).toBe(takesForms ?? false);
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

  it('documents the frames of the WebSocket', () => {
    const frames = document.paths['/v1/stream']?.get?.['x-websocket'];
    expect(frames?.client.map(bare)).toEqual(
      [GenerateFrameSchema, CancelFrameSchema, PingFrameSchema].map(bare),
    );
    expect(frames?.server.map(bare)).toEqual(
      [TokenFrameSchema, DoneFrameSchema, ErrorFrameSchema, PongFrameSchema].map(bare),
    );
  });
});

describe('examples of openapi.yaml', () => {
  const examples: [string, JsonObject, Json][] = operations.flatMap(([key, operation]) => {
    const media = [
      ...Object.values(operation.requestBody?.content ?? {}),
      ...Object.values(operation.responses).flatMap(({ content }) => Object.values(content ?? {})),
    ];
    return media.flatMap(({ schema, example, examples: named }) =>
      [example, ...Object.values(named ?? {}).map(({ value }) => value)].flatMap((value) =>
        value === undefined || schema === undefined
          ? []
          : [[key, schema, value] as [string, JsonObject, Json]],
      ),
    );
  });

  it('exist for every answer that is an object', () => {
    const without = operations.filter(([key]) => !examples.some(([other]) => other === key));
    expect(without.map(([key]) => key)).toEqual(['get /v1/stream', 'get /metrics']);
  });

  it.each(examples)('%s: %#', (_key, schema, value) => {
    expect(Schema.Errors(schema, value)[1]).toEqual([]);
  });

  it('are frames of the WebSocket', () => {
    const frames = document.paths['/v1/stream']!.get!['x-websocket']!;
    for (const side of ['client', 'server'] as const) {
      for (const [i, example] of frames.examples[side].entries()) {
        expect(Schema.Errors(frames[side][i]!, example)[1], JSON.stringify(example)).toEqual([]);
      }
    }
  });

  it('are accepted by the server', async () => {
    const { content } = document.paths['/v1/completions']!.post!.requestBody!;
    for (const { value } of Object.values(content['application/json']!.examples!)) {
      const payload = { ...(value as JsonObject), model: 'base' };
      if ('adapter' in payload) payload.adapter = 'sub';
      const response = await server.app.inject({
        method: 'POST',
        url: '/v1/completions',
        payload,
      });
      expect(response.statusCode, response.body).toBe(200);
    }
  });
});

describe('answers of the server', () => {
  const schemaOf = (path: string, method: string, status: number): JsonObject =>
    document.paths[path]![method]!.responses[status]!.content!['application/json']!.schema!;

  /** Every key of an answer is documented. */
  function undocumented(value: Json, schema: JsonObject, at = ''): string[] {
    if (Array.isArray(value)) {
      const { items } = schema as { items?: JsonObject };
      return items === undefined ? [] : value.flatMap((one) => undocumented(one, items, at));
    }
    const { properties } = schema as { properties?: Record<string, JsonObject> };
    if (typeof value !== 'object' || value === null || properties === undefined) return [];
    return Object.entries(value).flatMap(([key, inner]) => {
      const property = properties[key];
      return property === undefined
        ? [`${at}/${key}`]
        : undocumented(inner, property, `${at}/${key}`);
    });
  }

  const body = { model: 'sub', prompt: 'Q', logprobs: 2, echo: true, n: 2 };
  it.each([
    ['/v1/completions', 'post', '/v1/completions', 200, body],
    ['/v1/completions', 'post', '/v1/completions', 400, { ...body, logprobs: 99 }],
    ['/v1/completions', 'post', '/v1/completions', 404, { ...body, model: 'nobody' }],
    ['/v1/models', 'get', '/v1/models', 200, undefined],
    ['/v1/models/{id}', 'get', '/v1/models/sub', 200, undefined],
    ['/v1/models/{id}', 'get', '/v1/models/nobody', 404, undefined],
    ['/v1/adapters', 'get', '/v1/adapters', 200, undefined],
    ['/v1/adapters/{name}', 'get', '/v1/adapters/sub', 200, undefined],
    ['/v1/adapters/{name}', 'put', '/v1/adapters/other', 201, { path: 'folder' }],
    ['/v1/adapters/{name}', 'put', '/v1/adapters/other', 200, { path: 'folder' }],
    ['/v1/adapters/{name}', 'put', '/v1/adapters/other', 403, { path: '/folder' }],
    ['/v1/adapters/{name}', 'delete', '/v1/adapters/other', 200, undefined],
    ['/health', 'get', '/health', 200, undefined],
  ] as const)('%s %s (%s) %i', async (path, method, url, status, payload) => {
    const response = await server.app.inject({
      method: method.toUpperCase() as 'GET',
      url,
      ...(payload !== undefined && { payload }),
    });
    expect(response.statusCode, response.body).toBe(status);
    const answer = response.json() as Json;
    const schema = schemaOf(path, method, status);
    expect(Schema.Errors(schema, answer)[1]).toEqual([]);
    expect(undocumented(answer, schema)).toEqual([]);
  });
});
