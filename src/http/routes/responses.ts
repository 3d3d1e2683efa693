/** POST /v1/responses. */
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import type { FastifyRequest } from 'fastify';
import { clientGone } from '../plugins/client-gone.ts';
import { validationError } from '../plugins/errors.ts';
import type { Turns } from '../plugins/turns.ts';
import { BODY_ERRORS, errorResponses } from '../schemas/error.ts';
import { CHAT_MESSAGES_MAX } from '../schemas/limits.ts';
import { CreateResponseSchema, ModelResponseSchema } from '../schemas/responses.ts';
import { ITEM_SCHEMAS } from '../schemas/responses-items.ts';
import { dropNeutralOfResponses } from '../schemas/responses-unsupported.ts';
import { isFields } from '../schemas/unsupported.ts';
import type { HttpServices } from '../services.ts';
import { streamAnswer, wholeAnswer } from '../wire/answer.ts';
import { refuse } from '../wire/refuse.ts';
import { ResponseCollector, ResponseStream, responseHead } from '../wire/responses-answer.ts';
import { aboutInput, toResponseCall } from '../wire/responses-request.ts';
import { CHAT_ERRORS } from './chat.ts';

/** An item that has no kind is refused in words of its own. @throws LoramuxError */
function kindOf(item: unknown, at: string): keyof typeof ITEM_SCHEMAS {
  if (!isFields(item)) throw refuse(`${at} must be an object`, at);
  const { type = 'message', role } = item;
  if (type === 'function_call') return 'call';
  if (type === 'function_call_output') return 'output';
  if (type !== 'message') {
    const kinds = 'message, function_call or function_call_output';
    throw refuse(`${at}.type must be ${kinds}`, `${at}.type`);
  }
  if (role === 'assistant') return 'answer';
  if (role === 'system' || role === 'developer' || role === 'user') return 'prompt';
  throw refuse(`${at}.role must be system, developer, user or assistant`, `${at}.role`);
}

/** Items one by one: of a list, the validator would only say that no kind fits. */
function checkItems(request: FastifyRequest): void {
  const { input } = (isFields(request.body) ? request.body : {}) as { input?: unknown };
  if (!Array.isArray(input) || input.length > CHAT_MESSAGES_MAX) return;
  for (const [i, item] of input.entries()) {
    const validate = request.compileValidationSchema(ITEM_SCHEMAS[kindOf(item, `input.${i}`)]);
    if (validate(item) === true) continue;
    throw validationError(
      (validate.errors ?? []).map((error) => ({
        ...error,
        instancePath: `/input/${i}${error.instancePath}`,
      })),
    );
  }
}

export function responseRoutes(services: HttpServices, turns: Turns): FastifyPluginAsyncTypebox {
  const { chat, config } = services;
  const server = { baseName: services.model.name, chat, parser: config.toolCallParser };
  return async (app) => {
    app.post(
      '/v1/responses',
      {
        schema: {
          summary: 'Answer items with the base model or an adapter; nothing is stored.',
          body: CreateResponseSchema,
          response: {
            200: {
              content: {
                'application/json': { schema: ModelResponseSchema },
                'text/event-stream': { schema: {} },
              },
            },
            ...errorResponses([...BODY_ERRORS, ...CHAT_ERRORS]),
          },
        },
        onRequest: (_request, _reply, done) => turns.take(done),
        preValidation: async (request) => {
          dropNeutralOfResponses(request.body);
          checkItems(request);
        },
      },
      async (request, reply) => {
        const { body } = request;
        const gone = clientGone(reply);
        const call = toResponseCall(body, server);
        const generation = await services.generator.start(call.request, gone).catch((error) => {
          throw aboutInput(error);
        });
        const head = responseHead(generation, body);
        const options = { call, numTop: body.top_logprobs ?? 0 };
        if (body.stream === true) {
          const shape = new ResponseStream(head, generation, options);
          return streamAnswer(generation, reply, shape, config.sseKeepAliveMs);
        }
        const collector = new ResponseCollector(head, generation, options);
        return wholeAnswer(generation, reply, collector, gone);
      },
    );
  };
}
