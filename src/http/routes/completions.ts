/** POST /v1/completions. */
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import type { ErrorCode } from '../../errors.ts';
import { clientGone } from '../plugins/client-gone.ts';
import type { Turns } from '../plugins/turns.ts';
import { CompletionRequestSchema, CompletionSchema } from '../schemas/completion.ts';
import { BODY_ERRORS, errorResponses } from '../schemas/error.ts';
import { COMPLETION_UNSUPPORTED, dropNeutralFields } from '../schemas/unsupported.ts';
import type { HttpServices } from '../services.ts';
import { streamAnswer, wholeAnswer } from '../wire/answer.ts';
import { answerOptions } from '../wire/answer-options.ts';
import { toGenerationRequest } from '../wire/completion-request.ts';
import {
  CompletionCollector,
  CompletionStream,
  completionHead,
} from '../wire/completion-response.ts';

/** What generation adds to the errors of any route; also the errors of the WebSocket. */
export const GENERATION_ERRORS = [
  'unsupported_field',
  'grammar_invalid',
  'grammar_unsupported',
  'grammar_too_complex',
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
  'registry_lost',
  'store_corrupt',
  'queue_full',
  'capacity_exceeded',
  'slow_reader',
  'engine_failed',
  'session_restarted',
  'session_restarting',
  'grammar_failed',
  'logits_not_finite',
] as const satisfies readonly ErrorCode[];

export function completionRoutes(services: HttpServices, turns: Turns): FastifyPluginAsyncTypebox {
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
                'text/event-stream': { schema: {} },
              },
            },
            ...errorResponses([...BODY_ERRORS, ...GENERATION_ERRORS]),
          },
        },
        onRequest: (_request, _reply, done) => turns.take(done),
        preValidation: async (request) => dropNeutralFields(request.body, COMPLETION_UNSUPPORTED),
      },
      async (request, reply) => {
        const { body } = request;
        const gone = clientGone(reply);
        const isStream = body.stream ?? false;
        const wanted = toGenerationRequest(body, services.model.name, isStream);
        const options = {
          ...answerOptions(body),
          n: body.n ?? 1,
          hideLogprobs: typeof body.logprobs !== 'number',
        };
        const generation = await services.generator.start(wanted, gone);
        const head = completionHead(generation, body.model, options.requestId);
        if (isStream) {
          const shape = new CompletionStream(head, generation, options);
          return streamAnswer(generation, reply, shape, services.config.sseKeepAliveMs);
        }
        const collector = new CompletionCollector(head, generation, options);
        return wholeAnswer(generation, reply, collector, gone);
      },
    );
  };
}
