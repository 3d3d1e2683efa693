/** One operation of openapi.yaml as one HTTP request, tried again where that is safe. */
import { errorOfAnswer, LoramuxError } from './errors.ts';
import { EventStream } from './event-stream.ts';
import { type Operations, ROUTES } from './openapi.ts';
import { backOffMs, delay, isRetryable, type Repeats } from './retry.ts';

export type OperationId = keyof Operations;

export interface CallOptions {
  /** Ends the request, the waits between tries, and a stream. */
  readonly signal?: AbortSignal | undefined;
}

export interface TransportOptions {
  readonly baseUrl: URL;
  readonly fetch: typeof globalThis.fetch;
  readonly headers: Readonly<Record<string, string>>;
  readonly retries: number;
}

export interface Call<K extends OperationId> {
  readonly path?: Operations[K]['path'] | undefined;
  readonly query?: Operations[K]['query'] | undefined;
  readonly headers?: Operations[K]['headers'] | undefined;
  readonly body?: Operations[K]['body'] | undefined;
  /** In place of `body`: sent as it is, with the type it has. */
  readonly content?: FormData | Blob | undefined;
  readonly repeats: Repeats;
  readonly signal?: AbortSignal | undefined;
  /** Default: json. */
  readonly answer?: 'json' | 'text' | undefined;
  /** Besides 2xx, answers of this status are no errors. */
  readonly also?: number | undefined;
}

/** @throws LoramuxError invalid_option */
export function checkBaseUrl(text: string): URL {
  let url: URL | undefined;
  try {
    url = new URL(text);
  } catch {
    // The message below says it for all cases.
  }
  const isHttp = url?.protocol === 'http:' || url?.protocol === 'https:';
  if (url === undefined || !isHttp || url.search !== '' || url.hash !== '') {
    throw new LoramuxError(
      'invalid_option',
      `baseUrl is ${JSON.stringify(text)}; it must begin with http:// or https:// and have neither ` +
        '? nor #',
    );
  }
  return url;
}

/** A route below the base, which may have a path of its own behind a proxy. */
export function urlOf(
  base: URL,
  route: string,
  path: Readonly<Record<string, string>> = {},
  query: Readonly<Record<string, unknown>> = {},
): URL {
  const url = new URL(base);
  const filled = route.replaceAll(/\{(\w+)\}/g, (_, name: string) => {
    const value = path[name]!;
    // A URL parser would take these as the folder itself and the one above.
    if (value === '' || value === '.' || value === '..') {
      throw new LoramuxError('invalid_option', `${JSON.stringify(value)} is not a ${name}`);
    }
    return encodeURIComponent(value);
  });
  url.pathname = `${base.pathname.replace(/\/+$/, '')}${filled}`;
  for (const [name, value] of Object.entries(query)) {
    if (value !== undefined) url.searchParams.set(name, String(value));
  }
  return url;
}

export class Transport {
  readonly #options: TransportOptions;

  constructor(options: TransportOptions) {
    this.#options = options;
  }

  /** The answer as JSON, or as text where the operation answers text. */
  async call<K extends OperationId>(id: K, call: Call<K>): Promise<Operations[K]['answer']> {
    return this.#tries(call, async () => {
      const type = call.answer === 'text' ? 'text/plain' : 'application/json';
      const response = await this.#send(id, call, `${type}, application/json`);
      const text = await this.#text(response, call.signal);
      const { ok, status, headers } = response;
      if (!ok && status !== call.also) throw errorOfAnswer(status, headers, text);
      if (headers.get('content-type')?.startsWith(type) !== true) {
        const message = `the answer is not ${type}: it is from another server`;
        throw new LoramuxError('answer_malformed', message, { status });
      }
      if (call.answer === 'text') return text;
      try {
        return JSON.parse(text);
      } catch (cause) {
        throw new LoramuxError('answer_malformed', 'the answer is not JSON', { status, cause });
      }
    });
  }

  /** A streamed answer; it is not sent again once it has begun. */
  async stream<K extends OperationId>(
    id: K,
    call: Call<K>,
  ): Promise<EventStream<Exclude<Operations[K]['event'], undefined>>> {
    return this.#tries(call, async () => {
      const response = await this.#send(id, call, 'text/event-stream, application/json');
      if (!response.ok) {
        const text = await this.#text(response, call.signal);
        throw errorOfAnswer(response.status, response.headers, text);
      }
      const isStream = response.headers.get('content-type')?.startsWith('text/event-stream');
      if (isStream === true && response.body !== null) {
        return new EventStream(response.body, call.signal);
      }
      await response.body?.cancel();
      throw new LoramuxError('answer_malformed', 'the answer is not a stream of events', {
        status: response.status,
      });
    });
  }

  async #tries<K extends OperationId, T>(call: Call<K>, once: () => Promise<T>): Promise<T> {
    for (let attempt = 0; ; attempt++) {
      call.signal?.throwIfAborted();
      try {
        return await once();
      } catch (error) {
        if (attempt >= this.#options.retries || !isRetryable(error, call.repeats)) throw error;
        await delay(backOffMs(attempt, error.retryAfterMs), call.signal);
      }
    }
  }

  async #send<K extends OperationId>(id: K, call: Call<K>, accept: string): Promise<Response> {
    const { baseUrl, fetch, headers } = this.#options;
    const [method, route] = ROUTES[id];
    const url = urlOf(baseUrl, route, call.path, call.query);
    const all = new Headers({ accept, ...headers });
    for (const [name, value] of Object.entries(call.headers ?? {})) {
      if (value !== undefined) all.set(name, value as string);
    }
    let body: RequestInit['body'] = null;
    if (call.content !== undefined) body = call.content as NonNullable<RequestInit['body']>;
    else if (call.body !== undefined) {
      all.set('content-type', 'application/json');
      body = JSON.stringify(call.body);
    }
    try {
      return await fetch(url, {
        method,
        headers: all,
        body,
        // The server does not redirect, and a proxy that does would turn a POST into a GET.
        redirect: 'error',
        signal: call.signal ?? null,
      });
    } catch (cause) {
      throw this.#failed(url, cause, call.signal);
    }
  }

  async #text(response: Response, signal: AbortSignal | undefined): Promise<string> {
    try {
      return await response.text();
    } catch (cause) {
      throw this.#failed(new URL(response.url || this.#options.baseUrl), cause, signal);
    }
  }

  #failed({ origin }: URL, cause: unknown, signal: AbortSignal | undefined): unknown {
    if (signal?.aborted === true) return signal.reason;
    const inner = (cause as { cause?: { message?: string; code?: string } } | null)?.cause;
    const why = inner?.message || inner?.code || (cause as Error | null)?.message || String(cause);
    return new LoramuxError('connection_failed', `${origin}: ${why}`, { cause });
  }
}
