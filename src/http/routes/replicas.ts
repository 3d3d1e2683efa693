/** GET /v1/replicas: the fleet, and where an adapter is warm. */
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import { NoQuerySchema } from '../schemas/adapter-requests.ts';
import { ReplicaListSchema } from '../schemas/adapters.ts';
import { errorResponses, PLAIN_ERRORS } from '../schemas/error.ts';
import type { HttpServices } from '../services.ts';
import { wireReplica } from '../wire/adapter-json.ts';

export function replicaRoutes({ adapters, replicaId }: HttpServices): FastifyPluginAsyncTypebox {
  return async (app) => {
    app.get(
      '/v1/replicas',
      {
        schema: {
          summary: 'List the servers that share the registry, and what each has in memory.',
          querystring: NoQuerySchema,
          response: {
            200: ReplicaListSchema,
            ...errorResponses([
              ...PLAIN_ERRORS,
              'unknown_field',
              'registry_unavailable',
              'registry_lost',
            ]),
          },
        },
      },
      async () => {
        const replicas = await adapters.replicas();
        return {
          object: 'list' as const,
          data: replicas.map((replica) => wireReplica(replica, replicaId)),
        };
      },
    );
  };
}
