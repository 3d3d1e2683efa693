/** GET /health: 200 while requests are answered, 503 while draining or after the engine gave up. */
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import { ALWAYS_OPEN_ERRORS, errorResponses } from '../schemas/error.ts';
import { HealthSchema, type WireHealth } from '../schemas/models.ts';
import type { HttpServices } from '../services.ts';

export function healthRoutes(services: HttpServices): FastifyPluginAsyncTypebox {
  const { engine, adapters, lifecycle } = services;
  function health(): WireHealth {
    const stats = engine.stats();
    const { registered, resident, slots } = services.adapterStats();
    const failure = engine.failure;
    const status = failure !== undefined ? 'failed' : lifecycle.draining ? 'draining' : 'ok';
    return {
      status,
      model: services.model.name,
      version: services.version,
      engine: {
        running: stats.running,
        waiting: stats.waiting,
        steps: stats.steps,
        kv_blocks: stats.blocksTotal,
        kv_blocks_used: stats.blocksTotal - stats.blocksFree,
        error: failure?.message ?? null,
      },
      adapters: { registered, damaged: adapters.damaged().length, resident, slots },
    };
  }
  return async (app) => {
    app.get(
      '/health',
      {
        schema: {
          summary: 'Whether the server answers requests.',
          // A 503 here is an answer of its own shape, not an error object.
          response: {
            200: HealthSchema,
            503: HealthSchema,
            ...errorResponses(ALWAYS_OPEN_ERRORS),
          },
        },
      },
      async (_request, reply) => {
        const body = health();
        return reply.code(body.status === 'ok' ? 200 : 503).send(body);
      },
    );
  };
}
