/** Requests as bytes, damaged at random: valid ones of every route of openapi.yaml come first. */
import type { Json, JsonObject, OpenApi } from './openapi.ts';
import type { Random } from './random.ts';

export interface ValidRequest {
  readonly method: string;
  readonly path: string;
  readonly headers: readonly (readonly [string, string])[];
  readonly body: Buffer | undefined;
  /** The body as JSON, if it is. */
  readonly json: Json | undefined;
}

export interface MutationContext {
  readonly random: Random;
  readonly requests: readonly ValidRequest[];
  /** Names of fields, known ones and others. */
  readonly fields: readonly string[];
}

/** Names that are there in every object. */
const PROTOTYPE_NAMES = ['__proto__', 'constructor', 'prototype', 'toString', 'hasOwnProperty'];
const NUMBERS = '0,-0,-1,1e400,-1e400,1e308,5e-324,0.1,2147483648,9007199254740993,1e21'.split(',');
const TEXTS = ['', 'a', '\u0000', '\ud800', '你好', '😀', '../..', '%2e', 'null', 'x'.repeat(5000)];
const METHODS = [
  'GET',
  'POST',
  'PUT',
  'DELETE',
  'HEAD',
  'PATCH',
  'OPTIONS',
  'TRACE',
  'LOCK',
  'get',
  'X',
];
const TYPES = [
  'text/plain',
  'application/xml',
  'application/json; charset=utf-16',
  'application/json;',
  'multipart/form-data',
  'multipart/form-data; boundary=',
  'multipart/form-data; boundary=zz',
  'application/zip',
  'application/gzip',
  '/',
  '',
];
const HEADERS = [
  ['expect', '100-continue'],
  ['expect', 'miracles'],
  ['transfer-encoding', 'chunked'],
  ['transfer-encoding', 'gzip, chunked'],
  ['transfer-encoding', 'identity'],
  ['content-encoding', 'gzip'],
  ['content-length', '-1'],
  ['content-length', '1e3'],
  ['content-length', '99999999999999999999'],
  ['if-match', '"'],
  ['if-match', '*, "a"'],
  ['if-none-match', 'W/"x"'],
  ['upgrade', 'h2c'],
  ['upgrade', 'websocket'],
  ['connection', 'upgrade, keep-alive, close'],
  ['host', ''],
  ['accept', '\u00ff\u00fe'],
  ['range', 'bytes=0-'],
  ['cookie', 'a=b; '.repeat(200)],
  ['x-http-method-override', 'DELETE'],
] as const;
const PATHS = [
  '*',
  '/',
  '//',
  '/%',
  '/%zz',
  '/v1/models/%00',
  '/v1/models/%c3%28',
  '/v1/adapters/%2e%2e%2f%2e%2e',
  '/v1/adapters/..%5c..',
  '/v1/../v1/models',
  '/v1/stream?x=1',
  '/v1/models?a=1&a=2&__proto__=3',
  'http://elsewhere/v1/models',
  '/\\',
  `/v1/models/${'a'.repeat(1000)}`,
  `/${'%61'.repeat(3000)}`,
  `/${'a/'.repeat(4000)}`,
  '/v1/adapters/__proto__',
  '/v1/adapters/constructor/pin',
];

/** What a schema may have in the place of a field, roughly. */
export function anyJson({ random, fields }: MutationContext, depth = 0): string {
  const leaf = random.int(0, depth < 3 ? 7 : 4);
  if (leaf === 0) return random.pick(['null', 'true', 'false', '{}', '[]', '[[]]', '""']);
  if (leaf <= 2) return random.pick(NUMBERS);
  if (leaf <= 4) return JSON.stringify(random.pick(TEXTS));
  const count = random.int(0, 4);
  const context = { random, fields, requests: [] };
  const items = Array.from({ length: count }, () => anyJson(context, depth + 1));
  if (leaf === 5) return `[${items.join(',')}]`;
  return `{${items.map((item) => `${JSON.stringify(fieldName(context))}:${item}`).join(',')}}`;
}

const fieldName = ({ random, fields }: MutationContext) =>
  random.chance(0.15) ? random.pick(PROTOTYPE_NAMES) : random.pick(fields);

