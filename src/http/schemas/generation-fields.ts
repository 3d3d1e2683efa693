/**
 * Fields that every route has that generates text: OpenAI's, the sampling fields of vLLM, and the
 * adapter's.
 */
import { type Static, type TSchema, Type } from 'typebox';
import { ADAPTER_CHOICE_FIELDS } from './adapter-choice.ts';
import { CONSTRAINT_FIELDS } from './constraint.ts';
import {
  ALLOWED_TOKEN_IDS_MAX,
  BAD_WORD_LENGTH_MAX,
  BAD_WORDS_MAX,
  CACHE_SALT_LENGTH_MAX,
  CHOICES_MAX,
  IDENTIFIER_LENGTH_MAX,
  INT32_MAX,
  LOGIT_BIAS_ENTRIES_MAX,
  LOGIT_BIAS_MAX,
  PENALTY_MAX,
  REPETITION_PENALTY_MAX,
  REPETITION_PENALTY_MIN,
  SPLIT_KEY_LENGTH_MAX,
  STOP_STRING_LENGTH_MAX,
  STOP_STRINGS_MAX,
  STOP_TOKEN_IDS_MAX,
  TEMPERATURE_MAX,
  USER_LENGTH_MAX,
} from './limits.ts';
import { nullableBoolean, nullableInteger, nullableNumber, nullableString } from './nullable.ts';

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
          continuous_usage_stats: Type.Optional(
            Type.Boolean({ description: 'The usage so far in every chunk.', default: false }),
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

const PENALTY = { minimum: -PENALTY_MAX, maximum: PENALTY_MAX };

export const GENERATION_FIELDS = {
  ...ADAPTER_CHOICE_FIELDS,
  ...CONSTRAINT_FIELDS,
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
  stream: nullableBoolean('Answer with server-sent events.', false),
  stream_options: StreamOptionsSchema,
  stop: StopSchema,
  stop_token_ids: StopTokenIdsSchema,
  include_stop_str_in_output: nullableBoolean('Keep the stop text in the answer.', false),
  ignore_eos: nullableBoolean('The end-of-sequence token does not end the answer.', false),
  presence_penalty: nullableNumber('Over generated tokens.', PENALTY, 0),
  frequency_penalty: nullableNumber('Over generated tokens.', PENALTY, 0),
  repetition_penalty: nullableNumber(
    'Over prompt and generated tokens.',
    { minimum: REPETITION_PENALTY_MIN, maximum: REPETITION_PENALTY_MAX },
    1,
  ),
  logit_bias: LogitBiasSchema,
  seed: nullableInteger('The same seed gives the same tokens, in any batch.', {
    minimum: Number.MIN_SAFE_INTEGER,
    maximum: Number.MAX_SAFE_INTEGER,
  }),
  allowed_token_ids: Type.Optional(
    Type.Unsafe<number[] | null>({
      type: ['array', 'null'],
      description: 'No other tokens are generated.',
      items: { type: 'integer', minimum: 0, maximum: INT32_MAX },
      minItems: 1,
      maxItems: ALLOWED_TOKEN_IDS_MAX,
    } as TSchema),
  ),
  bad_words: Type.Optional(
    Type.Unsafe<string[] | null>({
      type: ['array', 'null'],
      description: 'Words that are not generated.',
      items: { type: 'string', minLength: 1, maxLength: BAD_WORD_LENGTH_MAX },
      maxItems: BAD_WORDS_MAX,
    } as TSchema),
  ),
  truncate_prompt_tokens: nullableInteger(
    'Keep so many tokens of the prompt; -1: as many as there is room for.',
    { minimum: -1, maximum: INT32_MAX },
  ),
  truncation_side: Type.Optional(
    Type.Unsafe<'left' | 'right' | null>({
      type: ['string', 'null'],
      description: 'Which end of the prompt is cut off; needs truncate_prompt_tokens.',
      enum: ['left', 'right', null],
      default: 'left',
    } as TSchema),
  ),
  skip_special_tokens: nullableBoolean('Leave special tokens out of the text.', true),
  user: nullableString('The split_key of requests without one; it changes nothing else.', {
    maxLength: USER_LENGTH_MAX,
  }),
  split_key: nullableString(
    'Requests with the same key get the same side of a split adapter name.',
    { maxLength: SPLIT_KEY_LENGTH_MAX },
  ),
  session_id: nullableString('Accepted; it changes nothing.', {
    maxLength: IDENTIFIER_LENGTH_MAX,
  }),
  cache_salt: nullableString('Requests share cached prompts only with the same salt.', {
    maxLength: CACHE_SALT_LENGTH_MAX,
  }),
} as const;

const GenerationFieldsSchema = Type.Object(GENERATION_FIELDS);
/** A body's fields of that kind, checked. */
export type GenerationFields = Static<typeof GenerationFieldsSchema>;
