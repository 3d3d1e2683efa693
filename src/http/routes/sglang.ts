/** The adapter routes of SGLang: every outcome of a change has the same shape. */
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import type { FastifyError, FastifyReply, FastifyRequest } from 'fastify';
import type { AdapterRecord } from '../../adapters/types.ts';
import type { LoramuxError } from '../../errors.ts';
import { asLoramuxError, sendError } from '../plugins/errors.ts';
import { NoQuerySchema } from '../schemas/adapter-requests.ts';
import {
  SglangLoadSchema,
  SglangUnloadSchema,
  SglangUpdateSchema,
  type WireSglangUpdate,
} from '../schemas/drop-in.ts';
import { BODY_ERRORS, CHANGE_ERRORS, errorResponses, SOURCE_ERRORS } from '../schemas/error.ts';
import type { HttpServices } from '../services.ts';
import { loraPathSource } from '../wire/adapter-source.ts';
import { refuseConditions } from '../wire/conditions.ts';

/** SGLang answers a refused change with 400 and its own shape; other errors have ours. */
const REFUSALS: ReadonlySet<number> = new Set([400, 403, 404, 409, 412, 422]);

const otherErrors = (codes: Parameters<typeof errorResponses>[0]) =>
  Object.fromEntries(
    Object.entries(errorResponses(codes)).filter(([status]) => !REFUSALS.has(Number(status))),
  );

export function sglangRoutes(services: HttpServices): FastifyPluginAsyncTypebox {
  const { adapters, config, metrics, residency } = services;

  const update = (error?: LoramuxError): WireSglangUpdate => ({
    success: error === undefined,
    error_message: error === undefined ? '' : `${error.code}: ${error.message}`,
    loaded_adapters: Object.fromEntries(adapters.list().map(({ name, source }) => [name, source])),
  });

  /** SGLang does not load what it cannot pin. */
  async function pin({ name, generation }: AdapterRecord): Promise<void> {
    try {
      residency.checkPins([...adapters.pinnedGenerations(), generation]);
      await adapters.setPinned(name, true);
    } catch (error) {
      await adapters.remove(name, { ifMatch: generation.digest });
      throw error;
    }
  }

  const options = {
    onRequest: async ({ headers }: FastifyRequest) => refuseConditions(headers),
    errorHandler: (thrown: FastifyError, request: FastifyRequest, reply: FastifyReply) => {
      const error = asLoramuxError(thrown);
      if (REFUSALS.has(error.status)) void reply.code(400).send(update(error));
      else sendError(request, reply, error);
    },
  };

  return async (app) => {
    app.post(
      '/load_lora_adapter',
      {
        schema: {
          summary: 'Register an adapter as SGLang does.',
          querystring: NoQuerySchema,
          body: SglangLoadSchema,
          response: {
            200: SglangUpdateSchema,
            400: SglangUpdateSchema,
            ...otherErrors([...BODY_ERRORS, ...SOURCE_ERRORS, ...CHANGE_ERRORS]),
          },
        },
        ...options,
      },
      async ({ body }) => {
        const { lora_name: name, lora_path: loraPath } = body;
        const putOptions = { ifNoneMatch: true };
        adapters.checkPut(name, putOptions);
        const source = await loraPathSource(loraPath, config);
        const { record } = await adapters.put(name, source, putOptions);
        if (body.pinned === true) await pin(record);
        return update();
      },
    );
    app.post(
      '/unload_lora_adapter',
      {
        schema: {
          summary: 'Remove an adapter as SGLang does.',
          querystring: NoQuerySchema,
          body: SglangUnloadSchema,
          response: {
            200: SglangUpdateSchema,
            400: SglangUpdateSchema,
            ...otherErrors([...BODY_ERRORS, ...CHANGE_ERRORS]),
          },
        },
        ...options,
      },
      async ({ body: { lora_name: name } }) => {
        await adapters.remove(name);
        metrics.forgetAdapter(name);
        return update();
      },
    );
  };
}