/** An object's text with fields replaced, added, doubled or taken away. */
export function damagedFields(context: MutationContext, value: JsonObject): string {
  const { random } = context;
  const entries = Object.entries(value).map(([key, own]) => [key, JSON.stringify(own)] as const);
  for (let changes = random.int(1, 3); changes > 0; changes--) {
    const at = random.int(0, entries.length);
    const name = random.chance(0.5) ? entries[at]?.[0] : undefined;
    const entry = [name ?? fieldName(context), anyJson(context)] as const;
    // Often doubled: of equal keys the last one counts.
    entries.splice(at, random.int(0, 1), ...(random.chance(0.9) ? [entry] : []));
  }
  return `{${entries.map(([key, text]) => `${JSON.stringify(key)}:${text}`).join(',')}}`;
}

/** A text with its bytes cut, doubled, nested or replaced. */
export function damagedText({ random }: MutationContext, text: string): Buffer {
  const bytes = Buffer.from(text);
  const at = random.int(0, bytes.length);
  switch (random.int(0, 6)) {
    case 0:
      return bytes.subarray(0, at);
    case 1:
      return Buffer.concat([bytes.subarray(0, at), bytes]);
    case 2: {
      const depth = random.pick([10, 1000, 20_000]);
      return Buffer.from(`${random.pick(['[', '{"a":'])}`.repeat(depth));
    }
    case 3:
      return Buffer.concat([Buffer.from([0xef, 0xbb, 0xbf]), bytes]);
    case 4:
      return Buffer.concat([bytes, Buffer.from(random.pick([',', '}', ' x', '\u0000']))]);
    default: {
      const damaged = Buffer.from(bytes);
      for (let flips = random.int(1, 4); flips > 0 && damaged.length > 0; flips--) {
        damaged[random.int(0, damaged.length - 1)] = random.int(0, 255);
      }
      return damaged;
    }
  }
}

/** A request's bytes; content-length is right unless `headers` has one. */
export function bytesOf({ method, path, headers, body }: Omit<ValidRequest, 'json'>): Buffer {
  const has = (name: string) => headers.some(([own]) => own.toLowerCase() === name);
  const chunked = headers.some(
    ([name, value]) => name === 'transfer-encoding' && value === 'chunked',
  );
  const lines = headers.map(([name, value]) => `${name}: ${value}\r\n`);
  if (!has('host')) lines.push('host: x\r\n');
  if (!has('connection')) lines.push('connection: close\r\n');
  if (body !== undefined && !has('content-length') && !chunked) {
    lines.push(`content-length: ${body.length}\r\n`);
  }
  const head = Buffer.from(`${method} ${path} HTTP/1.1\r\n${lines.join('')}\r\n`, 'latin1');
  return Buffer.concat([head, body ?? Buffer.alloc(0)]);
}

function damagedHead(context: MutationContext, request: ValidRequest): Buffer {
  const { random } = context;
  const changed = {
    ...request,
    ...(random.chance(0.4) && { method: random.pick(METHODS) }),
    ...(random.chance(0.4) && { path: random.pick(PATHS) }),
    ...(random.chance(0.3) && {
      path: `${request.path}?${random.pick(['', 'x', '%', '&&=', 'a=%ff'])}`,
    }),
    headers: [...request.headers],
  };
  for (let more = random.int(0, 3); more > 0; more--) changed.headers.push(random.pick(HEADERS));
  const text = bytesOf(changed).toString('latin1');
  switch (random.int(0, 9)) {
    case 0:
      return Buffer.from(
        text.replace('HTTP/1.1', random.pick(['HTTP/1.0', 'HTTP/2.0', 'HTTP/9', ''])),
        'latin1',
      );
    case 1:
      return Buffer.from(
        text.replace(
          '\r\n',
          `\r\n${random.pick([' folded: x', 'no colon', ': x', 'a\u0000b: c'])}\r\n`,
        ),
        'latin1',
      );
    case 2:
      return Buffer.from(
        text.replace('\r\n', `\r\nx: ${'y'.repeat(random.pick([100, 20_000]))}\r\n`),
        'latin1',
      );
    case 3:
      return Buffer.from(text.replaceAll('\r\n', '\n'), 'latin1');
    case 4:
      return Buffer.from(text.replace('host: x\r\n', ''), 'latin1');
    default:
      return Buffer.from(text, 'latin1');
  }
}

