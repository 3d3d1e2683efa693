/** One shape and one table for everything that goes wrong, Fastify's own errors included. */

import { STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import type { FastifyError, FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { ERRORS, type ErrorCode, LoramuxError } from '../../errors.ts';
import { errorBody } from '../schemas/error.ts';
import { setETag } from '../wire/conditions.ts';

/** Characters of a name the client made up that an error repeats. */
const UNKNOWN_FIELD_LENGTH_MAX = 128;

/** Seconds a client should wait before it tries again. */
const RETRY_AFTER_S = 1;

type ValidationErrors = NonNullable<FastifyError['validation']>;

/** Fastify's and its plugins' codes; what is missing here is a defect of the server. */
const FRAMEWORK_CODES: Readonly<Record<string, ErrorCode>> = {
  FST_ERR_CTP_BODY_TOO_LARGE: 'payload_too_large',
  FST_ERR_CTP_INVALID_MEDIA_TYPE: 'unsupported_media_type',
  FST_ERR_CTP_INVALID_TYPE: 'unsupported_media_type',
  FST_ERR_CTP_EMPTY_TYPE: 'unsupported_media_type',
  FST_ERR_CTP_EMPTY_JSON_BODY: 'invalid_request',
  FST_ERR_CTP_INVALID_JSON_BODY: 'invalid_request',
  FST_ERR_CTP_INVALID_CONTENT_LENGTH: 'invalid_request',
  FST_ERR_BAD_URL: 'invalid_request',
  FST_ERR_MAX_PARAM_LENGTH: 'invalid_request',
  FST_REQ_FILE_TOO_LARGE: 'adapter_too_large',
  FST_PARTS_LIMIT: 'invalid_request',
  FST_FILES_LIMIT: 'invalid_request',
  FST_FIELDS_LIMIT: 'invalid_request',
  FST_PROTO_VIOLATION: 'invalid_request',
  FST_INVALID_MULTIPART_CONTENT_TYPE: 'unsupported_media_type',
  FST_MP_PREMATURE_CLOSE: 'invalid_request',
};

/** /stream_options/include_usage -> stream_options.include_usage */
const paramOf = (instancePath: string) => instancePath.slice(1).replaceAll('/', '.');

/** What a field must be, where the validator's own words would confuse. */
const EXPECTATIONS: Readonly<Record<string, string>> = {
  adapters: 'a list of 1 to 8 of {"name" or "generation", "weight"?}, weights from -100 to 100',
  adapter: 'a name, {"name": ...}, {"generation": <64 hexadecimal digits>}, or null',
  input: 'a text or a list of 1 to 4096 items',
  prompt: 'a text, a list of texts, a list of token ids, or a list of lists of token ids',
  stop: 'a non-empty text of at most 1024 characters, a list of at most 16 of them, or null',
  stream_options: 'an object with include_usage, or null',
};

/** What the fields that tell kinds apart may be. */
const ROLES = 'system, developer, user, assistant or tool';
const TEXT_FORMATS = 'text, json_object or json_schema';

/** The validator's first finding as one of our errors. */
export function validationError(errors: ValidationErrors): LoramuxError {
  // In a union, an unknown member says more than "matches no alternative".
  const first = errors.find(({ keyword }) => keyword === 'additionalProperties') ?? errors[0];
  if (first === undefined) return new LoramuxError('invalid_request', 'the request is malformed');
  const at = paramOf(first.instancePath);
  if (first.keyword === 'additionalProperties') {
    const name = String(first.params.additionalProperty).slice(0, UNKNOWN_FIELD_LENGTH_MAX);
    const field = [at, name].filter(Boolean).join('.');
    return new LoramuxError(
      'unknown_field',
      `${JSON.stringify(field)} is not a field of this request; docs/http.md lists them`,
      { param: field },
    );
  }
  if (first.keyword === 'required') {
    const field = [at, String(first.params.missingProperty)].filter(Boolean).join('.');
    return new LoramuxError('invalid_request', `${field} is required`, { param: field });
  }
  if (first.keyword === 'discriminator') {
    const field = [at, String(first.params.tag)].join('.');
    const kinds = at === 'text.format' ? TEXT_FORMATS : ROLES;
    return new LoramuxError('invalid_request', `${field} must be ${kinds}`, { param: field });
  }
  const message = /^(messages\.\d+\.content|input\.\d+\.(?:content|output))\b/.exec(at)?.[1];
  if (message !== undefined) {
    const text = `${message} must be a text or a non-empty list of text parts`;
    return new LoramuxError('invalid_request', text, { param: message });
  }
  const top = at.split('.')[0]!;
  // What is wrong inside of an item is said of its place.
  const expected = EXPECTATIONS[top === 'input' ? at : top];
  if (expected !== undefined && first.keyword !== 'enum') {
    return new LoramuxError('invalid_request', `${top} must be ${expected}`, { param: top });
  }
  const subject = at === '' ? 'the body' : at;
  return new LoramuxError('invalid_request', `${subject} ${first.message ?? 'is malformed'}`, {
    ...(at !== '' && { param: at }),
  });
}

/** Any thrown value as an error from the table. */
export function asLoramuxError(error: unknown): LoramuxError {
  if (error instanceof LoramuxError) return error;
  if (!(error instanceof Error)) return new LoramuxError('internal_error', String(error));
  const { validation, code, statusCode } = error as Partial<FastifyError>;
  if (validation !== undefined) return validationError(validation);
  const known = code === undefined ? undefined : FRAMEWORK_CODES[code];
  if (known !== undefined) return new LoramuxError(known, error.message, { cause: error });
  // The JSON parser's errors have a status but no code of their own.
  if (statusCode === 400) {
    return new LoramuxError('invalid_request', error.message, { cause: error });
  }
  return new LoramuxError(
    'internal_error',
    'a defect in the server; its log has the details under this request id',
    { cause: error },
  );
}

/** States of the surroundings that were logged when they began, not defects to trace. */
const QUIET_CODES: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  'shutting_down',
  'session_restarted',
  'session_restarting',
  'registry_unavailable',
  'registry_lost',
]);

