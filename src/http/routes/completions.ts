/** POST /v1/completions. */
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import type { FastifyReply } from 'fastify';
import type { ErrorCode } from '../../errors.ts';
import type { Generation, GenerationEvent } from '../../generation/types.ts';
import { clientGone } from '../plugins/client-gone.ts';
import { Turns } from '../plugins/turns.ts';
import {
  type CompletionRequest,
  CompletionRequestSchema,
  CompletionSchema,
} from '../schemas/completion.ts';
import { BODY_ERRORS, errorResponses } from '../schemas/error.ts';
import { dropNeutralFields } from '../schemas/unsupported.ts';
import type { HttpServices } from '../services.ts';
import { toGenerationRequest } from '../wire/completion-request.ts';
import { CompletionCollector, completionHead } from '../wire/completion-response.ts';
import { EVENTS_PER_PIECE, sendText, sseStream } from '../wire/sse.ts';

/** What generation adds to the errors of any route; also the errors of the WebSocket. */
export const GENERATION_ERRORS = [
  'unsupported_field',
  'context_length_exceeded',
  'prompt_empty',
  'token_out_of_range',
  'model_not_found',
  'adapter_not_found',
  'generation_not_found',
  'adapter_load_failed',
  'adapter_never_fits',
  'blob_missing',
  'blob_unavailable',
  'registry_unavailable',
  'store_corrupt',
  'queue_full',
  'capacity_exceeded',
  'slow_reader',
  'engine_failed',
  'logits_not_finite',
] as const satisfies readonly ErrorCode[];

/** The whole answer; undefined when the client left. */
async function collect(generation: Generation, model: string) {
  const collector = new CompletionCollector(generation.choices);
  for (;;) {
    const events = await generation.next();
    if (events === undefined) break;
    for (const event of events) {
      if (event.type === 'error') throw event.error;
      collector.add(event);
    }
  }
  return collector.finish(completionHead(generation, model), generation.usage());
}

async function stream(
  generation: Generation,
  body: CompletionRequest,
  reply: FastifyReply,
  keepAliveMs: number,
) {
  // Errors before the first token get their HTTP status; a silent start must not wait for ever.
  const first: readonly GenerationEvent[] =
    (await generation.next(keepAliveMs, EVENTS_PER_PIECE)) ?? [];
  const [head] = first;
  if (head?.type === 'error') throw head.error;
  const text = sseStream(generation, first, {
    head: completionHead(generation, body.model),
    includeUsage: body.stream_options?.include_usage ?? false,
    keepAliveMs,
  });
  reply
    .type('text/event-stream; charset=utf-8')
    .header('cache-control', 'no-cache')
    .header('x-accel-buffering', 'no');
  return sendText(reply, text);
}

export function completionRoutes(services: HttpServices): FastifyPluginAsyncTypebox {
  const turns = new Turns();
  return async (app) => {
    app.post(
      '/v1/completions',
      {
        schema: {
          summary: 'Complete a prompt with the base model or an adapter.',
          body: CompletionRequestSchema,
          response: {
            200: {
              content: {
                'application/json': { schema: CompletionSchema },
                'text/event-stream': { schema: { type: 'string' } },
              },
            },
            ...errorResponses([...BODY_ERRORS, ...GENERATION_ERRORS]),
          },
        },
        onRequest: (_request, _reply, done) => turns.take(done),
        preValidation: async (request) => dropNeutralFields(request.body),
      },
      async (request, reply) => {
        const { body } = request;
        const gone = clientGone(reply);
        const wanted = toGenerationRequest(body, services.model.name);
        const generation = await services.generator.start(wanted, gone);
        if (body.stream === true) {
          return stream(generation, body, reply, services.config.sseKeepAliveMs);
        }
        const completion = await collect(generation, body.model);
        // Nobody is there to read an answer that was cut short.
        return gone.aborted ? reply.hijack() : completion;
      },
    );
  };
}
