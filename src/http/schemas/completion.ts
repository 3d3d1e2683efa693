/** POST /v1/completions: OpenAI's fields, the sampling fields of vLLM, and the adapter's. */
import { type Static, Type } from 'typebox';
import {
  ADAPTER_SCALE_MAX,
  CACHE_SALT_LENGTH_MAX,
  CHOICES_MAX,
  INT32_MAX,
  LOGIT_BIAS_ENTRIES_MAX,
  LOGIT_BIAS_MAX,
  LOGPROBS_MAX,
  MODEL_NAME_LENGTH_MAX,
  PENALTY_MAX,
  REPETITION_PENALTY_MAX,
  SPLIT_KEY_LENGTH_MAX,
  STOP_STRING_LENGTH_MAX,
  STOP_STRINGS_MAX,
  STOP_TOKEN_IDS_MAX,
  TEMPERATURE_MAX,
  USER_LENGTH_MAX,
} from './limits.ts';
import { nullableBoolean, nullableInteger, nullableNumber, nullableString } from './nullable.ts';

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

const stopString = Type.String({ minLength: 1, maxLength: STOP_STRING_LENGTH_MAX });

const StopSchema = Type.Optional(
  Type.Union([stopString, Type.Array(stopString, { maxItems: STOP_STRINGS_MAX }), Type.Null()], {
    description: 'Texts that end generation; they are not part of the answer.',
  }),
);

const StreamOptionsSchema = Type.Optional(
  Type.Union(
    [
      Type.Object(
        {
          include_usage: Type.Optional(
            Type.Boolean({ description: 'A last chunk with the usage.', default: false }),
          ),
          include_obfuscation: Type.Optional(
            Type.Boolean({ description: 'Only false is accepted.', default: false }),
          ),
        },
        { additionalProperties: false },
      ),
      Type.Null(),
    ],
    { description: 'Only together with stream.' },
  ),
);

const LogitBiasSchema = Type.Optional(
  Type.Unsafe<Record<string, number> | null>({
    type: ['object', 'null'],
    description: 'Token id to a bias on its logit.',
    maxProperties: LOGIT_BIAS_ENTRIES_MAX,
    propertyNames: { pattern: '^(0|[1-9][0-9]{0,9})$' },
    additionalProperties: { type: 'number', minimum: -LOGIT_BIAS_MAX, maximum: LOGIT_BIAS_MAX },
  }),
);

const StopTokenIdsSchema = Type.Optional(
  Type.Unsafe<number[] | null>({
    type: ['array', 'null'],
    description: 'Token ids that end generation.',
    items: { type: 'integer', minimum: 0, maximum: INT32_MAX },
    maxItems: STOP_TOKEN_IDS_MAX,
  }),
);

const NAME = { maxLength: MODEL_NAME_LENGTH_MAX };
const PENALTY = { minimum: -PENALTY_MAX, maximum: PENALTY_MAX };

