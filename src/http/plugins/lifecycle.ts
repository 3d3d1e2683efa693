/** Refuses new work while the server drains; health and metrics stay readable. */
import type { FastifyInstance, FastifyReply } from 'fastify';
import { shuttingDown } from '../../errors.ts';
import type { Lifecycle } from '../services.ts';

declare module 'fastify' {
  interface FastifyReply {
    /** Before the head is sent: while the server drains, the answer is the last one here. */
    closeWhileDraining(): void;
  }
}

const ALWAYS_OPEN: ReadonlySet<string> = new Set(['/health', '/metrics']);

export function registerLifecycle(app: FastifyInstance, lifecycle: Lifecycle): void {
  app.decorateReply('closeWhileDraining', function closeWhileDraining(this: FastifyReply) {
    if (lifecycle.draining) this.header('connection', 'close');
  });
  app.addHook('onRequest', async (request, reply) => {
    if (!lifecycle.draining) return;
    reply.closeWhileDraining();
    if (ALWAYS_OPEN.has(request.routeOptions.url ?? '')) return;
    throw shuttingDown();
  });
  // Of requests that came before.
  app.addHook('onSend', async (_request, reply) => reply.closeWhileDraining());
}
