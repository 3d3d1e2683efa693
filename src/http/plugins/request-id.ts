/** X-Request-Id: the client's own or a new one, in every answer and in the log. */
import { randomUUID } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import type { FastifyInstance } from 'fastify';
import { REQUEST_ID_LENGTH_MAX } from '../schemas/limits.ts';

const HEADER = 'x-request-id';

/** Ids go into headers and log lines, so others are replaced. */
const ACCEPTED = new RegExp(`^[\\x21-\\x7e]{1,${REQUEST_ID_LENGTH_MAX}}$`);

/** For Fastify's `genReqId`. */
export function requestIdOf({ headers }: Pick<IncomingMessage, 'headers'>): string {
  const own = headers[HEADER];
  return typeof own === 'string' && ACCEPTED.test(own) ? own : `req_${randomUUID()}`;
}

export function registerRequestId(app: FastifyInstance): void {
  app.addHook('onRequest', (request, reply, done) => {
    reply.header(HEADER, request.id);
    done();
  });
}
