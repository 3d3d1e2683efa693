/** What a server said against openapi.yaml: statuses, media types, error codes, schemas. */
import { Ajv2020, type ValidateFunction } from 'ajv/dist/2020.js';
import { type Json, type JsonObject, type Operation, readOpenApi } from './openapi.ts';

const { document } = readOpenApi();

/** Unknown words in a schema are errors; several types for one value are how null is said. */
export const ajv = new Ajv2020({
  strict: true,
  allowUnionTypes: true,
  allErrors: true,
  discriminator: true,
  // What all alternatives require stands beside them.
  strictRequired: false,
});
// Words that describe and do not check.
ajv.addVocabulary(['example', 'x-event']);

/** An answer of any server, as text. */
export interface Said {
  readonly method: string;
  /** With its query, without the origin. */
  readonly path: string;
  readonly status: number;
  readonly headers: Headers;
  readonly text: string;
}

/** The schema without room for keys that it does not name. */
export function closed(schema: JsonObject): JsonObject {
  const walk = (node: Json, isProperties: boolean): Json => {
    if (Array.isArray(node)) return node.map((each) => walk(each, false));
    if (typeof node !== 'object' || node === null) return node;
    if (!isProperties && 'allOf' in node) throw new Error('an answer made of several schemas');
    const inner = Object.fromEntries(
      Object.entries(node).map(([key, value]) => [
        key,
        walk(value, key === 'properties' && !isProperties),
      ]),
    );
    const names = !isProperties && 'properties' in node && !('additionalProperties' in node);
    return names ? { ...inner, additionalProperties: false } : inner;
  };
  return walk(schema, false) as JsonObject;
}

const validators = new WeakMap<JsonObject, ValidateFunction>();

/** What of a value is not as the schema says, undocumented keys included. */
export function violations(schema: JsonObject, value: unknown): string[] {
  let validate = validators.get(schema);
  if (validate === undefined) {
    validate = ajv.compile(closed(schema));
    validators.set(schema, validate);
  }
  if (validate(value)) return [];
  return (validate.errors ?? []).map(
    ({ instancePath, message, params }) => `${instancePath} ${message} ${JSON.stringify(params)}`,
  );
}

const routes = Object.entries(document.paths).map(([path, methods]) => ({
  pattern: new RegExp(`^${path.replaceAll('.', '\\.').replaceAll(/\{\w+\}/g, '[^/]+')}$`),
  methods,
}));

/** The operation a request was for; without one, what every server answers. */
function operationOf(method: string, path: string): Operation | 'no route' | 'other methods' {
  const bare = path.split('?')[0]!;
  const route = routes.find(({ pattern }) => pattern.test(bare));
  if (route === undefined) return 'no route';
  return route.methods[method.toLowerCase()] ?? 'other methods';
}

const { Error: errorSchema } = document.components.schemas;

function parsed(text: string): Json | undefined {
  try {
    return JSON.parse(text) as Json;
  } catch {
    return undefined;
  }
}

function eventViolations(event: Json | undefined, schema: JsonObject): string[] {
  if (typeof event !== 'object' || event === null) return ['an event is no JSON object'];
  const isError = 'error' in event && !('type' in event);
  return violations(isError ? errorSchema! : schema, event);
}

/** The last events of streams whose events have names. */
const LAST_EVENTS = ['response.completed', 'response.incomplete', 'response.failed'];

/** Each event is named by its type and numbered, and the last one is a last one. */
function namedStreamViolations(text: string, schema: JsonObject): string[] {
  const found: string[] = [];
  const events = text.split('\n\n').filter((event) => event !== '' && !event.startsWith(':'));
  const types = events.map((event, i) => {
    const [, name, data] = /^event: (\S+)\ndata: (.*)$/s.exec(event) ?? [];
    const value = parsed(data ?? '') as { type: string; sequence_number: number } | undefined;
    found.push(...eventViolations(value, schema));
    if (name !== value?.type) found.push(`event ${i} is named ${name}, not ${value?.type}`);
    if (i !== value?.sequence_number) found.push(`event ${i} has another number`);
    return name;
  });
  const ends = types.flatMap((type, i) => (LAST_EVENTS.includes(type!) ? [i] : []));
  if (ends.length !== 1 || ends[0] !== events.length - 1) found.push('the stream ends otherwise');
  return found;
}

