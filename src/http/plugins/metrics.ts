/** Counts every answer by route, method and status, and serves /metrics. */
import type { FastifyInstance } from 'fastify';
import type { Metrics } from '../../metrics/metrics.ts';
import { ALWAYS_OPEN_ERRORS, errorResponses } from '../schemas/error.ts';
import { CLIENT_CLOSED_REQUEST } from './client-gone.ts';

/** The label of requests that match no route: their paths are the client's choice. */
const NO_ROUTE = 'none';

export function registerMetrics(app: FastifyInstance, metrics: Metrics): void {
  app.addHook('onResponse', async (request, reply) => {
    const route = request.routeOptions.url ?? NO_ROUTE;
    metrics.httpRequest(route, request.method, reply.statusCode, reply.elapsedTime / 1000);
  });
  app.addHook('onRequestAbort', async (request) => {
    const route = request.routeOptions.url ?? NO_ROUTE;
    metrics.httpRequest(route, request.method, CLIENT_CLOSED_REQUEST, 0);
  });
  app.get(
    '/metrics',
    {
      schema: {
        summary: 'Metrics in Prometheus text format.',
        response: {
          200: { content: { 'text/plain': { schema: { type: 'string' } } } },
          ...errorResponses(ALWAYS_OPEN_ERRORS),
        },
      },
    },
    async (_request, reply) => reply.type(metrics.contentType).send(await metrics.scrape()),
  );
}
