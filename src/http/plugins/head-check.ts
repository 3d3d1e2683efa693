/** Checks of a request's head before its body is read. */
import type { FastifyRequest } from 'fastify';
import { validationError } from './errors.ts';

const PARTS = ['params', 'querystring', 'headers'] as const;

/** A number as clients write doubles: with the digits of the least one above zero, or its exponent. */
const DECIMAL = /^(?=[\d.])\d{0,9}(?:\.\d{1,40})?(?:e[+-]?\d{1,3})?$/i;

/** Query parameters are texts; one that is to be a number becomes it, if it looks like one. */
export function numberInQuery(request: FastifyRequest, name: string): void {
  const query = request.query as Record<string, unknown>;
  const text = query[name];
  if (typeof text === 'string' && text !== '' && DECIMAL.test(text)) query[name] = Number(text);
}

/**
 * What Fastify does after the body was read, here before it.
 * @throws LoramuxError invalid_request, unknown_field
 */
export function checkHead(request: FastifyRequest): void {
  const data = { params: request.params, querystring: request.query, headers: request.headers };
  for (const part of PARTS) {
    const validate = request.getValidationFunction(part);
    if (validate !== undefined && !validate(data[part])) {
      throw validationError(validate.errors ?? []);
    }
  }
}
