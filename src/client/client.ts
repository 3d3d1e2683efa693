/** The client of a Loramux server, for Node and browsers. */
import { Adapters } from './adapters.ts';
import type { WebSocketConstructor } from './connection.ts';
import { LoramuxError } from './errors.ts';
import type { EventStream } from './event-stream.ts';
import type {
  ChatChunk,
  ChatCompletion,
  ChatRequest,
  Completion,
  CompletionChunk,
  CompletionRequest,
  CreateResponse,
  DetokenizeRequest,
  DetokenizeResponse,
  Health,
  Model,
  ModelList,
  ModelResponse,
  ReplicaList,
  ResponseEvent,
  TokenizeRequest,
  TokenizeResponse,
} from './openapi.ts';
import { checkRetries, RETRIES_DEFAULT } from './retry.ts';
import { StreamSocket, type StreamSocketOptions } from './stream-socket.ts';
import { type CallOptions, checkBaseUrl, Transport, urlOf } from './transport.ts';

export interface LoramuxClientOptions {
  /** Where the server is, without `/v1`. */
  readonly baseUrl: string;
  /** Default: the global one. */
  readonly fetch?: typeof globalThis.fetch | undefined;
  /** Default: the global one, which Node has from version 22 on; `ws` is one, too. */
  readonly WebSocket?: WebSocketConstructor | undefined;
  /** Sent with every HTTP request, such as `authorization` for a proxy. */
  readonly headers?: Readonly<Record<string, string>> | undefined;
  /** Tries after the first one, 0 to 20; default 2. */
  readonly retries?: number | undefined;
}

export interface ConnectOptions extends StreamSocketOptions {
  /** Gives up on the first socket. */
  readonly signal?: AbortSignal | undefined;
}

type Streamed<T> = T & { readonly stream: true };
type Whole<T> = T & { readonly stream?: false | null };

class Completions {
  readonly #transport: Transport;

  constructor(transport: Transport) {
    this.#transport = transport;
  }

  /** A completion; with `stream: true` its chunks as they come. */
  create(
    request: Streamed<CompletionRequest>,
    options?: CallOptions,
  ): Promise<EventStream<CompletionChunk>>;
  create(request: Whole<CompletionRequest>, options?: CallOptions): Promise<Completion>;
  create(
    request: CompletionRequest,
    options?: CallOptions,
  ): Promise<Completion | EventStream<CompletionChunk>>;
  create(
    request: CompletionRequest,
    { signal }: CallOptions = {},
  ): Promise<Completion | EventStream<CompletionChunk>> {
    const call = { body: request, repeats: 'repeatable', signal } as const;
    return request.stream === true
      ? this.#transport.stream('createCompletion', call)
      : this.#transport.call('createCompletion', call);
  }
}

class ChatCompletions {
  readonly #transport: Transport;

  constructor(transport: Transport) {
    this.#transport = transport;
  }

  /** The answer to a chat; with `stream: true` its chunks as they come. */
  create(request: Streamed<ChatRequest>, options?: CallOptions): Promise<EventStream<ChatChunk>>;
  create(request: Whole<ChatRequest>, options?: CallOptions): Promise<ChatCompletion>;
  create(
    request: ChatRequest,
    options?: CallOptions,
  ): Promise<ChatCompletion | EventStream<ChatChunk>>;
  create(
    request: ChatRequest,
    { signal }: CallOptions = {},
  ): Promise<ChatCompletion | EventStream<ChatChunk>> {
    const call = { body: request, repeats: 'repeatable', signal } as const;
    return request.stream === true
      ? this.#transport.stream('createChatCompletion', call)
      : this.#transport.call('createChatCompletion', call);
  }
}

class Responses {
  readonly #transport: Transport;

  constructor(transport: Transport) {
    this.#transport = transport;
  }

  /** A response, which is not stored; with `stream: true` its events as they come. */
  create(
    request: Streamed<CreateResponse>,
    options?: CallOptions,
  ): Promise<EventStream<ResponseEvent>>;
  create(request: Whole<CreateResponse>, options?: CallOptions): Promise<ModelResponse>;
  create(
    request: CreateResponse,
    options?: CallOptions,
  ): Promise<ModelResponse | EventStream<ResponseEvent>>;
  create(
    request: CreateResponse,
    { signal }: CallOptions = {},
  ): Promise<ModelResponse | EventStream<ResponseEvent>> {
    const call = { body: request, repeats: 'repeatable', signal } as const;
    return request.stream === true
      ? this.#transport.stream('createResponse', call)
      : this.#transport.call('createResponse', call);
  }
}

