/** What HTTP says about a request's head, where Node's own answers would have no body. */
import type { FastifyInstance } from 'fastify';
import { LoramuxError } from '../../errors.ts';

const CONTINUE = /^100-continue$/i;

/**
 * Clients that send `Expect: 100-continue` (curl does, with large uploads) wait before they send the
 * body. They are told to go on only when nothing in the request's head refuses it, so that an upload
 * which is refused anyway is never sent. Other expectations are ignored, as RFC 9110 (10.1.1) allows.
 * A request without Host is refused, as RFC 9112 (3.2) demands.
 */
export function registerHeadRules(app: FastifyInstance): void {
  // With listeners, Node leaves it to us to answer, and hands the request only to us.
  for (const event of ['checkContinue', 'checkExpectation'] as const) {
    app.server.on(event, (request, response) => app.routing(request, response));
  }
  app.addHook('onRequest', async ({ raw }) => {
    if (raw.headers.host !== undefined || raw.httpVersion === '1.0') return;
    throw new LoramuxError('invalid_request', 'the request has no Host header');
  });
  app.addHook('preParsing', async (request, reply, payload) => {
    if (CONTINUE.test(request.headers.expect ?? '')) reply.raw.writeContinue();
    return payload;
  });
}
