/** Streamed completions as clients read them: what every chunk says, and the log-probabilities. */
import { once } from 'node:events';
import { WebSocket } from 'ws';
import { checkEvent, checkFrame } from './contract.ts';
import type { Json, TestServer } from './server.ts';

export interface Streamed {
  /** Of every chunk that names one, without repetition. */
  readonly generations: readonly string[];
  /** Chunks with a token, and how many of them name a generation. */
  readonly tokens: number;
  readonly named: number;
  /** As `answerOf` of the whole answer. */
  readonly answer: string;
}

class Collector {
  readonly #generations = new Set<string>();
  readonly #logprobs: number[] = [];
  #tokens = 0;
  #named = 0;

  add(generation: unknown, logprobs: Json): void {
    const values: number[] = logprobs?.token_logprobs ?? [];
    this.#tokens += values.length;
    this.#logprobs.push(...values);
    if (typeof generation !== 'string') return;
    this.#generations.add(generation);
    this.#named += values.length;
  }

  result(): Streamed {
    return {
      generations: [...this.#generations],
      tokens: this.#tokens,
      named: this.#named,
      answer: this.#logprobs.join(' '),
    };
  }
}

/** Server-sent events. @param onToken after each chunk with a token. */
export async function streamSse(
  server: Pick<TestServer, 'url'>,
  body: object,
  onToken: () => void = () => undefined,
): Promise<Streamed> {
  const response = await fetch(`${server.url}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ ...body, stream: true }),
  });
  if (response.status !== 200) throw new Error(`${response.status}: ${await response.text()}`);
  const collector = new Collector();
  let pending = '';
  let done = false;
  for await (const bytes of response.body!.pipeThrough(new TextDecoderStream())) {
    const parts = (pending + bytes).split('\n\n');
    pending = parts.pop()!;
    for (const part of parts.filter((each) => each.startsWith('data: '))) {
      done ||= part === 'data: [DONE]';
      if (done) continue;
      const chunk: Json = JSON.parse(part.slice('data: '.length));
      checkEvent('/v1/completions', chunk);
      if (chunk.error !== undefined) throw new Error(JSON.stringify(chunk.error));
      for (const choice of chunk.choices) {
        collector.add(chunk.adapter_generation, choice.logprobs);
        if (choice.logprobs) onToken();
      }
    }
  }
  if (!done) throw new Error('the stream ended without [DONE]');
  return collector.result();
}

/** A WebSocket on which generations run side by side. */
export class StreamSocket {
  readonly #socket: WebSocket;
  readonly #running = new Map<
    string,
    {
      collector: Collector;
      onToken: () => void;
      resolve: (result: Streamed) => void;
      reject: (error: Error) => void;
    }
  >();
  #count = 0;

  private constructor(socket: WebSocket) {
    this.#socket = socket;
    socket.on('message', (data) => {
      const frame: Json = JSON.parse(String(data));
      checkFrame(frame);
      this.#onFrame(frame);
    });
    socket.on('close', () => {
      for (const { reject } of this.#running.values()) reject(new Error('the socket was closed'));
    });
  }

  static async open(server: Pick<TestServer, 'url'>): Promise<StreamSocket> {
    const socket = new WebSocket(`${server.url.replace('http', 'ws')}/v1/stream`);
    await once(socket, 'open');
    return new StreamSocket(socket);
  }

  generate(body: object, onToken: () => void = () => undefined): Promise<Streamed> {
    const id = `g${this.#count++}`;
    return new Promise((resolve, reject) => {
      this.#running.set(id, { collector: new Collector(), onToken, resolve, reject });
      this.#socket.send(JSON.stringify({ type: 'generate', id, ...body }));
    });
  }

  async close(): Promise<void> {
    const closed = once(this.#socket, 'close');
    this.#socket.close();
    await closed;
  }

  #onFrame(frame: Json): void {
    const running = this.#running.get(frame.id);
    if (running === undefined) throw new Error(`unexpected frame ${JSON.stringify(frame)}`);
    if (frame.type === 'token') {
      running.collector.add(frame.adapter_generation, frame.logprobs);
      running.onToken();
      return;
    }
    this.#running.delete(frame.id);
    if (frame.type === 'done') {
      running.collector.add(frame.adapter_generation, undefined);
      running.resolve(running.collector.result());
    } else running.reject(new Error(JSON.stringify(frame)));
  }
}