/** The fields, shared by the route and the WebSocket's generate frame. */
export const COMPLETION_FIELDS = {
  model: Type.String({ description: 'The base model or an adapter.', minLength: 1, ...NAME }),
  prompt: PromptSchema,
  adapter: nullableString('An adapter by name; model is then the base model.', NAME),
  adapter_scale: nullableNumber(
    "Weight of the adapter's delta; 1 as trained.",
    { minimum: -ADAPTER_SCALE_MAX, maximum: ADAPTER_SCALE_MAX },
    1,
  ),
  max_tokens: nullableInteger(
    'Tokens to generate; 0 only scores the prompt.',
    { minimum: 0, maximum: INT32_MAX },
    16,
  ),
  min_tokens: nullableInteger(
    'No stop token or stop text ends the answer earlier.',
    { minimum: 0, maximum: INT32_MAX },
    0,
  ),
  temperature: nullableNumber('0 is greedy.', { minimum: 0, maximum: TEMPERATURE_MAX }, 1),
  top_p: nullableNumber('Nucleus sampling.', { exclusiveMinimum: 0, maximum: 1 }, 1),
  top_k: nullableInteger('-1 and 0 are off.', { minimum: -1, maximum: INT32_MAX }, -1),
  min_p: nullableNumber(
    'Least probability relative to the most likely token.',
    { minimum: 0, maximum: 1 },
    0,
  ),
  n: nullableInteger('Choices per prompt.', { minimum: 1, maximum: CHOICES_MAX }, 1),
  best_of: nullableInteger('Only the value of n is accepted.', {
    minimum: 1,
    maximum: CHOICES_MAX,
  }),
  stream: nullableBoolean('Answer with server-sent events.', false),
  stream_options: StreamOptionsSchema,
  logprobs: nullableInteger('Log-probabilities of the likeliest tokens.', {
    minimum: 0,
    maximum: LOGPROBS_MAX,
  }),
  echo: nullableBoolean('Answer with the prompt before the generated text.', false),
  stop: StopSchema,
  stop_token_ids: StopTokenIdsSchema,
  include_stop_str_in_output: nullableBoolean('Keep the stop text in the answer.', false),
  ignore_eos: nullableBoolean('The end-of-sequence token does not end the answer.', false),
  presence_penalty: nullableNumber('Over generated tokens.', PENALTY, 0),
  frequency_penalty: nullableNumber('Over generated tokens.', PENALTY, 0),
  repetition_penalty: nullableNumber(
    'Over prompt and generated tokens.',
    { exclusiveMinimum: 0, maximum: REPETITION_PENALTY_MAX },
    1,
  ),
  logit_bias: LogitBiasSchema,
  seed: nullableInteger('The same seed gives the same tokens, in any batch.', {
    minimum: Number.MIN_SAFE_INTEGER,
    maximum: Number.MAX_SAFE_INTEGER,
  }),
  skip_special_tokens: nullableBoolean('Leave special tokens out of the text.', true),
  add_special_tokens: nullableBoolean('Let the tokenizer add its tokens to a text prompt.', true),
  user: nullableString('The split_key of requests without one; it changes nothing else.', {
    maxLength: USER_LENGTH_MAX,
  }),
  split_key: nullableString(
    'Requests with the same key get the same side of a split adapter name.',
    { maxLength: SPLIT_KEY_LENGTH_MAX },
  ),
  cache_salt: nullableString('Requests share cached prompts only with the same salt.', {
    maxLength: CACHE_SALT_LENGTH_MAX,
  }),
} as const;

export const CompletionRequestSchema = Type.Object(COMPLETION_FIELDS, {
  additionalProperties: false,
});
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
const stopReason = Type.Unsafe<string | number | null>({
  type: ['string', 'integer', 'null'],
  description: 'The stop text or stop token that ended the choice.',
});

const ChoiceSchema = Type.Object({
  index: Type.Integer({ minimum: 0 }),
  text: Type.String(),
  logprobs: Type.Union([LogprobsSchema, Type.Null()]),
  finish_reason: finishReason,
  stop_reason: stopReason,
});
export type WireChoice = Static<typeof ChoiceSchema>;

export const UsageSchema = Type.Object({
  prompt_tokens: Type.Integer({ minimum: 0 }),
  completion_tokens: Type.Integer({ minimum: 0 }),
  total_tokens: Type.Integer({ minimum: 0 }),
  prompt_tokens_details: Type.Object({ cached_tokens: Type.Integer({ minimum: 0 }) }),
});
export type WireUsage = Static<typeof UsageSchema>;

export const adapterGeneration = Type.Optional(
  Type.String({ description: 'Digest of the adapter that answered.' }),
);

export const CompletionSchema = Type.Object({
  id: Type.String(),
  object: Type.Literal('text_completion'),
  created: Type.Integer(),
  model: Type.String(),
  adapter_generation: adapterGeneration,
  choices: Type.Array(ChoiceSchema),
  usage: UsageSchema,
});
export type WireCompletion = Static<typeof CompletionSchema>;

export const CompletionChunkSchema = Type.Object({
  id: Type.String(),
  object: Type.Literal('text_completion'),
  created: Type.Integer(),
  model: Type.String(),
  adapter_generation: adapterGeneration,
  choices: Type.Array(ChoiceSchema),
  usage: Type.Optional(Type.Union([UsageSchema, Type.Null()])),
});
export type WireCompletionChunk = Static<typeof CompletionChunkSchema>;
