/** openapi.yaml, parsed, with references resolved. */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parse } from 'yaml';

export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };
export type JsonObject = { [key: string]: Json };

const FILE = fileURLToPath(new URL('../../openapi.yaml', import.meta.url));

export interface MediaType {
  schema?: JsonObject;
  'x-event'?: JsonObject;
  example?: Json;
  examples?: Record<string, { value: Json }>;
}

export interface Operation {
  operationId: string;
  parameters?: { name: string; in: string; required?: boolean; schema: JsonObject }[];
  requestBody?: { required: boolean; content: Record<string, MediaType> };
  responses: Record<
    string,
    {
      description: string;
      headers?: Record<string, JsonObject>;
      'x-codes'?: string[];
      content?: Record<string, MediaType>;
    }
  >;
  'x-websocket'?: {
    client: JsonObject[];
    server: JsonObject[];
    examples: { client: Json[]; server: Json[] };
  };
}

export interface OpenApi {
  openapi: string;
  info: { version: string };
  paths: Record<string, Record<string, Operation>>;
  components: { schemas: Record<string, JsonObject>; headers: Record<string, JsonObject> };
}

const REFERENCE = '#/components/schemas/';
const HEADER = '#/components/headers/';

function resolve(node: Json, schemas: Record<string, Json>, used: Set<string>): Json {
  if (Array.isArray(node)) return node.map((item) => resolve(item, schemas, used));
  if (typeof node !== 'object' || node === null) return node;
  const { $ref } = node;
  if (typeof $ref === 'string' && !$ref.startsWith(HEADER)) {
    const name = $ref.slice(REFERENCE.length);
    const target = schemas[name];
    if (!$ref.startsWith(REFERENCE) || target === undefined) throw new Error(`dangling ${$ref}`);
    used.add(name);
    return resolve(target, schemas, used);
  }
  return Object.fromEntries(
    Object.entries(node).map(([key, value]) => [key, resolve(value, schemas, used)]),
  );
}

export function readOpenApi(): { document: OpenApi; unusedSchemas: string[] } {
  const raw = parse(readFileSync(FILE, 'utf8')) as OpenApi;
  const schemas = raw.components.schemas as Record<string, Json>;
  const used = new Set<string>();
  const paths = resolve(raw.paths as unknown as Json, schemas, used);
  const { headers } = raw.components;
  for (const { responses } of Object.values(paths as unknown as OpenApi['paths']).flatMap(
    (methods) => Object.values(methods),
  )) {
    for (const response of Object.values(responses)) {
      response.headers &&= Object.fromEntries(
        Object.entries(response.headers).map(([name, header]) => {
          const { $ref } = header;
          return [name, typeof $ref === 'string' ? headers[$ref.slice(HEADER.length)]! : header];
        }),
      );
    }
  }
  const resolved = resolve(schemas, schemas, new Set());
  return {
    document: {
      ...raw,
      paths: paths as unknown as OpenApi['paths'],
      components: { schemas: resolved as Record<string, JsonObject>, headers },
    },
    unusedSchemas: Object.keys(schemas).filter((name) => !used.has(name)),
  };
}

/** A schema without the words that do not validate anything. */
export function bare(schema: unknown): Json {
  const words = new Set(['description', 'summary', 'title', 'example', 'examples', 'default']);
  const strip = (node: Json, isProperties: boolean): Json => {
    if (Array.isArray(node)) return node.map((item) => strip(item, false));
    if (typeof node !== 'object' || node === null) return node;
    return Object.fromEntries(
      Object.entries(node)
        .filter(([key]) => isProperties || !words.has(key))
        .map(([key, value]) => [key, strip(value, key === 'properties' && !isProperties)]),
    );
  };
  return strip(JSON.parse(JSON.stringify(schema)) as Json, false);
}
