/** The ways an answer goes back: whole, or as a stream. */
import type { FastifyReply } from 'fastify';
import type { Generation, GenerationEvent } from '../../generation/types.ts';
import type { ChoiceEvent } from './completion-response.ts';
import { EVENTS_PER_PIECE, type StreamShape, sendText, sseStream } from './sse.ts';

/** Hands over all events; returns early when the client left. @throws LoramuxError */
export async function collectEvents(
  generation: Generation,
  add: (event: ChoiceEvent) => void,
): Promise<void> {
  for (;;) {
    const events = await generation.next();
    if (events === undefined) return;
    for (const event of events) {
      if (event.type === 'error') throw event.error;
      add(event);
    }
  }
}

/** Server-sent events. @throws LoramuxError before anything is sent */
export async function streamAnswer(
  generation: Generation,
  reply: FastifyReply,
  shape: StreamShape,
  keepAliveMs: number,
): Promise<void> {
  // Errors before the first token get their HTTP status; a silent start must not wait for ever.
  const first: readonly GenerationEvent[] =
    (await generation.next(keepAliveMs, EVENTS_PER_PIECE)) ?? [];
  const [head] = first;
  if (head?.type === 'error') throw head.error;
  const text = sseStream(generation, first, shape, keepAliveMs);
  reply
    .type('text/event-stream; charset=utf-8')
    .header('cache-control', 'no-cache')
    .header('x-accel-buffering', 'no');
  return sendText(reply, text);
}
