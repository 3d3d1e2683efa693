/** What a change is conditional on: If-Match and If-None-Match over generations (RFC 9110, 13.1). */
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { Condition } from '../../adapters/service-types.ts';
import { LoramuxError } from '../../errors.ts';

/** One entity tag, strong: quotes around anything but quotes, spaces and control characters. */
const STRONG_TAG = /^"([\x21\x23-\x7e\x80-\xff]*)"$/;

const refuse = (header: string, message: string) =>
  new LoramuxError('invalid_request', `${header} ${message}`, { param: header });

function ifMatchOf(value: string): string {
  if (value === '*') return value;
  const tag = STRONG_TAG.exec(value)?.[1];
  if (tag !== undefined) return tag;
  throw refuse(
    'If-Match',
    'must be one generation in double quotes, as the ETag of an answer has it, or *; weak tags and ' +
      'lists are not taken',
  );
}

type Headers = FastifyRequest['headers'];

/**
 * The condition of a change of an existing name.
 * @throws LoramuxError invalid_request
 */
export function conditionOf(headers: Headers): Condition {
  if (headers['if-none-match'] !== undefined) {
    throw refuse('If-None-Match', 'has a meaning only for PUT /v1/adapters/{name}');
  }
  const value = headers['if-match'];
  // Any generation will do, and a name that does not exist is an error of its own.
  return value === undefined || value === '*' ? {} : { ifMatch: ifMatchOf(value) };
}

/** Refuses a malformed condition in words that help, before the schema's pattern does. */
export async function checkCondition({ headers }: FastifyRequest): Promise<void> {
  conditionOf(headers);
}

/**
 * The condition of a PUT.
 * @throws LoramuxError invalid_request
 */
export function putConditionOf(headers: Headers): Condition {
  const ifMatch = headers['if-match'];
  const ifNoneMatch = headers['if-none-match'];
  if (ifNoneMatch !== undefined && ifNoneMatch !== '*') {
    throw refuse('If-None-Match', 'must be *: the name must not exist');
  }
  if (ifMatch !== undefined && ifNoneMatch !== undefined) {
    throw refuse('If-Match', 'and If-None-Match together can never hold; send one of them');
  }
  if (ifNoneMatch !== undefined) return { ifNoneMatch: true };
  return ifMatch === undefined ? {} : { ifMatch: ifMatchOf(ifMatch) };
}

/** @throws LoramuxError invalid_request when a route that takes no condition gets one. */
export function refuseConditions(headers: Headers): void {
  for (const [key, header] of [
    ['if-match', 'If-Match'],
    ['if-none-match', 'If-None-Match'],
  ] as const) {
    if (headers[key] !== undefined) {
      throw refuse(header, 'is not honoured here; docs/http.md lists the routes that do');
    }
  }
}

/** Says which generation is current. */
export function setETag(reply: FastifyReply, digest: string): void {
  reply.header('etag', `"${digest}"`);
}
