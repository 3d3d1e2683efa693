/** POST /v1/completions: OpenAI's fields, the sampling fields of vLLM, and the adapter's. */
import { type Static, Type } from 'typebox';
import { ANSWERED_BY_FIELDS } from './adapter-choice.ts';
import { ANSWER_FIELDS, PromptLogprobsSchema, tokenIdList } from './answer-fields.ts';
import { GENERATION_FIELDS } from './generation-fields.ts';
import { CHOICES_MAX, INT32_MAX, LOGPROBS_MAX } from './limits.ts';
import { nullableBoolean, nullableInteger } from './nullable.ts';

const tokenId = Type.Integer({ minimum: 0, maximum: INT32_MAX });
const tokenIds = Type.Array(tokenId, { minItems: 1 });

const PromptSchema = Type.Union(
  [
    Type.String(),
    Type.Array(Type.String(), { minItems: 1, maxItems: CHOICES_MAX }),
    tokenIds,
    Type.Array(tokenIds, { minItems: 1, maxItems: CHOICES_MAX }),
  ],
  { description: 'A text, several texts, token ids, or several lists of token ids.' },
);

/** The fields, shared by the route and the WebSocket's generate frame. */
export const COMPLETION_FIELDS = {
  ...GENERATION_FIELDS,
  prompt: PromptSchema,
  max_tokens: nullableInteger(
    'Tokens to generate; 0 only scores the prompt.',
    { minimum: 0, maximum: INT32_MAX },
    16,
  ),
  best_of: nullableInteger('The n likeliest of so many choices; in streams only n.', {
    minimum: 1,
    maximum: CHOICES_MAX,
  }),
  logprobs: nullableInteger('Log-probabilities of the likeliest tokens.', {
    minimum: 0,
    maximum: LOGPROBS_MAX,
  }),
  echo: nullableBoolean('Answer with the prompt before the generated text.', false),
  add_special_tokens: nullableBoolean('Let the tokenizer add its tokens to a text prompt.', true),
} as const;

export const CompletionRequestSchema = Type.Object(
  { ...COMPLETION_FIELDS, ...ANSWER_FIELDS },
  { additionalProperties: false },
);
export type CompletionRequest = Static<typeof CompletionRequestSchema>;

export const LogprobsSchema = Type.Object({
  tokens: Type.Array(Type.String()),
  token_logprobs: Type.Array(Type.Union([Type.Number(), Type.Null()])),
  top_logprobs: Type.Array(Type.Union([Type.Record(Type.String(), Type.Number()), Type.Null()])),
  text_offset: Type.Array(Type.Integer({ minimum: 0 })),
});
export type WireLogprobs = Static<typeof LogprobsSchema>;

const finishReason = Type.Unsafe<'stop' | 'length' | null>({
  type: ['string', 'null'],
  enum: ['stop', 'length', null],
});
export const stopReason = Type.Unsafe<string | number | null>({
  type: ['string', 'integer', 'null'],
  description: 'The stop text or stop token that ended the choice.',
});

const ChoiceSchema = Type.Object({
  index: Type.Integer({ minimum: 0 }),
  text: Type.String(),
  logprobs: Type.Union([LogprobsSchema, Type.Null()]),
  finish_reason: finishReason,
  stop_reason: stopReason,
  prompt_logprobs: Type.Optional(PromptLogprobsSchema),
  prompt_token_ids: tokenIdList('With return_token_ids; of a stream only in the first chunk.'),
  token_ids: tokenIdList('With return_token_ids: the generated tokens, those of the chunk.'),
});
export type WireChoice = Static<typeof ChoiceSchema>;

export const UsageSchema = Type.Object({
  prompt_tokens: Type.Integer({ minimum: 0 }),
  completion_tokens: Type.Integer({ minimum: 0 }),
  total_tokens: Type.Integer({ minimum: 0 }),
  prompt_tokens_details: Type.Object({ cached_tokens: Type.Integer({ minimum: 0 }) }),
});
export type WireUsage = Static<typeof UsageSchema>;

export const CompletionSchema = Type.Object({
  id: Type.String(),
  object: Type.Literal('text_completion'),
  created: Type.Integer(),
  model: Type.String(),
  ...ANSWERED_BY_FIELDS,
  choices: Type.Array(ChoiceSchema),
  usage: UsageSchema,
});
export type WireCompletion = Static<typeof CompletionSchema>;

export const CompletionChunkSchema = Type.Object({
  id: Type.String(),
  object: Type.Literal('text_completion'),
  created: Type.Integer(),
  model: Type.String(),
  ...ANSWERED_BY_FIELDS,
  choices: Type.Array(ChoiceSchema),
  usage: Type.Optional(Type.Union([UsageSchema, Type.Null()])),
});
export type WireCompletionChunk = Static<typeof CompletionChunkSchema>;
