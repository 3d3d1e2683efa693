/**
 * The client's types, written from openapi.yaml: `npm run client:types`. The known generators need
 * the compiler API of TypeScript 5, which the compiler of this project no longer has; the subset of
 * JSON Schema in use is small, and a word this file does not know stops it.
 */
import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parse } from 'yaml';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const FILE = 'src/client/openapi.ts';
const REFERENCE = '#/components/schemas/';

interface Schema {
  readonly [word: string]: unknown;
  readonly $ref?: string;
  readonly description?: string;
  readonly const?: unknown;
  readonly enum?: readonly unknown[];
  readonly anyOf?: readonly Schema[];
  readonly oneOf?: readonly Schema[];
  readonly allOf?: readonly Schema[];
  readonly type?: string | readonly string[];
  readonly items?: Schema;
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly required?: readonly string[];
  readonly additionalProperties?: boolean | Schema;
  readonly patternProperties?: Readonly<Record<string, Schema>>;
}

interface Media {
  readonly schema?: Schema;
  readonly 'x-event'?: Schema;
}

interface Operation {
  readonly operationId: string;
  readonly parameters?: readonly {
    readonly name: string;
    readonly in: 'path' | 'query' | 'header';
    readonly required?: boolean;
    readonly schema: Schema;
  }[];
  readonly requestBody?: {
    readonly required?: boolean;
    readonly content: Readonly<Record<string, Media>>;
  };
  readonly responses: Readonly<
    Record<string, { readonly 'x-codes'?: unknown; readonly content?: Record<string, Media> }>
  >;
}

interface Document {
  readonly paths: Readonly<Record<string, Readonly<Record<string, Operation>>>>;
  readonly components: { readonly schemas: Readonly<Record<string, Schema>> };
}

/** Words that make a type. */
const SHAPES = new Set([
  ...['$ref', 'const', 'enum', 'anyOf', 'oneOf', 'allOf', 'type', 'items', 'properties'],
  ...['required', 'additionalProperties', 'patternProperties'],
]);
/** Words that narrow a value in a way a type cannot say, or only describe it. */
const SILENT = new Set([
  ...['description', 'summary', 'title', 'default', 'example', 'examples', 'deprecated', 'format'],
  ...['minimum', 'maximum', 'exclusiveMinimum', 'exclusiveMaximum', 'multipleOf', 'pattern'],
  ...['minLength', 'maxLength', 'minItems', 'maxItems', 'uniqueItems', 'minProperties'],
  ...['maxProperties', 'propertyNames', 'contentMediaType', 'contains', 'minContains', 'not'],
  'discriminator',
]);

const PLAIN: Readonly<Record<string, string>> = {
  string: 'string',
  integer: 'number',
  number: 'number',
  boolean: 'boolean',
  null: 'null',
};

const union = (types: readonly string[]) => [...new Set(types)].join(' | ');
const inUnion = (type: string) => (type.includes(' & ') ? `(${type})` : type);
const key = (name: string) => (/^[A-Za-z_$][\w$]*$/.test(name) ? name : JSON.stringify(name));
const comment = (text: string | undefined) =>
  text === undefined
    ? ''
    : `/** ${text.trim().replaceAll(/\s+/g, ' ').replaceAll('*/', '* /')} */\n`;

function objectType(schema: Schema): string {
  const { properties, required = [], additionalProperties: more, patternProperties } = schema;
  const values = Object.values(patternProperties ?? {});
  if (typeof more === 'object') values.push(more);
  const open = union(values.map(typeOf));
  if (properties === undefined || Object.keys(properties).length === 0) {
    if (open === '' && more === false) return 'Record<string, never>';
    return `Record<string, ${open === '' ? 'unknown' : open}>`;
  }
  const members = Object.entries(properties).map(([name, value]) => {
    const mark = required.includes(name) ? '' : '?';
    return `${comment(value.description)}${key(name)}${mark}: ${typeOf(value)};`;
  });
  // Members of any other name may have any type the named ones have.
  if (open !== '') members.push('[name: string]: unknown;');
  return `{\n${members.join('\n')}\n}`;
}

function ofOneType(type: string, schema: Schema): string {
  if (type === 'object') return objectType(schema);
  if (type === 'array')
    return `Array<${schema.items === undefined ? 'unknown' : typeOf(schema.items)}>`;
  const plain = PLAIN[type];
  if (plain === undefined) throw new Error(`no type for ${JSON.stringify(schema)}`);
  return plain;
}