class Models {
  readonly #transport: Transport;

  constructor(transport: Transport) {
    this.#transport = transport;
  }

  /** The base model and the adapters. */
  list({ signal }: CallOptions = {}): Promise<ModelList> {
    return this.#transport.call('listModels', { repeats: 'repeatable', signal });
  }

  retrieve(id: string, { signal }: CallOptions = {}): Promise<Model> {
    return this.#transport.call('showModel', { path: { id }, repeats: 'repeatable', signal });
  }
}

/** All requests take an AbortSignal. @throws LoramuxError from every method, or the signal's reason */
export class LoramuxClient {
  readonly completions: Completions;
  readonly chat: { readonly completions: ChatCompletions };
  readonly responses: Responses;
  readonly models: Models;
  readonly adapters: Adapters;
  readonly #transport: Transport;
  readonly #baseUrl: URL;
  readonly #WebSocket: WebSocketConstructor | undefined;
  readonly #headers: Readonly<Record<string, string>>;

  /** @throws LoramuxError invalid_option */
  constructor(options: LoramuxClientOptions) {
    const { headers = {}, retries = RETRIES_DEFAULT } = options;
    this.#baseUrl = checkBaseUrl(options.baseUrl);
    this.#WebSocket = options.WebSocket;
    this.#headers = headers;
    // A browser's fetch wants to be called as a method of nothing.
    const fetch = options.fetch ?? globalThis.fetch.bind(globalThis);
    this.#transport = new Transport({
      baseUrl: this.#baseUrl,
      fetch,
      headers,
      retries: checkRetries(retries),
    });
    this.completions = new Completions(this.#transport);
    this.chat = { completions: new ChatCompletions(this.#transport) };
    this.responses = new Responses(this.#transport);
    this.models = new Models(this.#transport);
    this.adapters = new Adapters(this.#transport);
  }

  /** The ids of a text or a chat, as the server reads it. */
  tokenize(request: TokenizeRequest, { signal }: CallOptions = {}): Promise<TokenizeResponse> {
    return this.#transport.call('tokenize', { body: request, repeats: 'repeatable', signal });
  }

  /** The text of ids. */
  detokenize(
    request: DetokenizeRequest,
    { signal }: CallOptions = {},
  ): Promise<DetokenizeResponse> {
    return this.#transport.call('detokenize', { body: request, repeats: 'repeatable', signal });
  }

  /** The servers of the fleet. */
  replicas({ signal }: CallOptions = {}): Promise<ReplicaList> {
    return this.#transport.call('listReplicas', { repeats: 'repeatable', signal });
  }

  /** What the server says of itself; also when it says that it is not well, which is no error. */
  health({ signal }: CallOptions = {}): Promise<Health> {
    return this.#transport.call('health', { repeats: 'repeatable', also: 503, signal });
  }

  /** Prometheus text. */
  metrics({ signal }: CallOptions = {}): Promise<string> {
    return this.#transport.call('metrics', { answer: 'text', repeats: 'repeatable', signal });
  }

  /**
   * A WebSocket for many generations at once. It is opened again when it breaks; close it when it
   * is not needed any more.
   * @throws LoramuxError connection_failed; no_websocket where there is none
   */
  async connect({ signal, ...options }: ConnectOptions = {}): Promise<StreamSocket> {
    const socket = new StreamSocket(this.#socketUrl(), this.#socketConstructor(), options);
    try {
      await socket.open(signal);
      return socket;
    } catch (error) {
      await socket.close();
      throw error;
    }
  }

  #socketUrl(): string {
    const url = urlOf(this.#baseUrl, '/v1/stream');
    url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:';
    return url.href;
  }

  #socketConstructor(): WebSocketConstructor {
    if (this.#WebSocket !== undefined) return this.#WebSocket;
    if (Object.keys(this.#headers).length > 0) {
      throw new LoramuxError(
        'no_websocket',
        'the global WebSocket sends no headers; give a WebSocket option that sends them',
      );
    }
    const { WebSocket } = globalThis as { WebSocket?: WebSocketConstructor };
    if (WebSocket !== undefined) return WebSocket;
    throw new LoramuxError(
      'no_websocket',
      'there is no global WebSocket (Node has one from version 22 on); give the one of the package ' +
        '"ws": new LoramuxClient({ baseUrl, WebSocket })',
    );
  }
}
