/** GET /health: 200 while requests are answered, else 503. */
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import { isConnecting } from '../plugins/registry.ts';
import { ALWAYS_OPEN_ERRORS, errorResponses } from '../schemas/error.ts';
import { HealthSchema, type HealthStatus, type WireHealth } from '../schemas/models.ts';
import type { HttpServices } from '../services.ts';

export function healthRoutes(services: HttpServices): FastifyPluginAsyncTypebox {
  const { engine, session, adapters, lifecycle } = services;
  function statusOf(): HealthStatus {
    if (engine.failure !== undefined) return 'failed';
    if (lifecycle.draining) return 'draining';
    if (session.report().state === 'restarting') return 'restarting';
    if (isConnecting(services)) return 'connecting';
    return adapters.registry().state === 'ok' ? 'ok' : 'degraded';
  }
  function health(): WireHealth {
    const stats = engine.stats();
    const { registered, resident, slots } = services.adapterStats();
    const failure = engine.failure;
    const registry = adapters.registry();
    const { state, sinceMs, restarts, lastError } = session.report();
    return {
      status: statusOf(),
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
      session: {
        state,
        since: Math.floor(sinceMs / 1000),
        restarts,
        last_error: lastError ?? null,
      },
      adapters: { registered, damaged: adapters.damaged().length, resident, slots },
      registry: {
        kind: registry.kind,
        state: registry.state,
        reason: registry.reason ?? null,
        since: Math.floor(registry.sinceMs / 1000),
        lag_ms: Math.round(registry.lagMs),
      },
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
        const answers = body.status === 'ok' || body.status === 'degraded';
        return reply.code(answers ? 200 : 503).send(body);
      },
    );
  };
}
