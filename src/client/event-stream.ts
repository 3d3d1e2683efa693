/** The answer to a streamed request: chunks, read from the network as fast as they are taken. */
import { fromWire, LoramuxError, wireErrorOf } from './errors.ts';
import { SseParser } from './sse.ts';

const DONE = '[DONE]';
/** Types of events that end a stream without it. */
const LAST_TYPES: readonly unknown[] = [
  ...['response.completed', 'response.incomplete', 'response.failed'],
];

/**
 * Chunks of one streamed answer, to be iterated once. Nothing is read ahead of the iteration but
 * what one read of the network brings, so a slow loop slows the server. Leaving the loop closes the
 * connection, which ends the generation on the server.
 */
export class EventStream<T> implements AsyncIterable<T> {
  readonly #body: ReadableStream<Uint8Array>;
  readonly #signal: AbortSignal | undefined;
  #taken = false;

  constructor(body: ReadableStream<Uint8Array>, signal?: AbortSignal) {
    this.#body = body;
    this.#signal = signal;
  }

  /** @throws LoramuxError the server's error event; connection_lost; stream_taken */
  async *[Symbol.asyncIterator](): AsyncGenerator<T, void, void> {
    if (this.#taken) throw new LoramuxError('stream_taken', 'a stream can be read once');
    this.#taken = true;
    const reader = this.#body.getReader();
    const parser = new SseParser();
    let chunks = 0;
    try {
      for (;;) {
        const bytes = await this.#read(reader, chunks);
        for (const data of parser.push(bytes)) {
          if (data === DONE) return;
          const chunk = this.#chunk(data, chunks++);
          yield chunk;
          if (LAST_TYPES.includes((chunk as { type?: unknown }).type)) return;
        }
      }
    } finally {
      // The reason of a failed read is thrown already.
      await reader.cancel().catch(() => {});
      reader.releaseLock();
    }
  }

  /** Ends a stream that nobody reads; one that is read ends when its loop is left. */
  async cancel(): Promise<void> {
    if (this.#taken) return;
    this.#taken = true;
    await this.#body.cancel();
  }

  async #read(
    reader: ReadableStreamDefaultReader<Uint8Array>,
    chunks: number,
  ): Promise<Uint8Array> {
    let result: { done: boolean; value?: Uint8Array | undefined };
    try {
      result = await reader.read();
    } catch (cause) {
      if (this.#signal?.aborted === true) throw this.#signal.reason;
      throw new LoramuxError('connection_lost', 'the connection broke in the middle of a stream', {
        cause,
        tokens: chunks,
      });
    }
    if (!result.done) return result.value!;
    throw new LoramuxError('connection_lost', 'the stream ended before its end was said', {
      tokens: chunks,
    });
  }

  #chunk(data: string, chunks: number): T {
    let value: unknown;
    try {
      value = JSON.parse(data);
    } catch (cause) {
      throw new LoramuxError('answer_malformed', 'an event of the stream is not JSON', { cause });
    }
    const error = wireErrorOf(value);
    if (error !== undefined) throw fromWire(error, { tokens: chunks });
    return value as T;
  }
}
