/** The events of a streamed response, as OpenAI has them. */
import { type Static, type TSchema, Type } from 'typebox';
import { ErrorSchema } from './error.ts';
import {
  LogprobListSchema,
  ModelResponseSchema,
  OutputItemSchema,
  OutputTextSchema,
} from './responses.ts';

const index = Type.Integer({ minimum: 0 });
const sequence_number = Type.Integer({ description: 'From 0, one by one.', minimum: 0 });

/** Where in the output an event belongs. */
const PLACE = { item_id: Type.String(), output_index: index };
const PART = { ...PLACE, content_index: index };

const event = <T extends string, P extends Record<string, TSchema>>(type: T, properties: P) =>
  Type.Object({ type: Type.Literal(type), sequence_number, ...properties });

const EVENTS = [
  event('response.created', { response: ModelResponseSchema }),
  event('response.in_progress', { response: ModelResponseSchema }),
  event('response.output_item.added', { output_index: index, item: OutputItemSchema }),
  event('response.content_part.added', { ...PART, part: OutputTextSchema }),
  event('response.output_text.delta', {
    ...PART,
    delta: Type.String(),
    logprobs: LogprobListSchema,
  }),
  event('response.output_text.done', { ...PART, text: Type.String(), logprobs: LogprobListSchema }),
  event('response.content_part.done', { ...PART, part: OutputTextSchema }),
  event('response.function_call_arguments.delta', { ...PLACE, delta: Type.String() }),
  event('response.function_call_arguments.done', {
    ...PLACE,
    name: Type.String(),
    arguments: Type.String(),
  }),
  event('response.output_item.done', { output_index: index, item: OutputItemSchema }),
  event('response.completed', { response: ModelResponseSchema }),
  event('response.incomplete', { response: ModelResponseSchema }),
  event('response.failed', { response: ModelResponseSchema }),
  event('error', {
    code: Type.String(),
    message: Type.String(),
    param: Type.Union([Type.String(), Type.Null()]),
    error: ErrorSchema.properties.error,
  }),
] as const;
export type WireResponseEvent = Static<(typeof EVENTS)[number]>;

export const ResponseEventSchema = Type.Unsafe<WireResponseEvent>({
  type: 'object',
  required: ['type'],
  discriminator: { propertyName: 'type' },
  oneOf: EVENTS,
});
