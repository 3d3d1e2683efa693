/** POST /tokenize and /detokenize, with vLLM's fields. */
import { type Static, Type } from 'typebox';
import { CHAT_FIELDS } from './chat.ts';
import { DETOKENIZE_TOKENS_MAX, INT32_MAX, MODEL_NAME_LENGTH_MAX } from './limits.ts';
import { nullableBoolean, nullableString } from './nullable.ts';

const model = nullableString('The base model or an adapter. Default: the base model.', {
  minLength: 1,
  maxLength: MODEL_NAME_LENGTH_MAX,
});

const { messages, tools, chat_template, chat_template_kwargs, documents } = CHAT_FIELDS;

export const TokenizeRequestSchema = Type.Object(
  {
    model,
    prompt: Type.Optional(Type.String({ description: 'A text; excludes messages.' })),
    messages: Type.Optional(messages),
    add_special_tokens: Type.Optional(
      Type.Unsafe<boolean | null>({
        type: ['boolean', 'null'],
        description:
          'Let the tokenizer add its tokens. Default: true with prompt, false with messages.',
      }),
    ),
    return_token_strs: nullableBoolean("Answer also with the vocabulary's spellings.", false),
    add_generation_prompt: CHAT_FIELDS.add_generation_prompt,
    continue_final_message: CHAT_FIELDS.continue_final_message,
    tools,
    documents,
    chat_template,
    chat_template_kwargs,
  },
  { additionalProperties: false },
);
export type TokenizeRequest = Static<typeof TokenizeRequestSchema>;

const tokenIds = (description: string, options: object = {}) =>
  Type.Array(Type.Integer({ minimum: 0, maximum: INT32_MAX }), { description, ...options });

export const TokenizeResponseSchema = Type.Object({
  count: Type.Integer({ description: 'How many tokens.' }),
  max_model_len: Type.Integer({ description: 'Longest prompt plus output.' }),
  tokens: tokenIds('The ids.'),
  token_strs: Type.Unsafe<string[] | null>({
    type: ['array', 'null'],
    items: { type: 'string' },
    description: "The vocabulary's spelling of each id, when it was asked for.",
  }),
});

export const DetokenizeRequestSchema = Type.Object(
  { model, tokens: tokenIds('The ids.', { maxItems: DETOKENIZE_TOKENS_MAX }) },
  { additionalProperties: false },
);

export const DetokenizeResponseSchema = Type.Object({
  prompt: Type.String({ description: 'The text, special tokens included.' }),
});
