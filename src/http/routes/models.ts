/** GET /v1/models and /v1/models/{id}: the base and its adapters. */
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import type { AdapterRecord } from '../../adapters/types.ts';
import { LoramuxError } from '../../errors.ts';
import { findNamed } from '../../generation/target.ts';
import { requireRegistry } from '../plugins/registry.ts';
import { errorResponses, PLAIN_ERRORS } from '../schemas/error.ts';
import {
  ModelListSchema,
  ModelParamsSchema,
  ModelSchema,
  type WireModel,
} from '../schemas/models.ts';
import type { HttpServices } from '../services.ts';
import { recordOf } from '../wire/adapter-json.ts';
import { recordTexts } from '../wire/record-json.ts';

export function modelRoutes(services: HttpServices): FastifyPluginAsyncTypebox {
  const { model, engine, adapters } = services;
  const base = (): WireModel => ({
    id: model.name,
    object: 'model',
    created: model.created,
    owned_by: 'loramux',
    root: model.name,
    parent: null,
    generation: null,
    max_model_len: engine.limits.maxModelLen,
  });
  const adapted = (record: AdapterRecord): WireModel => ({
    ...base(),
    id: record.name,
    created: record.createdAt,
    root: record.source,
    parent: model.name,
    generation: record.generation.digest,
  });
  const textsOf = recordTexts(adapted);
  return async (app) => {
    app.get(
      '/v1/models',
      {
        schema: {
          summary: 'List the base model and the adapters.',
          response: {
            200: ModelListSchema,
            ...errorResponses([...PLAIN_ERRORS, 'registry_unavailable']),
          },
        },
      },
      async (_request, reply) => {
        requireRegistry(services);
        const data = [JSON.stringify(base()), textsOf(adapters.list())].filter(Boolean).join(',');
        const text = `{"object":"list","data":[${data}]}`;
        return reply.type('application/json; charset=utf-8').send(text as never);
      },
    );
    app.get(
      '/v1/models/:id',
      {
        schema: {
          summary: 'Show the base model or one adapter.',
          params: ModelParamsSchema,
          response: {
            200: ModelSchema,
            ...errorResponses([
              ...PLAIN_ERRORS,
              'model_not_found',
              'store_corrupt',
              'registry_unavailable',
              'registry_lost',
            ]),
          },
        },
      },
      async (request) => {
        const { id } = request.params;
        if (id === model.name) return base();
        try {
          return adapted(findNamed(id, model.name, (name) => recordOf(adapters, name)));
        } catch (error) {
          if (!(error instanceof LoramuxError) || error.code !== 'adapter_not_found') throw error;
          throw new LoramuxError(
            'model_not_found',
            `${JSON.stringify(id)} is neither the base model nor a registered adapter`,
            { param: 'id', cause: error },
          );
        }
      },
    );
  };
}
