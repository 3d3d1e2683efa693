/** openapi.yaml as others read it: valid OpenAPI 3.1, strict schemas, examples that fit them. */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { Validator } from '@seriousme/openapi-schema-validator';
import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { ajv, answerViolations, closed, violations } from '../support/contract.ts';
import { type Json, type JsonObject, readOpenApi } from '../support/openapi.ts';

const FILE = fileURLToPath(new URL('../../openapi.yaml', import.meta.url));
const { document } = readOpenApi();

describe('openapi.yaml', () => {
  it('is OpenAPI 3.1', async () => {
    const { valid, errors } = await new Validator().validate(parse(readFileSync(FILE, 'utf8')));
    expect(errors).toBeUndefined();
    expect(valid).toBe(true);
  });

  it.each(Object.entries(document.components.schemas))('%s is a strict schema', (_name, schema) => {
    expect(() => ajv.compile(schema)).not.toThrow();
  });

  it('has path parameters for the names in its paths, and no others', () => {
    for (const [path, methods] of Object.entries(document.paths)) {
      const names = [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name);
      for (const [method, { parameters = [] }] of Object.entries(methods)) {
        const own = parameters.filter((one) => one.in === 'path').map(({ name }) => name);
        expect(own, `${method} ${path}`).toEqual(names);
      }
    }
  });

  it('has Retry-After where trying again helps', () => {
    for (const [path, methods] of Object.entries(document.paths)) {
      for (const [method, { responses }] of Object.entries(methods)) {
        for (const status of ['429', '503']) {
          const { headers, 'x-codes': codes } = responses[status] ?? {};
          if (codes === undefined) continue;
          expect(Object.keys(headers ?? {}), `${method} ${path} ${status}`).toContain(
            'Retry-After',
          );
        }
      }
    }
  });

  it('has tags that it describes, and describes those it has', () => {
    const raw = parse(readFileSync(FILE, 'utf8')) as {
      tags: { name: string }[];
      paths: Record<string, Record<string, { tags: string[] }>>;
    };
    const used = Object.values(raw.paths).flatMap((methods) =>
      Object.values(methods).flatMap(({ tags }) => tags),
    );
    expect([...new Set(used)].sort()).toEqual(raw.tags.map(({ name }) => name).sort());
  });
});

interface Example {
  readonly at: string;
  readonly schema: JsonObject;
  readonly value: Json;
}

/** Examples of media types, parameters and schemas, wherever they stand. */
function examplesIn(node: Json, at: string): Example[] {
  if (Array.isArray(node)) return node.flatMap((each, i) => examplesIn(each, `${at}/${i}`));
  if (typeof node !== 'object' || node === null) return [];
  const { schema, example, examples } = node as { [key: string]: Json };
  const own: Example[] = [];
  const add = (place: string, value: Json | undefined) => {
    if (value === undefined) return;
    // Without a schema beside it, it is an example of the schema it stands in.
    own.push({ at: `${at}/${place}`, schema: (schema ?? node) as JsonObject, value });
  };
  add('example', example);
  if (Array.isArray(examples)) {
    for (const [i, value] of examples.entries()) add(`examples/${i}`, value);
  } else if (typeof examples === 'object' && examples !== null && !('client' in examples)) {
    for (const [name, one] of Object.entries(examples)) {
      add(`examples/${name}`, (one as { value?: Json }).value);
    }
  }
  const inside = Object.entries(node).filter(([key]) => key !== 'example' && key !== 'examples');
  return [...own, ...inside.flatMap(([key, value]) => examplesIn(value, `${at}/${key}`))];
}

