/** POST /tokenize and /detokenize, as vLLM has them. */
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox';
import type { ErrorCode } from '../../errors.ts';
import { clientGone } from '../plugins/client-gone.ts';
import { BODY_ERRORS, errorResponses } from '../schemas/error.ts';
import {
  DetokenizeRequestSchema,
  DetokenizeResponseSchema,
  type TokenizeRequest,
  TokenizeRequestSchema,
  TokenizeResponseSchema,
} from '../schemas/tokenize.ts';
import type { HttpServices } from '../services.ts';
import { chatPrompt, renderChat } from '../wire/chat-prompt.ts';
import { refuse } from '../wire/refuse.ts';

const TARGET_ERRORS = [
  'token_out_of_range',
  'model_not_found',
  'registry_unavailable',
  'registry_lost',
  'store_corrupt',
] as const satisfies readonly ErrorCode[];

const CHAT_ONLY = [
  'add_generation_prompt',
  'continue_final_message',
  'tools',
  'documents',
  'chat_template',
  'chat_template_kwargs',
] as const;

/** The prompt that a body means. @throws LoramuxError invalid_request */
function promptOf(body: TokenizeRequest, { chat }: Pick<HttpServices, 'chat'>) {
  const { prompt, messages } = body;
  if ((prompt === undefined) === (messages === undefined)) {
    const what = prompt === undefined ? 'neither of them' : 'both';
    throw refuse(`the body must have prompt or messages, but has ${what}`, 'prompt');
  }
  if (messages !== undefined) {
    const render = renderChat(chatPrompt({ ...body, messages }), body.tools ?? undefined, chat);
    const addSpecialTokens = body.add_special_tokens ?? false;
    return { kind: 'chat', render, addSpecialTokens } as const;
  }
  const chatOnly = CHAT_ONLY.find((field) => (body[field] ?? undefined) !== undefined);
  if (chatOnly !== undefined)
    throw refuse(`${chatOnly} has a meaning only with messages`, chatOnly);
  return { kind: 'text', text: prompt! } as const;
}

export function tokenizeRoutes(services: HttpServices): FastifyPluginAsyncTypebox {
  const { model, tokens, engine } = services;
  return async (app) => {
    app.post(
      '/tokenize',
      {
        schema: {
          summary: 'The tokens of a text or a chat.',
          body: TokenizeRequestSchema,
          response: {
            200: TokenizeResponseSchema,
            ...errorResponses([
              ...BODY_ERRORS,
              'unsupported_field',
              ...TARGET_ERRORS,
              'chat_template_missing',
              'chat_template_invalid',
              'chat_template_failed',
              'queue_full',
              'blob_missing',
              'blob_unavailable',
            ]),
          },
        },
      },
      async ({ body }, reply) => {
        const prompt = promptOf(body, services);
        const gone = clientGone(reply);
        const name = body.model ?? model.name;
        const ids = await tokens.encode(name, prompt, body.add_special_tokens ?? true, gone);
        if (ids === undefined) return reply.hijack();
        const withStrings = body.return_token_strs === true;
        return {
          count: ids.length,
          max_model_len: engine.limits.maxModelLen,
          tokens: Array.from(ids),
          token_strs: withStrings ? Array.from(ids, (id) => tokens.spelling(id)) : null,
        };
      },
    );

    app.post(
      '/detokenize',
      {
        schema: {
          summary: 'The text of tokens.',
          body: DetokenizeRequestSchema,
          response: {
            200: DetokenizeResponseSchema,
            ...errorResponses([...BODY_ERRORS, ...TARGET_ERRORS]),
          },
        },
      },
      async ({ body }) => ({ prompt: await tokens.decode(body.model ?? model.name, body.tokens) }),
    );
  };
}
