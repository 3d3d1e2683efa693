/** PUT, GET and DELETE of adapters. */
import multipart from '@fastify/multipart';
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import type { FastifyRequest } from 'fastify';
import type { AdapterSource } from '../../adapters/service-types.ts';
import type { AdapterRecord } from '../../adapters/types.ts';
import { ERRORS, type ErrorCode, LoramuxError } from '../../errors.ts';
import {
  AdapterDeletedSchema,
  AdapterListSchema,
  AdapterParamsSchema,
  type AdapterPath,
  AdapterPathSchema,
  AdapterSchema,
  type WireAdapter,
} from '../schemas/adapters.ts';
import { BODY_ERRORS, errorResponses, PLAIN_ERRORS } from '../schemas/error.ts';
import type { HttpServices } from '../services.ts';
import { recordTexts } from '../wire/record-json.ts';
import { receiveUpload } from '../wire/upload.ts';

/** What the content of an upload can be refused for. */
const CONTENT_ERRORS = (Object.keys(ERRORS) as ErrorCode[]).filter(
  (code) =>
    ERRORS[code].status === 422 && (code.startsWith('adapter_') || code.startsWith('safetensors_')),
);

const PUT_ERRORS: readonly ErrorCode[] = [
  ...BODY_ERRORS,
  ...CONTENT_ERRORS,
  'adapter_name_invalid',
  'adapter_limit_exceeded',
  'adapter_too_large',
  'adapter_path_forbidden',
  'adapter_upload_incomplete',
  'queue_full',
];

function wireAdapter(record: AdapterRecord): WireAdapter {
  return {
    name: record.name,
    object: 'adapter',
    generation: record.generation.digest,
    created: record.createdAt,
    rank: record.generation.rank,
    target_modules: [...record.targetModules],
    resident_bytes: record.generation.residentBytes,
    file_bytes: record.fileBytes,
    source: record.source,
  };
}

type App = Parameters<FastifyPluginAsyncTypebox>[0];

/** Uploads need the form parser, which no other route has. */
async function registerPut(app: App, { adapters }: HttpServices): Promise<void> {
  await app.register(multipart, { throwFileSizeLimit: true });

  async function sourceOf(request: FastifyRequest): Promise<AdapterSource> {
    if (request.isMultipart()) return receiveUpload(request, adapters);
    return { kind: 'directory', path: (request.body as AdapterPath).path };
  }

  app.put(
    '/v1/adapters/:name',
    {
      schema: {
        summary: 'Register an adapter, or move a name to other content.',
        params: AdapterParamsSchema,
        consumes: ['application/json', 'multipart/form-data'],
        body: { content: { 'application/json': { schema: AdapterPathSchema } } },
        response: { 200: AdapterSchema, 201: AdapterSchema, ...errorResponses(PUT_ERRORS) },
      },
      preValidation: async (request) => {
        if (request.isMultipart() || request.body !== undefined) return;
        throw new LoramuxError(
          'invalid_request',
          'send the adapter as multipart/form-data with its two files, or as JSON {"path": ...}',
        );
      },
    },
    async (request, reply) => {
      const { name } = request.params;
      const { record, replaced } = await adapters.put(name, await sourceOf(request));
      return reply.code(replaced ? 200 : 201).send(wireAdapter(record));
    },
  );
}

function registerReads(app: App, { adapters }: HttpServices): void {
  const textsOf = recordTexts(wireAdapter);
  app.get(
    '/v1/adapters',
    {
      schema: {
        summary: 'List the adapters.',
        response: { 200: AdapterListSchema, ...errorResponses(PLAIN_ERRORS) },
      },
    },
    async (_request, reply) => {
      const damaged = adapters.damaged().map(({ name, reason }) => ({ name, reason }));
      const data = textsOf(adapters.list());
      const text = `{"object":"list","data":[${data}],"damaged":${JSON.stringify(damaged)}}`;
      return reply.type('application/json; charset=utf-8').send(text as never);
    },
  );
  app.get(
    '/v1/adapters/:name',
    {
      schema: {
        summary: 'Show one adapter.',
        params: AdapterParamsSchema,
        response: {
          200: AdapterSchema,
          ...errorResponses([...PLAIN_ERRORS, 'adapter_not_found', 'store_corrupt']),
        },
      },
    },
    async (request) => wireAdapter(adapters.resolve(request.params.name)),
  );
}

function registerDelete(app: App, { adapters, metrics }: HttpServices): void {
  app.delete(
    '/v1/adapters/:name',
    {
      schema: {
        summary: 'Remove a name; running requests finish undisturbed.',
        params: AdapterParamsSchema,
        response: {
          200: AdapterDeletedSchema,
          // A body is not needed, but one that is sent is read.
          ...errorResponses([
            ...PLAIN_ERRORS,
            'adapter_not_found',
            'payload_too_large',
            'unsupported_media_type',
          ]),
        },
      },
    },
    async (request) => {
      const { name } = request.params;
      await adapters.remove(name);
      metrics.forgetAdapter(name);
      return { name, object: 'adapter' as const, deleted: true as const };
    },
  );
}

export function adapterRoutes(services: HttpServices): FastifyPluginAsyncTypebox {
  return async (app) => {
    await registerPut(app, services);
    registerReads(app, services);
    registerDelete(app, services);
  };
}
