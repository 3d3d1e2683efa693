/** POST /v1/chat/completions. */
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import type { ErrorCode } from '../../errors.ts';
import { clientGone } from '../plugins/client-gone.ts';
import type { Turns } from '../plugins/turns.ts';
import { ChatCompletionSchema, ChatRequestSchema } from '../schemas/chat.ts';
import { dropNeutralMembers } from '../schemas/chat-unsupported.ts';
import { BODY_ERRORS, errorResponses } from '../schemas/error.ts';
import { CHAT_UNSUPPORTED, dropNeutralFields } from '../schemas/unsupported.ts';
import type { HttpServices } from '../services.ts';
import { streamAnswer, wholeAnswer } from '../wire/answer.ts';
import { answerOptions } from '../wire/answer-options.ts';
import { toChatCall } from '../wire/chat-request.ts';
import { ChatCollector, ChatStream, chatHead } from '../wire/chat-response.ts';
import { GENERATION_ERRORS } from './completions.ts';

/** What a template adds. */
export const CHAT_ERRORS = [
  ...GENERATION_ERRORS,
  'chat_template_missing',
  'chat_template_invalid',
  'chat_template_failed',
  'registry_conflict',
] as const satisfies readonly ErrorCode[];

export function chatRoutes(services: HttpServices, turns: Turns): FastifyPluginAsyncTypebox {
  const { chat, config } = services;
  const server = { baseName: services.model.name, chat, parser: config.toolCallParser };
  return async (app) => {
    app.post(
      '/v1/chat/completions',
      {
        schema: {
          summary: 'Answer a chat with the base model or an adapter.',
          body: ChatRequestSchema,
          response: {
            200: {
              content: {
                'application/json': { schema: ChatCompletionSchema },
                'text/event-stream': { schema: {} },
              },
            },
            ...errorResponses([...BODY_ERRORS, ...CHAT_ERRORS]),
          },
        },
        onRequest: (_request, _reply, done) => turns.take(done),
        preValidation: async ({ body }) => {
          dropNeutralFields(body, CHAT_UNSUPPORTED);
          dropNeutralMembers(body);
        },
      },
      async (request, reply) => {
        const { body } = request;
        const gone = clientGone(reply);
        const call = toChatCall(body, server);
        const options = { ...answerOptions(body), call, numTop: body.top_logprobs ?? 0 };
        const generation = await services.generator.start(call.request, gone);
        const { version } = services;
        const head = chatHead(generation, body.model, { version, requestId: options.requestId });
        if (body.stream === true) {
          const shape = new ChatStream(head, generation, options);
          return streamAnswer(generation, reply, shape, services.config.sseKeepAliveMs);
        }
        const collector = new ChatCollector(head, generation, options);
        return wholeAnswer(generation, reply, collector, gone);
      },
    );
  };
}