/** Troubles of the surroundings that each request meets anew: where in the code says nothing. */
const STACKLESS_CODES: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  'blob_missing',
  'blob_unavailable',
  'registry_outcome_unknown',
  'source_unavailable',
]);

/** Answers with an error object. */
export function sendError(request: FastifyRequest, reply: FastifyReply, thrown: unknown): void {
  const error = asLoramuxError(thrown);
  if (QUIET_CODES.has(error.code)) {
    request.log.info({ code: error.code }, error.message);
  } else if (STACKLESS_CODES.has(error.code)) {
    request.log.warn({ code: error.code }, error.message);
  } else if (error.status >= 500) {
    request.log.error({ err: error.cause ?? error, code: error.code }, error.message);
  }
  // The tag that the next try must name.
  if (error.currentGeneration) setETag(reply, error.currentGeneration);
  if (error.status === 429 || error.status === 503) reply.header('retry-after', RETRY_AFTER_S);
  void reply.code(error.status).type('application/json; charset=utf-8').send(errorBody(error));
}

/** Writes an error as the answer straight to the socket, and ends it. */
export function refuseConnection(
  socket: Socket,
  error: LoramuxError,
  headers: Readonly<Record<string, string>> = {},
): void {
  const body = JSON.stringify(errorBody(error));
  const more = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
  socket.end(
    `HTTP/1.1 ${error.status} ${STATUS_CODES[error.status]}\r\n` +
      'content-type: application/json; charset=utf-8\r\n' +
      `content-length: ${Buffer.byteLength(body)}\r\nconnection: close\r\n` +
      `${more.join('')}\r\n${body}`,
  );
}

/** Errors before Fastify has a request. */
export function answerClientError(error: NodeJS.ErrnoException, socket: Socket): void {
  if (error.code === 'ECONNRESET' || socket.destroyed || !socket.writable) {
    socket.destroy();
    return;
  }
  let code: ErrorCode = 'invalid_request';
  if (error.code === 'ERR_HTTP_REQUEST_TIMEOUT') code = 'request_timeout';
  if (error.code === 'HPE_HEADER_OVERFLOW') code = 'headers_too_large';
  const text =
    code === 'invalid_request' ? `malformed HTTP: ${error.message}` : ERRORS[code].summary;
  refuseConnection(socket, new LoramuxError(code, text));
}

/** Error handler, 404 and 405. */
export function registerErrors(app: FastifyInstance): void {
  const routes: { pattern: RegExp; methods: Set<string> }[] = [];
  app.addHook('onRoute', ({ url, method }) => {
    const source = url.replaceAll(/[.*+?^${}()|[\]\\]/g, '\\$&').replaceAll(/:[^/]+/g, '[^/]+');
    const pattern = new RegExp(`^${source}$`);
    let entry = routes.find((route) => route.pattern.source === pattern.source);
    if (entry === undefined) {
      entry = { pattern, methods: new Set() };
      routes.push(entry);
    }
    for (const one of [method].flat()) entry.methods.add(one);
  });
  app.setErrorHandler((error, request, reply) => sendError(request, reply, error));
  const unrouted = (request: FastifyRequest, reply: FastifyReply): LoramuxError => {
    const path = request.url.split('?', 1)[0]!;
    const route = routes.find(({ pattern }) => pattern.test(path));
    if (route === undefined) return new LoramuxError('not_found', `there is no route ${path}`);
    const allowed = [...route.methods].sort().join(', ');
    reply.header('allow', allowed);
    const message = `${path} does not take ${request.method}, only ${allowed}`;
    return new LoramuxError('method_not_allowed', message);
  };
  // Before Fastify finds fault with a body that nothing would have read.
  app.addHook('preParsing', async (request, reply, payload) => {
    if (request.is404) throw unrouted(request, reply);
    return payload;
  });
  app.setNotFoundHandler((request, reply) => sendError(request, reply, unrouted(request, reply)));
}
