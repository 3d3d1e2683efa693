/** Refuses new work while the server drains; health and metrics stay readable. */
import type { FastifyInstance } from 'fastify';
import { LoramuxError } from '../../errors.ts';
import type { Lifecycle } from '../services.ts';

const ALWAYS_OPEN: ReadonlySet<string> = new Set(['/health', '/metrics']);

export function registerLifecycle(app: FastifyInstance, lifecycle: Lifecycle): void {
  app.addHook('onRequest', async (request, reply) => {
    if (!lifecycle.draining) return;
    reply.header('connection', 'close');
    if (ALWAYS_OPEN.has(request.routeOptions.url ?? '')) return;
    throw new LoramuxError('shutting_down', 'the server is shutting down; retry elsewhere');
  });
}
