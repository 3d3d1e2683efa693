/** The ways an answer goes back: whole, or as a stream. */
import type { FastifyReply } from 'fastify';
import type { Generation, GenerationEvent } from '../../generation/types.ts';
import type { ChoiceEvent } from './completion-response.ts';
import { EVENTS_PER_PIECE, type StreamShape, sendText, sseStream } from './sse.ts';

/** Makes one object of all events. */
interface Collector<T> {
  add(event: ChoiceEvent): void;
  /** After the last event. */
  finish(): T;
}

/** One object. @throws LoramuxError */
export async function wholeAnswer<T>(
  generation: Generation,
  reply: FastifyReply,
  collector: Collector<T>,
  gone: AbortSignal,
): Promise<T | FastifyReply> {
  for (;;) {
    const events = await generation.next();
    if (events === undefined) break;
    for (const event of events) {
      if (event.type === 'error') throw event.error;
      collector.add(event);
    }
  }
  // Nobody is there to read an answer that was cut short.
  return gone.aborted ? reply.hijack() : collector.finish();
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
