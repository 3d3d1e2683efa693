/** Frames of the WebSocket /v1/stream. */
import { type Static, Type } from 'typebox';
import { COMPLETION_FIELDS, type WireLogprobs, type WireUsage } from './completion.ts';
import type { ErrorBody } from './error.ts';
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

export type ServerFrame =
  | {
      type: 'token';
      id: string;
      index: number;
      text: string;
      /** Absent for the echoed prompt and for text that was held back to the end. */
      token_id?: number;
      logprobs?: WireLogprobs;
    }
  | {
      type: 'done';
      id: string;
      /** By choice. */
      finish_reasons: FinishReason[];
      stop_reasons: (string | number | null)[];
      usage: WireUsage;
      adapter_generation?: string;
    }
  | ({ type: 'error'; id?: string } & ErrorBody)
  | { type: 'pong' };