describe('examples of openapi.yaml', () => {
  const examples = examplesIn(document.paths as unknown as Json, '');

  it('are there for every JSON body, and every JSON answer that is no error', () => {
    const bodies = Object.entries(document.paths).flatMap(([path, methods]) =>
      Object.entries(methods).flatMap(([method, { requestBody, responses }]) => {
        const at = `/${path}/${method}`;
        const answers = Object.entries(responses)
          .filter(([, response]) => response['x-codes'] === undefined)
          .map(([status, response]) => [`${at}/responses/${status}`, response] as const);
        return [[`${at}/requestBody`, requestBody] as const, ...answers]
          .filter(([, body]) => body?.content?.['application/json'] !== undefined)
          .map(([place]) => `${place}/content/application/json/`);
      }),
    );
    expect(bodies.filter((at) => !examples.some((one) => one.at.startsWith(at)))).toEqual([]);
  });

  it.each(examples)('$at', ({ schema, value }) => {
    expect(violations(schema, value)).toEqual([]);
  });
});

describe('the check of answers', () => {
  const headers = new Headers({ 'content-type': 'application/json; charset=utf-8' });
  const said = (path: string, status: number, value: unknown, method = 'GET') =>
    answerViolations({ method, path, status, headers, text: JSON.stringify(value) });
  const error = (code: string) => ({
    error: { message: 'm', type: 'server_error', param: null, code },
  });
  const list = { object: 'list', data: [] };

  it.each([
    ['what is documented', said('/v1/models?x', 200, list), []],
    ['an error', said('/v1/models/x', 404, error('model_not_found')), []],
    ['no route', said('/v1/nothing', 404, error('not_found')), []],
    ['another method', said('/v1/models', 405, error('method_not_allowed'), 'PUT'), []],
    ['another status', said('/v1/models', 418, list), [/status 418 is not documented/]],
    ['another code', said('/v1/models/x', 404, error('queue_full')), [/code queue_full is not/]],
    ['another key', said('/v1/models', 200, { ...list, more: 1 }), [/additional properties.*more/]],
    [
      'a key that is missing',
      said('/v1/models', 200, { object: 'list' }),
      [/required property 'data'/],
    ],
    ['a success without a route', said('/v1/nothing', 200, list), [/no route, but 200/]],
  ] as const)('%s', (_what, found, expected) => {
    expect(found).toEqual(expected.map((each) => expect.stringMatching(each)));
  });

  it('knows streams', () => {
    const of = (text: string) =>
      answerViolations({
        method: 'POST',
        path: '/v1/completions',
        status: 200,
        headers: new Headers({ 'content-type': 'text/event-stream; charset=utf-8' }),
        text,
      });
    expect(of(': keep-alive\n\ndata: [DONE]\n\n')).toEqual([]);
    expect(of(`data: ${JSON.stringify(error('slow_reader'))}\n\ndata: [DONE]\n\n`)).toEqual([]);
    expect(of('data: {"id":"x"}\n\ndata: [DONE]\n\n')).not.toEqual([]);
    expect(of('data: {"id"\n\ndata: [DONE]\n\n')).toEqual(['an event is no JSON object']);
    expect(of('')).toEqual(['the stream ends without [DONE]']);
  });

  it('knows streams of named events', () => {
    const { example } =
      document.paths['/v1/responses']!.post!.responses[200]!.content!['application/json']!;
    const of = (text: string) =>
      answerViolations({
        method: 'POST',
        path: '/v1/responses',
        status: 200,
        headers: new Headers({ 'content-type': 'text/event-stream; charset=utf-8' }),
        text,
      });
    const event = (type: string, sequence_number: number, name = type) =>
      `event: ${name}\ndata: ${JSON.stringify({ type, sequence_number, response: example })}\n\n`;
    const first = event('response.created', 0);
    expect(of(`${first}: keep-alive\n\n${event('response.completed', 1)}`)).toEqual([]);
    expect(of(first)).toEqual(['the stream ends otherwise']);
    expect(of(first + event('response.completed', 2))).toEqual(['event 1 has another number']);
    expect(of(first + event('response.completed', 1, 'message'))).not.toEqual([]);
    expect(of(`${event('response.completed', 0)}data: [DONE]\n\n`)).not.toEqual([]);
  });

  it('closes objects, and leaves open ones open', () => {
    const open = { type: 'object', properties: {}, additionalProperties: true };
    const schema: JsonObject = {
      type: 'object',
      properties: { properties: open, a: { type: 'object' } },
    };
    expect(closed(schema)).toEqual({ ...schema, additionalProperties: false });
  });
});
