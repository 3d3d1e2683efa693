/**
 * Clients that send `Expect: 100-continue` (curl does, with large uploads) wait before they send the
 * body. They are told to go on only when nothing in the request's head refuses it, so that an upload
 * which is refused anyway is never sent.
 */
import type { FastifyInstance } from 'fastify';

const CONTINUE = /^100-continue$/i;

export function registerContinue(app: FastifyInstance): void {
  // With a listener, Node leaves it to us to say "100 Continue", and hands the request only to us.
  app.server.on('checkContinue', (request, response) => app.routing(request, response));
  app.addHook('preParsing', async (request, reply, payload) => {
    if (CONTINUE.test(request.headers.expect ?? '')) reply.raw.writeContinue();
    return payload;
  });
}
