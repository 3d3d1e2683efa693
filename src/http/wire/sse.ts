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

/** What a route makes of a generation's events. */
interface Shape<T extends object> {
  /** What is sent for an event; nothing when it says nothing to the client. */
  chunks(event: Exclude<GenerationEvent, { type: 'error' }>): readonly T[];
  /** What ends a stream that did not fail. */
  last(): T | undefined;
}

/** A stream of objects without names; an error is one of them, and `[DONE]` ends it either way. */
export interface ObjectShape extends Shape<object> {
  readonly named?: false;
}

/** A stream of objects that are named by their types; the last one ends it. */
export interface NamedShape extends Shape<{ readonly type: string }> {
  readonly named: true;
  /** What comes before the first event. */
  first(): readonly { readonly type: string }[];
  /** What ends a stream that failed. */
  failure(error: LoramuxError): readonly { readonly type: string }[];
}

/** The objects of one route's stream. */
export type StreamShape = ObjectShape | NamedShape;

const message = (data: object) => `data: ${JSON.stringify(data)}\n\n`;
const namedMessage = (data: { readonly type: string }) => `event: ${data.type}\n${message(data)}`;

/** The texts of a shape's objects. */
interface Texts {
  readonly first: string;
  of(event: Exclude<GenerationEvent, { type: 'error' }>): string;
  failure(error: LoramuxError): string;
  /** After a failure, too. */
  end(failed: boolean): string;
}

function namedTexts(shape: NamedShape): Texts {
  const join = (chunks: readonly { readonly type: string }[]) => chunks.map(namedMessage).join('');
  return {
    first: join(shape.first()),
    of: (event) => join(shape.chunks(event)),
    failure: (error) => join(shape.failure(error)),
    end: (failed) => {
      const last = failed ? undefined : shape.last();
      return last === undefined ? '' : namedMessage(last);
    },
  };
}

function objectTexts(shape: ObjectShape): Texts {
  return {
    first: '',
    of: (event) => shape.chunks(event).map(message).join(''),
    failure: (error) => message(errorBody(error)),
    end: (failed) => {
      const last = failed ? undefined : shape.last();
      return last === undefined ? DONE : message(last) + DONE;
    },
  };
}

/**
 * The stream's text, about one piece per batch of events. `first` are events already taken from the
 * generation. An error comes as an event.
 */
export async function* sseStream(
  generation: Generation,
  first: readonly GenerationEvent[],
  shape: StreamShape,
  keepAliveMs: number,
): AsyncGenerator<string, void, void> {
  const texts = shape.named ? namedTexts(shape) : objectTexts(shape);
  let events: readonly GenerationEvent[] | undefined = first;
  let failed = false;
  let text = texts.first;
  while (events !== undefined) {
    for (const event of events) {
      if (event.type === 'error') {
        failed = true;
        text += texts.failure(event.error);
      } else {
        text += texts.of(event);
      }
      // Each choice of an echo has the whole prompt.
      if (text.length < PIECE_LENGTH) continue;
      yield text;
      text = '';
    }
    if (text !== '') yield text;
    text = '';
    events = await generation.next(keepAliveMs, EVENTS_PER_PIECE);
    if (events?.length === 0) yield KEEP_ALIVE;
  }
  const end = texts.end(failed);
  if (end !== '') yield end;
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
