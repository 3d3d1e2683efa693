/** POST /v1/responses: OpenAI's fields that need no store, the sampling fields of vLLM, the adapter's. */
import { type Static, type TSchema, Type } from 'typebox';
import type { JsonObject } from '../../importer/json.ts';
import { ANSWERED_BY_FIELDS } from './adapter-choice.ts';
import { ANSWER_FIELDS, ListedLogprobSchema } from './answer-fields.ts';
import { CHAT_FIELDS } from './chat.ts';
import { FUNCTION_FIELDS, toolName } from './chat-messages.ts';
import type { TextFields, TextFormat } from './constraint.ts';
import { GENERATION_FIELDS } from './generation-fields.ts';
import { INT32_MAX, LOGPROBS_MAX, METADATA_ENTRIES_MAX, TOOLS_MAX } from './limits.ts';
import { nullableBoolean, nullableInteger } from './nullable.ts';
import { InputSchema } from './responses-items.ts';

const CLOSED = { additionalProperties: false };

const FunctionSchema = Type.Object({ type: Type.Literal('function'), ...FUNCTION_FIELDS }, CLOSED);
export type WireFunction = Static<typeof FunctionSchema>;

const NamedFunctionSchema = Type.Object(
  { type: Type.Literal('function'), name: toolName('One of tools.') },
  CLOSED,
);

const AllowedFunctionsSchema = Type.Object(
  {
    type: Type.Literal('allowed_tools'),
    mode: Type.Unsafe<'auto' | 'required'>({ type: 'string', enum: ['auto', 'required'] }),
    tools: Type.Array(NamedFunctionSchema, { minItems: 1, maxItems: TOOLS_MAX }),
  },
  CLOSED,
);

export type WireFunctionChoice =
  | 'none'
  | 'auto'
  | 'required'
  | Static<typeof NamedFunctionSchema>
  | Static<typeof AllowedFunctionsSchema>;

const FunctionChoiceSchema = Type.Unsafe<WireFunctionChoice>({
  anyOf: [
    { type: 'string', enum: ['none', 'auto', 'required'] },
    NamedFunctionSchema,
    AllowedFunctionsSchema,
  ],
});

const TextFormatSchema = Type.Unsafe<TextFormat>({
  type: 'object',
  required: ['type'],
  discriminator: { propertyName: 'type' },
  oneOf: [
    Type.Object({ type: Type.Literal('text') }, CLOSED),
    Type.Object({ type: Type.Literal('json_object') }, CLOSED),
    Type.Object(
      {
        type: Type.Literal('json_schema'),
        name: Type.String({ maxLength: 256 }),
        description: Type.Optional(Type.Unsafe({ type: ['string', 'null'] })),
        strict: Type.Optional(
          Type.Unsafe({
            type: ['boolean', 'null'],
            description: 'The schema is kept to in any case.',
          }),
        ),
        schema: Type.Unsafe<JsonObject>({ type: 'object' }),
      },
      CLOSED,
    ),
  ],
});

const INCLUDABLE = ['message.output_text.logprobs', 'reasoning.encrypted_content'] as const;

const { n, response_format, stream_options, ...SHARED } = GENERATION_FIELDS;

const RESPONSE_FIELDS = {
  ...SHARED,
  input: InputSchema,
  instructions: Type.Optional(
    Type.Unsafe<string | null>({
      type: ['string', 'null'],
      description: 'A system message before the input.',
    } as TSchema),
  ),
  max_output_tokens: nullableInteger('Tokens to generate. Default: what is left of the context.', {
    minimum: 1,
    maximum: INT32_MAX,
  }),
  text: Type.Optional(
    Type.Unsafe<NonNullable<TextFields['text']> | null>({
      type: ['object', 'null'],
      description: 'What the text of the answer must be.',
      properties: { format: { anyOf: [TextFormatSchema, { type: 'null' }] } },
      additionalProperties: false,
    } as TSchema),
  ),
  include: Type.Optional(
    Type.Unsafe<(typeof INCLUDABLE)[number][] | null>({
      type: ['array', 'null'],
      description: 'What else the answer shows; it never has reasoning to show.',
      items: { type: 'string', enum: INCLUDABLE },
      maxItems: 16,
    } as TSchema),
  ),
  top_logprobs: nullableInteger(
    'Likeliest tokens at each place; needs include with message.output_text.logprobs.',
    { minimum: 0, maximum: LOGPROBS_MAX },
  ),
  tools: Type.Optional(
    Type.Unsafe<WireFunction[] | null>({
      type: ['array', 'null'],
      description: 'What the model may call.',
      items: FunctionSchema,
      maxItems: TOOLS_MAX,
    } as TSchema),
  ),
  tool_choice: Type.Optional(
    Type.Unsafe<WireFunctionChoice | null>({
      anyOf: [FunctionChoiceSchema, { type: 'null' }],
      description: 'Which tools may or must be called. Default: auto.',
    }),
  ),
  parallel_tool_calls: nullableBoolean('More than one call in an answer.', true),
  stream_options: Type.Optional(
    Type.Unsafe<{ include_obfuscation?: boolean } | null>({
      type: ['object', 'null'],
      description: 'Only together with stream.',
      properties: {
        include_obfuscation: { type: 'boolean', description: 'Only false is accepted.' },
      },
      additionalProperties: false,
    } as TSchema),
  ),
  metadata: Type.Optional(
    Type.Unsafe<Record<string, string> | null>({
      type: ['object', 'null'],
      description: 'Comes back with the answer; it changes nothing.',
      maxProperties: METADATA_ENTRIES_MAX,
      additionalProperties: { type: 'string' },
    } as TSchema),
  ),
  safety_identifier: CHAT_FIELDS.safety_identifier,
  prompt_cache_key: CHAT_FIELDS.prompt_cache_key,
  chat_template: CHAT_FIELDS.chat_template,
  chat_template_kwargs: CHAT_FIELDS.chat_template_kwargs,
  request_id: ANSWER_FIELDS.request_id,
} as const;

