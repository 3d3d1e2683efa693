/** The adapter routes of vLLM, with the bodies, statuses and texts that its clients expect. */
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import type { FastifyRequest } from 'fastify';
import type { PutOptions } from '../../adapters/service-types.ts';
import { type ErrorCode, LoramuxError } from '../../errors.ts';
import { NoQuerySchema } from '../schemas/adapter-requests.ts';
import { type LoadLora, LoadLoraSchema, UnloadLoraSchema } from '../schemas/drop-in.ts';
import { BODY_ERRORS, CHANGE_ERRORS, errorResponses, SOURCE_ERRORS } from '../schemas/error.ts';
import type { HttpServices } from '../services.ts';
import { loraPathSource } from '../wire/adapter-source.ts';
import { refuseConditions } from '../wire/conditions.ts';

const LOAD_ERRORS: readonly ErrorCode[] = [
  ...BODY_ERRORS,
  'unsupported_field',
  ...SOURCE_ERRORS,
  ...CHANGE_ERRORS,
  'adapter_upload_incomplete',
  'adapter_already_loaded',
];

const TEXT = 'text/plain; charset=utf-8';
const text = { content: { 'text/plain': { schema: { type: 'string' } } } };

/** Before the schema sees the body: clients of vLLM know its words for empty texts. */
const refuseEmpty = (fields: readonly string[], message: string) => {
  return async ({ body }: FastifyRequest) => {
    const empty = fields.find((field) => (body as Record<string, unknown> | null)?.[field] === '');
    if (empty !== undefined) throw new LoramuxError('invalid_request', message, { param: empty });
  };
};

function checkLoad(body: LoadLora, baseName: string): void {
  const { base_model_name: base, expected_generation: expected } = body;
  if (base !== undefined && base !== null && base !== baseName) {
    throw new LoramuxError(
      'model_not_found',
      `base_model_name is ${JSON.stringify(base)}; this server has only ${JSON.stringify(baseName)}`,
      { param: 'base_model_name' },
    );
  }
  if (body.is_3d_lora_weight === true) {
    throw new LoramuxError(
      'unsupported_field',
      'is_3d_lora_weight is not supported by this server: its models have no expert layers',
      { param: 'is_3d_lora_weight' },
    );
  }
  if (expected !== undefined && expected !== null && body.load_inplace !== true) {
    throw new LoramuxError(
      'invalid_request',
      'expected_generation has a meaning only with load_inplace: true',
      { param: 'expected_generation' },
    );
  }
}

function optionsOf({ load_inplace: inPlace, expected_generation: expected }: LoadLora): PutOptions {
  if (inPlace !== true) return { ifNoneMatch: true };
  return expected === undefined || expected === null ? {} : { ifMatch: expected };
}

/** Clients of vLLM look for its words to tell this error from others with the same status. */
const alreadyLoaded = (name: string, cause: unknown) =>
  new LoramuxError(
    'adapter_already_loaded',
    `The lora adapter '${name}' has already been loaded. If you want to load the adapter in place, ` +
      "set 'load_inplace' to True.",
    { param: 'lora_name', cause },
  );

const isCode = (error: unknown, code: ErrorCode) =>
  error instanceof LoramuxError && error.code === code;

export function vllmRoutes(services: HttpServices): FastifyPluginAsyncTypebox {
  const { adapters, config, metrics, model } = services;
  const onRequest = async ({ headers }: FastifyRequest) => refuseConditions(headers);

  async function load(body: LoadLora): Promise<void> {
    checkLoad(body, model.name);
    const options = optionsOf(body);
    try {
      adapters.checkPut(body.lora_name, options);
      await adapters.put(body.lora_name, await loraPathSource(body.lora_path, config), options);
    } catch (error) {
      const isTaken = options.ifNoneMatch === true && isCode(error, 'generation_mismatch');
      throw isTaken ? alreadyLoaded(body.lora_name, error) : error;
    }
  }

  return async (app) => {
    app.post(
      '/v1/load_lora_adapter',
      {
        schema: {
          summary: 'Register an adapter as vLLM does.',
          querystring: NoQuerySchema,
          body: LoadLoraSchema,
          response: { 200: text, ...errorResponses([...LOAD_ERRORS, 'model_not_found']) },
        },
        onRequest,
        preValidation: refuseEmpty(
          ['lora_name', 'lora_path'],
          "Both 'lora_name' and 'lora_path' must be provided.",
        ),
      },
      async (request, reply) => {
        await load(request.body);
        const { lora_name: name } = request.body;
        return reply
          .type(TEXT)
          .send(`Success: LoRA adapter '${name}' added successfully.` as never);
      },
    );
    app.post(
      '/v1/unload_lora_adapter',
      {
        schema: {
          summary: 'Remove an adapter as vLLM does.',
          querystring: NoQuerySchema,
          body: UnloadLoraSchema,
          response: {
            200: text,
            ...errorResponses([...BODY_ERRORS, ...CHANGE_ERRORS, 'adapter_not_found']),
          },
        },
        onRequest,
        preValidation: refuseEmpty(
          ['lora_name'],
          "'lora_name' needs to be provided to unload a LoRA adapter.",
        ),
      },
      async (request, reply) => {
        const { lora_name: name, expected_generation: expected } = request.body;
        try {
          await adapters.remove(name, { ifMatch: expected ?? undefined });
        } catch (error) {
          if (!isCode(error, 'adapter_not_found')) throw error;
          throw new LoramuxError(
            'adapter_not_found',
            `The lora adapter '${name}' cannot be found.`,
            { param: 'lora_name', cause: error },
          );
        }
        metrics.forgetAdapter(name);
        return reply
          .type(TEXT)
          .send(`Success: LoRA adapter '${name}' removed successfully.` as never);
      },
    );
  };
}