function typeOf(schema: Schema): string {
  const strange = Object.keys(schema).filter(
    (word) => !SHAPES.has(word) && !SILENT.has(word) && !word.startsWith('x-'),
  );
  if (strange.length > 0) throw new Error(`${strange.join(', ')}: a word without a rule here`);
  if (schema.$ref !== undefined) return schema.$ref.slice(REFERENCE.length);
  if ('const' in schema) return JSON.stringify(schema.const);
  if (schema.enum !== undefined) return union(schema.enum.map((value) => JSON.stringify(value)));
  const { anyOf, oneOf, allOf, type } = schema;
  const shapes: string[] = [];
  // Alternatives that are all objects say more than that they are.
  const isBareObject = type === 'object' && oneOf !== undefined && schema.properties === undefined;
  if (type !== undefined && !isBareObject) {
    shapes.push(union([type].flat().map((one) => inUnion(ofOneType(one as string, schema)))));
  } else if (schema.properties !== undefined) shapes.push(objectType(schema));
  // A list of alternatives that only says which members are required has no types of its own.
  const alternatives = (anyOf ?? oneOf ?? []).filter((one) =>
    Object.keys(one).some((word) => SHAPES.has(word) && word !== 'required'),
  );
  if (alternatives.length > 0) shapes.push(union(alternatives.map((one) => inUnion(typeOf(one)))));
  shapes.push(...(allOf ?? []).map(typeOf));
  if (shapes.length === 0) return 'unknown';
  return shapes.length === 1
    ? shapes[0]!
    : shapes.map((shape) => (shape.includes(' | ') ? `(${shape})` : shape)).join(' & ');
}

function parametersType(operation: Operation, place: 'path' | 'query' | 'header'): string {
  const here = (operation.parameters ?? []).filter((parameter) => parameter.in === place);
  if (here.length === 0) return 'undefined';
  const members = here.map(
    ({ name, required, schema }) =>
      `${key(place === 'header' ? name.toLowerCase() : name)}${required === true ? '' : '?'}: ` +
      `${typeOf(schema)};`,
  );
  return `{\n${members.join('\n')}\n}`;
}

const JSON_TYPE = 'application/json';

function bodyType({ requestBody }: Operation): string {
  const schema = requestBody?.content[JSON_TYPE]?.schema;
  if (schema === undefined) return 'undefined';
  return requestBody?.required === true ? typeOf(schema) : `${typeOf(schema)} | undefined`;
}

/** What is answered when nothing went wrong: answers with error codes are errors. */
function answerType({ responses }: Operation): string {
  const media = Object.values(responses)
    .filter((response) => response['x-codes'] === undefined)
    .flatMap(({ content = {} }) =>
      Object.entries(content).filter(([type]) => type !== 'text/event-stream'),
    );
  return media.length === 0
    ? 'undefined'
    : union(media.map(([, { schema }]) => (schema === undefined ? 'unknown' : typeOf(schema))));
}

function eventType({ responses }: Operation): string {
  const media = Object.values(responses).flatMap(({ content }) => Object.values(content ?? {}));
  const events = media.map((one) => one['x-event']).filter((event) => event !== undefined);
  return events.length === 0 ? 'undefined' : union(events.map(typeOf));
}

/** The text of the generated file. @throws Error on a schema that has no rule here */
export function clientTypes(openapi: string): string {
  const { paths, components } = parse(openapi) as Document;
  const parts = [
    '/** Written by `npm run client:types` from openapi.yaml. Do not edit. */',
    ...Object.entries(components.schemas).map(([name, schema]) => {
      const body = typeOf(schema);
      const head = comment(schema.description);
      return body.startsWith('{\n') && body.endsWith('\n}') && !body.includes('\n} ')
        ? `${head}export interface ${name} ${body}`
        : `${head}export type ${name} = ${body};`;
    }),
  ];
  const operations = Object.entries(paths).flatMap(([route, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({ route, method, operation })),
  );
  const members = operations.map(
    ({ operation }) =>
      `${operation.operationId}: {\n` +
      `path: ${parametersType(operation, 'path')};\n` +
      `query: ${parametersType(operation, 'query')};\n` +
      `headers: ${parametersType(operation, 'header')};\n` +
      `body: ${bodyType(operation)};\n` +
      `answer: ${answerType(operation)};\n` +
      `event: ${eventType(operation)};\n};`,
  );
  parts.push(`export interface Operations {\n${members.join('\n')}\n}`);
  const routes = operations.map(
    ({ route, method, operation }) =>
      `${operation.operationId}: ['${method.toUpperCase()}', '${route}'],`,
  );
  parts.push(`export const ROUTES = {\n${routes.join('\n')}\n} as const;`);
  return execFileSync(
    path.join(ROOT, 'node_modules/.bin/biome'),
    ['format', `--stdin-file-path=${FILE}`],
    { cwd: ROOT, encoding: 'utf8', input: `${parts.join('\n\n')}\n` },
  );
}

export const CLIENT_TYPES_FILE = path.join(ROOT, FILE);
export const readOpenApiText = () => readFileSync(path.join(ROOT, 'openapi.yaml'), 'utf8');

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  writeFileSync(CLIENT_TYPES_FILE, clientTypes(readOpenApiText()));
}
