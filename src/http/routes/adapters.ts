/** Adapters themselves: register, list, show, remove. */

import type { Readable } from 'node:stream';
import multipart from '@fastify/multipart';
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import type { FastifyRequest } from 'fastify';
import type { AdapterSource, PutOptions } from '../../adapters/service-types.ts';
import { type ErrorCode, LoramuxError } from '../../errors.ts';
import { checkHead, numberInQuery } from '../plugins/head-check.ts';
import { requireRegistry } from '../plugins/registry.ts';
import {
  AdapterSourceSchema,
  IfMatchSchema,
  NoQuerySchema,
  PutConditionsSchema,
  PutQuerySchema,
  type WireAdapterSource,
} from '../schemas/adapter-requests.ts';
import {
  AdapterDeletedSchema,
  AdapterListSchema,
  AdapterParamsSchema,
  AdapterSchema,
  GenerationListSchema,
} from '../schemas/adapters.ts';
import {
  BODILESS_ERRORS,
  BODY_ERRORS,
  CHANGE_ERRORS,
  errorResponses,
  PLAIN_ERRORS,
  SOURCE_ERRORS,
} from '../schemas/error.ts';
import type { HttpServices } from '../services.ts';
import {
  recordOf,
  wireAdapter,
  wireHistory,
  wireRecord,
  wireResidency,
} from '../wire/adapter-json.ts';
import { jsonSource } from '../wire/adapter-source.ts';
import { checkCondition, conditionOf, putConditionOf, setETag } from '../wire/conditions.ts';
import { recordTexts } from '../wire/record-json.ts';
import { ARCHIVE_TYPES, type ArchiveFormat, receiveArchive, receiveForm } from '../wire/upload.ts';

const PUT_ERRORS: readonly ErrorCode[] = [
  ...BODY_ERRORS,
  ...SOURCE_ERRORS,
  ...CHANGE_ERRORS,
  'generation_current',
  'adapter_upload_incomplete',
];

const SHOW_ERRORS: readonly ErrorCode[] = [
  ...PLAIN_ERRORS,
  'unknown_field',
  'adapter_not_found',
  'store_corrupt',
  'registry_unavailable',
  'registry_lost',
];

type App = Parameters<FastifyPluginAsyncTypebox>[0];

/** The format of a body that is an archive. */
function archiveFormatOf({ headers }: FastifyRequest): ArchiveFormat | undefined {
  const type = (headers['content-type'] ?? '').split(';', 1)[0]!.trim().toLowerCase();
  return Object.hasOwn(ARCHIVE_TYPES, type) ? ARCHIVE_TYPES[type] : undefined;
}

function putOptionsOf(request: FastifyRequest): PutOptions {
  const { canary_weight: canaryWeight } = request.query as { canary_weight?: number };
  return {
    ...putConditionOf(request.headers),
    ...(canaryWeight !== undefined && { canaryWeight }),
  };
}

/** Uploads need parsers that no other route has. */
async function registerPut(app: App, { adapters, residency }: HttpServices): Promise<void> {
  await app.register(multipart, { throwFileSizeLimit: true });
  app.addContentTypeParser(Object.keys(ARCHIVE_TYPES), (_request, body, done) => done(null, body));

  async function sourceOf(request: FastifyRequest): Promise<AdapterSource> {
    if (request.isMultipart()) return receiveForm(request, adapters);
    const format = archiveFormatOf(request);
    if (format === undefined) return jsonSource(request.body as WireAdapterSource);
    return receiveArchive(request, request.body as Readable, format, adapters);
  }

  app.put(
    '/v1/adapters/:name',
    {
      schema: {
        summary: 'Register an adapter, or move a name to other content.',
        params: AdapterParamsSchema,
        querystring: PutQuerySchema,
        headers: PutConditionsSchema,
        consumes: ['application/json', 'multipart/form-data', ...Object.keys(ARCHIVE_TYPES)],
        body: { content: { 'application/json': { schema: AdapterSourceSchema } } },
        response: { 200: AdapterSchema, 201: AdapterSchema, ...errorResponses(PUT_ERRORS) },
      },
      // What is refused anyway is refused before the upload.
      onRequest: async (request) => {
        numberInQuery(request, 'canary_weight');
        const options = putOptionsOf(request);
        checkHead(request);
        adapters.checkPut((request.params as { name: string }).name, options);
      },
      preValidation: async (request) => {
        if (request.isMultipart() || request.body !== undefined) return;
        throw new LoramuxError(
          'invalid_request',
          'send the adapter: its two files or an archive as multipart/form-data, an archive as the ' +
            'body, or JSON with "path", "repo" or "url"',
        );
      },
    },
    async (request, reply) => {
      const { name } = request.params;
      const source = await sourceOf(request);
      const { record, replaced } = await adapters.put(name, source, putOptionsOf(request));
      setETag(reply, record.generation.digest);
      return reply.code(replaced ? 200 : 201).send(wireAdapter(record, residency));
    },
  );
}

function registerReads(app: App, services: HttpServices): void {
  const { adapters, residency } = services;
  const textsOf = recordTexts(wireRecord, ({ generation }) => ({
    residency: wireResidency(residency.view(generation)),
  }));
  app.get(
    '/v1/adapters',
    {
      schema: {
        summary: 'List the adapters.',
        querystring: NoQuerySchema,
        response: {
          200: AdapterListSchema,
          ...errorResponses([...PLAIN_ERRORS, 'unknown_field', 'registry_unavailable']),
        },
      },
    },
    async (_request, reply) => {
      requireRegistry(services);
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
        querystring: NoQuerySchema,
        response: { 200: AdapterSchema, ...errorResponses(SHOW_ERRORS) },
      },
    },
    async (request, reply) => {
      const record = recordOf(adapters, request.params.name);
      setETag(reply, record.generation.digest);
      return wireAdapter(record, residency);
    },
  );
  app.get(
    '/v1/adapters/:name/generations',
    {
      schema: {
        summary: 'List the generations that a name keeps.',
        params: AdapterParamsSchema,
        querystring: NoQuerySchema,
        response: { 200: GenerationListSchema, ...errorResponses(SHOW_ERRORS) },
      },
    },
    async (request, reply) => {
      const history = adapters.history(request.params.name);
      setETag(reply, history.current);
      return wireHistory(history, residency);
    },
  );
}

function registerDelete(app: App, { adapters, metrics }: HttpServices): void {
  app.delete(
    '/v1/adapters/:name',
    {
      schema: {
        summary: 'Remove a name; running requests finish undisturbed.',
        params: AdapterParamsSchema,
        querystring: NoQuerySchema,
        headers: IfMatchSchema,
        response: {
          200: AdapterDeletedSchema,
          ...errorResponses([...BODILESS_ERRORS, ...CHANGE_ERRORS, 'adapter_not_found']),
        },
      },
      onRequest: checkCondition,
    },
    async (request) => {
      const { name } = request.params;
      await adapters.remove(name, conditionOf(request.headers));
      metrics.forgetAdapter(name);
      return { name, object: 'adapter' as const, deleted: true as const };
    },
  );
}

export function adapterRoutes(services: HttpServices): FastifyPluginAsyncTypebox {
  return async (app) => {
    await app.register(async (scope) => registerPut(scope as App, services));
    registerReads(app, services);
    registerDelete(app, services);
  };
}
