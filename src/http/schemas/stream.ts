/** Frames of the WebSocket /v1/stream. */
import { type Static, Type } from 'typebox';
import { adapterGeneration } from './adapter-choice.ts';
import { COMPLETION_FIELDS, LogprobsSchema, UsageSchema } from './completion.ts';
import { ErrorSchema } from './error.ts';
import { GENERATION_ID_LENGTH_MAX } from './limits.ts';

const generationId = Type.String({ minLength: 1, maxLength: GENERATION_ID_LENGTH_MAX });

const { stream: _stream, stream_options: _streamOptions, ...GENERATE_FIELDS } = COMPLETION_FIELDS;

export const GenerateFrameSchema = Type.Object(
  { type: Type.Literal('generate'), id: generationId, ...GENERATE_FIELDS },
  { additionalProperties: false },
);
export type GenerateFrame = Static<typeof GenerateFrameSchema>;

export const CancelFrameSchema = Type.Object(
  { type: Type.Literal('cancel'), id: generationId },
  { additionalProperties: false },
);

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
  adapter_generation: adapterGeneration,
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
  adapter_generation: adapterGeneration,
});

export const ErrorFrameSchema = Type.Object({
  type: Type.Literal('error'),
  id: Type.Optional(
    Type.String({ description: 'The generation that failed; absent when the frame named none.' }),
  ),
  error: ErrorSchema.properties.error,
});

export const PongFrameSchema = Type.Object({ type: Type.Literal('pong') });

export type ServerFrame =
  | Static<typeof TokenFrameSchema>
  | Static<typeof DoneFrameSchema>
  | Static<typeof ErrorFrameSchema>
  | Static<typeof PongFrameSchema>;
