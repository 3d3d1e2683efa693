/** Messages of a chat, by role, as OpenAI has them. */
import { type Static, type TSchema, Type } from 'typebox';
import type { JsonObject } from '../../importer/json.ts';
import {
  CHAT_MESSAGES_MAX,
  CONTENT_PARTS_MAX,
  MESSAGE_NAME_LENGTH_MAX,
  TOOL_CALL_ID_LENGTH_MAX,
  TOOL_CALLS_MAX,
  TOOL_DESCRIPTION_LENGTH_MAX,
  TOOL_NAME_LENGTH_MAX,
  TOOLS_MAX,
} from './limits.ts';
import { nullableBoolean, nullableString } from './nullable.ts';

const CLOSED = { additionalProperties: false };

const name = nullableString('Who speaks, for templates that show it.', {
  maxLength: MESSAGE_NAME_LENGTH_MAX,
});

const TextPartSchema = Type.Object({ type: Type.Literal('text'), text: Type.String() }, CLOSED);
const RefusalPartSchema = Type.Object(
  { type: Type.Literal('refusal'), refusal: Type.String() },
  CLOSED,
);

const parts = Type.Array(TextPartSchema, { minItems: 1, maxItems: CONTENT_PARTS_MAX });
const content = Type.Union([Type.String(), parts], { description: 'A text, or parts of one.' });

const PromptMessageSchema = Type.Object(
  {
    role: Type.Unsafe<'system' | 'developer' | 'user'>({
      type: 'string',
      enum: ['system', 'developer', 'user'],
    }),
    content,
    name,
  },
  CLOSED,
);

export const toolName = (description: string) =>
  Type.String({
    description,
    pattern: '^[a-zA-Z0-9_.:/-]+$',
    maxLength: TOOL_NAME_LENGTH_MAX,
  });

const FormerCallSchema = Type.Object(
  {
    id: Type.String({ maxLength: TOOL_CALL_ID_LENGTH_MAX }),
    type: Type.Literal('function'),
    function: Type.Object(
      {
        name: toolName('The tool that was called.'),
        arguments: Type.String({ description: 'A JSON object.' }),
      },
      CLOSED,
    ),
  },
  CLOSED,
);

const AssistantMessageSchema = Type.Object(
  {
    role: Type.Literal('assistant'),
    content: Type.Optional(
      Type.Union(
        [
          Type.String(),
          Type.Array(Type.Union([TextPartSchema, RefusalPartSchema]), {
            minItems: 1,
            maxItems: CONTENT_PARTS_MAX,
          }),
          Type.Null(),
        ],
        { description: 'A text, or parts of one; may be missing beside tool_calls.' },
      ),
    ),
    name,
    tool_calls: Type.Optional(
      Type.Unsafe<Static<typeof FormerCallSchema>[] | null>({
        anyOf: [Type.Array(FormerCallSchema, { maxItems: TOOL_CALLS_MAX }), Type.Null()],
        description: 'The calls that the assistant made.',
      }),
    ),
    refusal: Type.Optional(
      Type.Unsafe<string | null>({
        type: ['string', 'null'],
        description: 'The content of a message without one.',
      } as TSchema),
    ),
    reasoning_content: Type.Optional(
      Type.Unsafe<string | null>({
        type: ['string', 'null'],
        description: 'What the assistant thought, for templates that show it.',
      } as TSchema),
    ),
  },
  CLOSED,
);

const ToolMessageSchema = Type.Object(
  {
    role: Type.Literal('tool'),
    content,
    tool_call_id: Type.String({ maxLength: TOOL_CALL_ID_LENGTH_MAX }),
    name,
  },
  CLOSED,
);

export type WireMessage =
  | Static<typeof PromptMessageSchema>
  | Static<typeof AssistantMessageSchema>
  | Static<typeof ToolMessageSchema>;

const MessageSchema = Type.Unsafe<WireMessage>({
  type: 'object',
  required: ['role'],
  // The validator goes by the role, so that what is wrong is said of the right kind of message.
  discriminator: { propertyName: 'role' },
  oneOf: [PromptMessageSchema, AssistantMessageSchema, ToolMessageSchema],
});

export const MessagesSchema = Type.Array(MessageSchema, {
  description: 'The chat so far.',
  minItems: 1,
  maxItems: CHAT_MESSAGES_MAX,
});

/** What a request says of a function that may be called. */
export const FUNCTION_FIELDS = {
  name: toolName('Unique among the tools.'),
  description: nullableString('What it does, for the model.', {
    maxLength: TOOL_DESCRIPTION_LENGTH_MAX,
  }),
  parameters: Type.Optional(
    Type.Unsafe<JsonObject | null>({
      type: ['object', 'null'],
      description: 'JSON schema of the arguments. Default: an object without any.',
    } as TSchema),
  ),
  strict: nullableBoolean(
    'Arguments follow the schema. Calls that the answer must have always do.',
    false,
  ),
} as const;

const ToolSchema = Type.Object(
  { type: Type.Literal('function'), function: Type.Object(FUNCTION_FIELDS, CLOSED) },
  CLOSED,
);
export type WireTool = Static<typeof ToolSchema>;

export const ToolsSchema = Type.Optional(
  Type.Unsafe<WireTool[] | null>({
    anyOf: [Type.Array(ToolSchema, { minItems: 1, maxItems: TOOLS_MAX }), Type.Null()],
    description: 'What the model may call.',
  }),
);

const NamedToolSchema = Type.Object(
  {
    type: Type.Literal('function'),
    function: Type.Object({ name: toolName('One of tools.') }, CLOSED),
  },
  CLOSED,
);

const AllowedToolsSchema = Type.Object(
  {
    type: Type.Literal('allowed_tools'),
    allowed_tools: Type.Object(
      {
        mode: Type.Unsafe<'auto' | 'required'>({ type: 'string', enum: ['auto', 'required'] }),
        tools: Type.Array(NamedToolSchema, { minItems: 1, maxItems: TOOLS_MAX }),
      },
      CLOSED,
    ),
  },
  CLOSED,
);

export type WireToolChoice =
  | 'none'
  | 'auto'
  | 'required'
  | Static<typeof NamedToolSchema>
  | Static<typeof AllowedToolsSchema>
  | null;

export const ToolChoiceSchema = Type.Optional(
  Type.Unsafe<WireToolChoice>({
    anyOf: [
      { type: 'string', enum: ['none', 'auto', 'required'] },
      NamedToolSchema,
      AllowedToolsSchema,
      Type.Null(),
    ],
    description: 'Which tools may or must be called. Default: auto with tools, else none.',
  }),
);