function streamViolations(text: string, schema: JsonObject): string[] {
  const data = text
    .split('\n\n')
    .filter((event) => event.startsWith('data: '))
    .map((event) => event.slice('data: '.length));
  if (data.at(-1) !== '[DONE]') return ['the stream ends without [DONE]'];
  return data.slice(0, -1).flatMap((event) => eventViolations(parsed(event), schema));
}

const eventSchemaOf = (operation: Operation) =>
  operation.responses[200]!.content!['text/event-stream']!['x-event']!;

/** Headers that say something about this API; the others are those of any HTTP server. */
const OWN_HEADERS = ['ETag', 'Location', 'Retry-After'];

function headerViolations(documented: Record<string, JsonObject>, headers: Headers): string[] {
  const found = Object.entries(documented).flatMap(([name, { schema, required }]) => {
    const value = headers.get(name);
    if (value === null) return required === true ? [`header ${name} is missing`] : [];
    const { type } = schema as { type: string };
    return violations(schema as JsonObject, type === 'integer' ? Number(value) : value);
  });
  const extra = OWN_HEADERS.filter((name) => headers.has(name) && !(name in documented));
  return [...found, ...extra.map((name) => `header ${name} is not documented`)];
}

/** Everything about an answer that openapi.yaml does not say. */
export function answerViolations(said: Said): string[] {
  const { method, path, status, headers, text } = said;
  const operation = operationOf(method, path);
  const value = parsed(text);
  if (typeof operation === 'string') {
    const expected = operation === 'no route' ? 404 : 405;
    if (status !== expected) return [`${operation}, but ${status}`];
    return violations(errorSchema!, value);
  }
  const documented = operation.responses[status];
  if (documented === undefined) return [`status ${status} is not documented: ${text}`];
  const { content = {}, 'x-codes': codes } = documented;
  const type = (headers.get('content-type') ?? '').split(';')[0]!;
  const media = content[type];
  if (media === undefined) return [`content type ${JSON.stringify(type)} is not documented`];
  const found = headerViolations(documented.headers ?? {}, headers);
  if (type === 'text/event-stream') {
    const schema = eventSchemaOf(operation);
    const check = 'discriminator' in schema ? namedStreamViolations : streamViolations;
    return [...found, ...check(text, schema)];
  }
  if (type !== 'application/json') return found;
  if (value === undefined) return [...found, 'the body is not JSON'];
  if (codes !== undefined) {
    const { code } = (value as { error?: { code?: string } }).error ?? {};
    if (!codes.includes(code!)) found.push(`code ${code} is not documented for ${status}`);
  }
  return [...found, ...violations(media.schema!, value)];
}

/** @throws Error that says what of the answer is not in openapi.yaml */
export function checkAnswer(said: Said): void {
  const found = answerViolations(said);
  if (found.length === 0) return;
  throw new Error(`${said.method} ${said.path}: ${said.status}: ${found.join('; ')}\n${said.text}`);
}

/** The text of a fetched answer, checked. */
export async function checkedText(method: string, path: string, response: Response) {
  const text = await response.text();
  checkAnswer({ method, path, status: response.status, headers: response.headers, text });
  return text;
}

/** @throws Error when an event of a streamed answer is neither a chunk nor an error as documented */
export function checkEvent(path: string, event: Json): void {
  const found = eventViolations(event, eventSchemaOf(document.paths[path]!.post!));
  if (found.length > 0) throw new Error(`${JSON.stringify(event)}: ${found.join('; ')}`);
}

const socketFrames = document.paths['/v1/stream']!.get!['x-websocket']!.server;

/** @throws Error when a frame that a server sent is not one of openapi.yaml */
export function checkFrame(frame: { readonly type: string }): void {
  const typeOf = (schema: JsonObject) =>
    (schema as { properties?: { type?: { const?: string } } }).properties?.type?.const;
  const schema = socketFrames.find((each) => typeOf(each) === frame.type);
  const found = schema === undefined ? ['no such frame'] : violations(schema, frame);
  if (found.length > 0) throw new Error(`${JSON.stringify(frame)}: ${found.join('; ')}`);
}
