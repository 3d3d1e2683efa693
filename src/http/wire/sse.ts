/** Server-sent events as OpenAI's SDKs read them. */
import { once } from 'node:events';
import type { FastifyReply } from 'fastify';
import type { LoramuxError } from '../../errors.ts';
import type { Generation, GenerationEvent } from '../../generation/types.ts';
import { errorBody } from '../schemas/error.ts';

const DONE = 'data: [DONE]\n\n';
/** Comments are skipped by parsers and keep proxies from closing a silent stream. */
const KEEP_ALIVE = ': keep-alive\n\n';

/** Events that are taken from the generation's bounded queue at a time; the rest stays bounded. */
export const EVENTS_PER_PIECE = 64;

/** Characters of a piece after which the rest of its events becomes another one. */
const PIECE_LENGTH = 64 * 1024;

/** The objects of one route's stream. */
export interface StreamShape {
  /** What is sent for an event; nothing when it says nothing to the client. */
  chunks(event: Exclude<GenerationEvent, { type: 'error' }>): readonly object[];
  /** What ends a stream that did not fail. */
  last(): object | undefined;
}

const message = (data: unknown) => `data: ${JSON.stringify(data)}\n\n`;

const errorMessage = (error: LoramuxError) => message(errorBody(error));

/**
 * The stream's text, about one piece per batch of events. `first` are events already taken from the
 * generation. An error comes as an event; `[DONE]` ends the stream either way.
 */
export async function* sseStream(
  generation: Generation,
  first: readonly GenerationEvent[],
  shape: StreamShape,
  keepAliveMs: number,
): AsyncGenerator<string, void, void> {
  let events: readonly GenerationEvent[] | undefined = first;
  let failed = false;
  while (events !== undefined) {
    if (events.length > 0) {
      let text = '';
      for (const event of events) {
        if (event.type === 'error') {
          failed = true;
          text += errorMessage(event.error);
        } else {
          for (const chunk of shape.chunks(event)) text += message(chunk);
        }
        // Each choice of an echo has the whole prompt.
        if (text.length < PIECE_LENGTH) continue;
        yield text;
        text = '';
      }
      if (text !== '') yield text;
    }
    events = await generation.next(keepAliveMs, EVENTS_PER_PIECE);
    if (events?.length === 0) yield KEEP_ALIVE;
  }
  const last = failed ? undefined : shape.last();
  yield last === undefined ? DONE : message(last) + DONE;
}

/**
 * Writes the pieces straight to the response, at the reader's pace. A readable stream in between
 * would double the work per token. Ends early, without an error, when the client is gone: the
 * request's signal has cancelled the generation then.
 */
export async function sendText(reply: FastifyReply, pieces: AsyncIterable<string>): Promise<void> {
  reply.closeWhileDraining();
  reply.hijack();
  const { raw } = reply;
  raw.writeHead(reply.statusCode, reply.getHeaders() as NodeJS.Dict<string | string[]>);
  const closed = new AbortController();
  raw.once('close', () => closed.abort());
  try {
    for await (const piece of pieces) {
      if (raw.destroyed) return;
      if (raw.write(piece)) continue;
      await once(raw, 'drain', { signal: closed.signal }).catch(() => {});
    }
    raw.end();
  } finally {
    // A defect above must not leave the client waiting on an open connection.
    if (!raw.writableEnded) raw.destroy();
  }
}