/** The body in chunks, their sizes perhaps wrong. */
function chunkedBody({ random }: MutationContext, request: ValidRequest): Buffer {
  const body = request.body ?? Buffer.from('{}');
  const size = random.chance(0.5)
    ? body.length.toString(16)
    : random.pick(['', 'zz', '-1', 'fffffffff', '0', '3;ext=1']);
  const chunks = Buffer.concat([
    Buffer.from(`${size}\r\n`),
    body,
    Buffer.from(random.pick(['\r\n0\r\n\r\n', '\r\n0\r\nx: y\r\n\r\n', '0\r\n\r\n', '\r\n0\r\n'])),
  ]);
  const headers = [...request.headers, ['transfer-encoding', 'chunked'] as const];
  return bytesOf({ ...request, headers, body: chunks });
}

function garbage({ random }: MutationContext): Buffer {
  const length = random.int(1, 400);
  const bytes = Buffer.from(Array.from({ length }, () => random.int(0, 255)));
  const starts = [
    '',
    'GET ',
    'POST /v1/completions HTTP/1.1\r\n',
    '\x16\x03\x01\x02\x00',
    'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n',
  ];
  return Buffer.concat([Buffer.from(random.pick(starts), 'latin1'), bytes]);
}

/** One malformed request, or several on one connection. */
export function malformed(context: MutationContext, depth = 0): Buffer {
  const { random, requests } = context;
  const request = random.pick(requests);
  const { headers, json } = request;
  const isObject = typeof json === 'object' && json !== null && !Array.isArray(json);
  switch (random.int(0, 9)) {
    case 0:
    case 1:
    case 2: {
      if (!isObject) break;
      return bytesOf({ ...request, body: Buffer.from(damagedFields(context, json as JsonObject)) });
    }
    case 3: {
      const text = isObject ? damagedFields(context, json as JsonObject) : anyJson(context);
      return bytesOf({ ...request, body: damagedText(context, text) });
    }
    case 4: {
      const others = headers.filter(([name]) => name !== 'content-type');
      const typed = [...others, ['content-type', random.pick(TYPES)] as const];
      return bytesOf({ ...request, headers: typed });
    }
    case 5:
      return chunkedBody(context, request);
    case 6: {
      const body = request.body ?? Buffer.alloc(0);
      const length = String(Math.max(0, body.length + random.pick([-3, -1, 1, 100])));
      return bytesOf({ ...request, headers: [...headers, ['content-length', length]] });
    }
    case 7:
      if (depth > 0) break;
      return Buffer.concat(
        Array.from({ length: random.int(2, 5) }, () => malformed(context, depth + 1)),
      );
    case 8:
      return random.chance(0.3)
        ? garbage(context)
        : damagedText(context, bytesOf(request).toString('latin1'));
    default:
      break;
  }
  if (request.body !== undefined && random.chance(0.3)) {
    return bytesOf({ ...request, body: damagedText(context, request.body.toString('latin1')) });
  }
  return damagedHead(context, request);
}

/** Every route with the examples of its body, for the given names. */
export function validRequests(
  document: OpenApi,
  names: readonly string[],
  jsonBodies: Readonly<Record<string, readonly Json[]>>,
): ValidRequest[] {
  return Object.entries(document.paths).flatMap(([route, methods]) =>
    Object.keys(methods).flatMap((method) =>
      names.flatMap((name): ValidRequest[] => {
        const path = route.replace(/\{\w+\}/, encodeURIComponent(name));
        const request = { method: method.toUpperCase(), path };
        const bodies = jsonBodies[route] ?? [];
        if (method === 'get' || method === 'delete' || bodies.length === 0) {
          return [{ ...request, headers: [], body: undefined, json: undefined }];
        }
        return bodies.map((json) => ({
          ...request,
          headers: [['content-type', 'application/json'] as const],
          body: Buffer.from(JSON.stringify(json)),
          json,
        }));
      }),
    ),
  );
}
