/** POST /v1/chat/completions: OpenAI's fields, those of vLLM, and the adapter's. */
import { type Static, type TSchema, Type } from 'typebox';
import type { JsonObject } from '../../importer/json.ts';
import { TEMPLATE_LENGTH_MAX } from '../../jinja/program.ts';
import { ANSWERED_BY_FIELDS } from './adapter-choice.ts';
import {
  ANSWER_FIELDS,
  ListedLogprobSchema,
  PromptLogprobsSchema,
  tokenIdList,
} from './answer-fields.ts';
import { MessagesSchema, ToolChoiceSchema, ToolsSchema } from './chat-messages.ts';
import { stopReason, UsageSchema } from './completion.ts';
import { GENERATION_FIELDS } from './generation-fields.ts';
import {
  DOCUMENTS_MAX,
  IDENTIFIER_LENGTH_MAX,
  INT32_MAX,
  LOGPROBS_MAX,
  METADATA_ENTRIES_MAX,
  TEMPLATE_VARIABLES_MAX,
} from './limits.ts';
import { nullableBoolean, nullableInteger, nullableString } from './nullable.ts';

const identifier = nullableString('Accepted; it changes nothing.', {
  maxLength: IDENTIFIER_LENGTH_MAX,
});

const nullableObject = (description: string, options: object = {}) =>
  Type.Optional(
    Type.Unsafe<JsonObject | null>({
      type: ['object', 'null'],
      description,
      ...options,
    } as TSchema),
  );

export const CHAT_FIELDS = {
  ...GENERATION_FIELDS,
  messages: MessagesSchema,
  max_completion_tokens: nullableInteger(
    'Tokens to generate. Default: what is left of the context.',
    { minimum: 0, maximum: INT32_MAX },
  ),
  max_tokens: nullableInteger('The former name of max_completion_tokens.', {
    minimum: 0,
    maximum: INT32_MAX,
  }),
  logprobs: nullableBoolean('Answer with the log-probabilities of the tokens.', false),
  top_logprobs: nullableInteger('Likeliest tokens at each place; needs logprobs.', {
    minimum: 0,
    maximum: LOGPROBS_MAX,
  }),
  tools: ToolsSchema,
  tool_choice: ToolChoiceSchema,
  parallel_tool_calls: nullableBoolean('More than one call in an answer.', true),
  echo: nullableBoolean("Begin the answer with the last message, if it is the assistant's.", false),
  add_generation_prompt: nullableBoolean('Let the template begin an answer.', true),
  continue_final_message: nullableBoolean('Continue the last message.', false),
  add_special_tokens: nullableBoolean(
    'Let the tokenizer add its tokens to what the template wrote.',
    false,
  ),
  chat_template: nullableString('A template for this request, where the server allows it.', {
    maxLength: TEMPLATE_LENGTH_MAX,
  }),
  chat_template_kwargs: nullableObject("Variables of the template's own.", {
    maxProperties: TEMPLATE_VARIABLES_MAX,
  }),
  documents: Type.Optional(
    Type.Unsafe<JsonObject[] | null>({
      type: ['array', 'null'],
      description: 'Documents for templates that show some.',
      items: { type: 'object' },
      maxItems: DOCUMENTS_MAX,
    } as TSchema),
  ),
  ...ANSWER_FIELDS,
  metadata: nullableObject('Accepted; it changes nothing.', {
    maxProperties: METADATA_ENTRIES_MAX,
    additionalProperties: { type: 'string' },
  }),
  safety_identifier: identifier,
  prompt_cache_key: identifier,
} as const;

export const ChatRequestSchema = Type.Object(CHAT_FIELDS, { additionalProperties: false });
export type ChatRequest = Static<typeof ChatRequestSchema>;

export const ChatLogprobsSchema = Type.Object({
  content: Type.Array(ListedLogprobSchema),
  refusal: Type.Null(),
});
export type WireChatLogprobs = Static<typeof ChatLogprobsSchema>;

export type ChatFinishReason = 'stop' | 'length' | 'tool_calls';
const finishReason = (withNull: boolean) =>
  Type.Unsafe<ChatFinishReason | null>({
    type: withNull ? ['string', 'null'] : 'string',
    enum: ['stop', 'length', 'tool_calls', ...(withNull ? [null] : [])],
  } as TSchema);

const CallSchema = Type.Object({
  id: Type.String(),
  type: Type.Literal('function'),
  function: Type.Object({
    name: Type.String(),
    arguments: Type.String({ description: 'JSON.' }),
  }),
});
export type WireCall = Static<typeof CallSchema>;

const nullableText = Type.Unsafe<string | null>({ type: ['string', 'null'] } as TSchema);

const HEAD = {
  id: Type.String(),
  created: Type.Integer(),
  model: Type.String(),
  system_fingerprint: Type.String({ description: 'Changes with what the server runs.' }),
  ...ANSWERED_BY_FIELDS,
};

const ChatChoiceSchema = Type.Object({
  index: Type.Integer({ minimum: 0 }),
  message: Type.Object({
    role: Type.Literal('assistant'),
    content: nullableText,
    refusal: Type.Null(),
    tool_calls: Type.Optional(Type.Array(CallSchema)),
  }),
  logprobs: Type.Union([ChatLogprobsSchema, Type.Null()]),
  finish_reason: finishReason(false),
  stop_reason: stopReason,
  token_ids: tokenIdList('With return_token_ids.'),
});
export type WireChatChoice = Static<typeof ChatChoiceSchema>;

export const ChatCompletionSchema = Type.Object({
  ...HEAD,
  object: Type.Literal('chat.completion'),
  choices: Type.Array(ChatChoiceSchema),
  usage: UsageSchema,
  prompt_logprobs: Type.Optional(PromptLogprobsSchema),
  prompt_token_ids: tokenIdList('With return_token_ids.'),
});
export type WireChatCompletion = Static<typeof ChatCompletionSchema>;

const DeltaSchema = Type.Object({
  role: Type.Optional(Type.Literal('assistant')),
  content: Type.Optional(nullableText),
  refusal: Type.Optional(Type.Null()),
  tool_calls: Type.Optional(
    Type.Array(
      Type.Object({
        index: Type.Integer({ minimum: 0 }),
        id: Type.Optional(Type.String()),
        type: Type.Optional(Type.Literal('function')),
        function: Type.Object({
          name: Type.Optional(Type.String()),
          arguments: Type.Optional(Type.String()),
        }),
      }),
    ),
  ),
});
export type WireDelta = Static<typeof DeltaSchema>;

export const ChatChunkSchema = Type.Object({
  ...HEAD,
  object: Type.Literal('chat.completion.chunk'),
  choices: Type.Array(
    Type.Object({
      index: Type.Integer({ minimum: 0 }),
      delta: DeltaSchema,
      logprobs: Type.Union([ChatLogprobsSchema, Type.Null()]),
      finish_reason: finishReason(true),
      stop_reason: Type.Optional(stopReason),
      token_ids: tokenIdList('With return_token_ids: those of the chunk.'),
    }),
  ),
  usage: Type.Optional(Type.Union([UsageSchema, Type.Null()])),
  prompt_token_ids: tokenIdList('With return_token_ids, in the first chunk.'),
});
export type WireChatChunk = Static<typeof ChatChunkSchema>;