export const CreateResponseSchema = Type.Object(RESPONSE_FIELDS, CLOSED);
export type CreateResponse = Static<typeof CreateResponseSchema>;

const STATUS = ['in_progress', 'completed', 'incomplete'] as const;
export type ItemStatus = (typeof STATUS)[number];
const itemStatus = Type.Unsafe<ItemStatus>({ type: 'string', enum: STATUS });

export const LogprobListSchema = Type.Array(ListedLogprobSchema, {
  description: 'With include; else none.',
});

export const OutputTextSchema = Type.Object({
  type: Type.Literal('output_text'),
  text: Type.String(),
  annotations: Type.Array(Type.Object({}), { description: 'Always none.', maxItems: 0 }),
  logprobs: LogprobListSchema,
});
export type WireOutputText = Static<typeof OutputTextSchema>;

const OutputMessageSchema = Type.Object({
  type: Type.Literal('message'),
  id: Type.String(),
  status: itemStatus,
  role: Type.Literal('assistant'),
  content: Type.Array(OutputTextSchema),
});

const OutputCallSchema = Type.Object({
  type: Type.Literal('function_call'),
  id: Type.String(),
  call_id: Type.String(),
  name: Type.String(),
  arguments: Type.String({ description: 'JSON.' }),
  status: itemStatus,
});

export const OutputItemSchema = Type.Unsafe<
  Static<typeof OutputMessageSchema> | Static<typeof OutputCallSchema>
>({
  type: 'object',
  required: ['type'],
  discriminator: { propertyName: 'type' },
  oneOf: [OutputMessageSchema, OutputCallSchema],
});
export type WireOutputItem = Static<typeof OutputItemSchema>;

const count = Type.Integer({ minimum: 0 });

const ResponseUsageSchema = Type.Object({
  input_tokens: count,
  input_tokens_details: Type.Object({
    cached_tokens: count,
    cache_write_tokens: Type.Integer({ description: 'Not counted: always 0.', minimum: 0 }),
  }),
  output_tokens: count,
  output_tokens_details: Type.Object({
    reasoning_tokens: Type.Integer({ description: 'Not told apart: always 0.', minimum: 0 }),
  }),
  total_tokens: count,
});
export type WireResponseUsage = Static<typeof ResponseUsageSchema>;

const orNull = <T extends TSchema>(schema: T, description?: string) =>
  Type.Union([schema, Type.Null()], description === undefined ? {} : { description });
const nullableText = Type.Unsafe<string | null>({ type: ['string', 'null'] } as TSchema);
const always = <T extends string | boolean>(value: T) =>
  Type.Literal(value, { description: 'Always so.' });
const alwaysNull = Type.Null({ description: 'Always so.' });

export const ModelResponseSchema = Type.Object({
  id: Type.String(),
  object: Type.Literal('response'),
  created_at: Type.Integer(),
  completed_at: orNull(Type.Integer(), 'With status completed.'),
  status: Type.Unsafe<ItemStatus | 'failed'>({ type: 'string', enum: [...STATUS, 'failed'] }),
  error: orNull(
    Type.Object({ code: Type.String(), message: Type.String() }),
    'Why a stream failed; docs/errors.md lists the codes.',
  ),
  incomplete_details: orNull(Type.Object({ reason: Type.Literal('max_output_tokens') })),
  model: Type.String(),
  ...ANSWERED_BY_FIELDS,
  output: Type.Array(OutputItemSchema),
  usage: orNull(ResponseUsageSchema, 'null until the answer ends.'),
  instructions: nullableText,
  max_output_tokens: orNull(Type.Integer()),
  metadata: Type.Record(Type.String(), Type.String()),
  parallel_tool_calls: Type.Boolean(),
  prompt_cache_key: nullableText,
  safety_identifier: nullableText,
  temperature: Type.Number(),
  text: Type.Object({ format: TextFormatSchema }),
  tool_choice: FunctionChoiceSchema,
  tools: Type.Array(FunctionSchema),
  top_logprobs: Type.Integer(),
  top_p: Type.Number(),
  user: nullableText,
  background: always(false),
  previous_response_id: alwaysNull,
  reasoning: alwaysNull,
  service_tier: always('default'),
  store: always(false),
  truncation: always('disabled'),
});
export type ModelResponse = Static<typeof ModelResponseSchema>;
