/** What /v1/responses takes as input: a text, or messages, calls and what came of them. */
import { type Static, type TSchema, Type } from 'typebox';
import { toolName } from './chat-messages.ts';
import {
  CHAT_MESSAGES_MAX,
  CONTENT_PARTS_MAX,
  IDENTIFIER_LENGTH_MAX,
  TOOL_CALL_ID_LENGTH_MAX,
} from './limits.ts';
import { nullableString } from './nullable.ts';

const CLOSED = { additionalProperties: false };

/** What items say of themselves when they come back from an answer. */
const ORIGIN = {
  id: nullableString('Accepted; it changes nothing.', { maxLength: IDENTIFIER_LENGTH_MAX }),
  status: Type.Optional(
    Type.Unsafe<string | null>({
      type: ['string', 'null'],
      description: 'Accepted; it changes nothing.',
      enum: ['in_progress', 'completed', 'incomplete', null],
    } as TSchema),
  ),
};

const textPart = <T extends string>(type: T) =>
  Type.Object({ type: Type.Literal(type), text: Type.String() }, CLOSED);
const InputPartSchema = textPart('input_text');
const AnswerPartSchema = Type.Union([
  textPart('output_text'),
  InputPartSchema,
  Type.Object({ type: Type.Literal('refusal'), refusal: Type.String() }, CLOSED),
]);
export type WireItemPart = Static<typeof AnswerPartSchema>;

const contentOf = <T extends TSchema>(part: T) =>
  Type.Union([Type.String(), Type.Array(part, { minItems: 1, maxItems: CONTENT_PARTS_MAX })], {
    description: 'A text, or parts of one.',
  });

const isMessage = Type.Optional(Type.Literal('message'));

const PromptItemSchema = Type.Object(
  {
    type: isMessage,
    role: Type.Unsafe<'system' | 'developer' | 'user'>({
      type: 'string',
      enum: ['system', 'developer', 'user'],
    }),
    content: contentOf(InputPartSchema),
    ...ORIGIN,
  },
  CLOSED,
);

const AnswerItemSchema = Type.Object(
  {
    type: isMessage,
    role: Type.Literal('assistant'),
    content: contentOf(AnswerPartSchema),
    ...ORIGIN,
  },
  CLOSED,
);

const callId = Type.String({ maxLength: TOOL_CALL_ID_LENGTH_MAX });

const CallItemSchema = Type.Object(
  {
    type: Type.Literal('function_call'),
    call_id: callId,
    name: toolName('The tool that was called.'),
    arguments: Type.String({ description: 'A JSON object.' }),
    ...ORIGIN,
  },
  CLOSED,
);

const CallOutputItemSchema = Type.Object(
  {
    type: Type.Literal('function_call_output'),
    call_id: callId,
    output: contentOf(InputPartSchema),
    ...ORIGIN,
  },
  CLOSED,
);

/** By kind, so that what is wrong with an item is said of the right one. */
export const ITEM_SCHEMAS = {
  prompt: PromptItemSchema,
  answer: AnswerItemSchema,
  call: CallItemSchema,
  output: CallOutputItemSchema,
} as const;

export type WireItem =
  | Static<typeof PromptItemSchema>
  | Static<typeof AnswerItemSchema>
  | Static<typeof CallItemSchema>
  | Static<typeof CallOutputItemSchema>;

export const InputSchema = Type.Unsafe<string | WireItem[]>({
  description: 'A text, or the items so far.',
  anyOf: [
    { type: 'string' },
    {
      type: 'array',
      items: { anyOf: Object.values(ITEM_SCHEMAS) },
      minItems: 1,
      maxItems: CHAT_MESSAGES_MAX,
    },
  ],
});
