/** Frames of the WebSocket /v1/stream. */
import { type Static, Type } from 'typebox';
import { ANSWERED_BY_FIELDS } from './adapter-choice.ts';
import { COMPLETION_FIELDS, LogprobsSchema, UsageSchema } from './completion.ts';
import { ErrorSchema } from './error.ts';
import { GENERATION_ID_LENGTH_MAX, INT32_MAX } from './limits.ts';
import { nullableInteger } from './nullable.ts';

/** The one route that is upgraded. */
export const STREAM_ROUTE = '/v1/stream';

/** What a client may send. */
export const FRAME_TYPES = ['generate', 'cancel', 'credit', 'ping'] as const;

const generationId = Type.String({ minLength: 1, maxLength: GENERATION_ID_LENGTH_MAX });

const { stream: _stream, stream_options: _streamOptions, ...GENERATE_FIELDS } = COMPLETION_FIELDS;

export const GenerateFrameSchema = Type.Object(
  {
    type: Type.Literal('generate'),
    id: generationId,
    window: nullableInteger(
      'Token frames that may be sent before the first credit; without it there is no such limit.',
      { minimum: 1, maximum: INT32_MAX },
    ),
    ...GENERATE_FIELDS,
  },
  { additionalProperties: false },
);
export type GenerateFrame = Static<typeof GenerateFrameSchema>;

export const CancelFrameSchema = Type.Object(
  { type: Type.Literal('cancel'), id: generationId },
  { additionalProperties: false },
);

export const CreditFrameSchema = Type.Object(
  {
    type: Type.Literal('credit'),
    id: generationId,
    frames: Type.Integer({
      description: 'Token frames that may be sent besides.',
      minimum: 1,
      maximum: INT32_MAX,
    }),
  },
  { additionalProperties: false },
);
export type CreditFrame = Static<typeof CreditFrameSchema>;

export const PingFrameSchema = Type.Object(
  { type: Type.Literal('ping') },
  { additionalProperties: false },
);

export type FinishReason = 'stop' | 'length' | 'cancelled';

export const TokenFrameSchema = Type.Object({
  type: Type.Literal('token'),
  id: Type.String(),
  index: Type.Integer({ description: 'The choice.', minimum: 0 }),
  text: Type.String({ description: 'Empty while a character or a stop text is incomplete.' }),
  token_id: Type.Optional(
    Type.Integer({
      description: 'Absent for the echoed prompt and for text that was held back to the end.',
      minimum: 0,
    }),
  ),
  logprobs: Type.Optional(LogprobsSchema),
  ...ANSWERED_BY_FIELDS,
});

export const DoneFrameSchema = Type.Object({
  type: Type.Literal('done'),
  id: Type.String(),
  finish_reasons: Type.Array(
    Type.Unsafe<FinishReason>({ type: 'string', enum: ['stop', 'length', 'cancelled'] }),
    { description: 'By choice.' },
  ),
  stop_reasons: Type.Array(
    Type.Unsafe<string | number | null>({ type: ['string', 'integer', 'null'] }),
    { description: 'By choice: the stop text or stop token that ended it.' },
  ),
  usage: UsageSchema,
  ...ANSWERED_BY_FIELDS,
});

export const ErrorFrameSchema = Type.Object({
  type: Type.Literal('error'),
  id: Type.Optional(
    Type.String({
      description:
        'The generation that is over; absent when none is, or when the frame named none.',
    }),
  ),
  refused: Type.Optional(
    Type.Object(
      { type: Type.String({ enum: [...FRAME_TYPES] }), id: Type.String() },
      { description: 'A frame that was refused while a generation with its id goes on.' },
    ),
  ),
  error: ErrorSchema.properties.error,
});

export const PongFrameSchema = Type.Object({ type: Type.Literal('pong') });
