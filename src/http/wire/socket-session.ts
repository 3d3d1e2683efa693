/** One WebSocket: several generations at once, each with the id the client chose. */
import type { FastifyBaseLogger } from 'fastify';
import type { WebSocket } from 'ws';
import { LoramuxError, toLoramuxError } from '../../errors.ts';
import type { Generation, GenerationEvent } from '../../generation/types.ts';
import { errorBody } from '../schemas/error.ts';
import { GENERATION_ID_LENGTH_MAX } from '../schemas/limits.ts';
import type { FinishReason, GenerateFrame, ServerFrame } from '../schemas/stream.ts';
import { dropNeutralFields } from '../schemas/unsupported.ts';
import type { HttpServices } from '../services.ts';
import { generationOf } from './adapter-choice.ts';
import { toGenerationRequest } from './completion-request.ts';
import { wireLogprobs, wireUsage } from './completion-response.ts';

/** Bytes in the socket's send buffer above which its generations wait for it to drain. */
const SEND_BUFFER_HIGH_BYTES = 64 * 1024;

/**
 * Bytes of answers to frames that may wait for the peer to read. Generations are held up by the
 * send buffer; whoever sends frames without reading would make the server keep all their answers.
 */
const REPLY_BYTES_MAX = 1024 * 1024;

/** Checks a frame's shape. @throws LoramuxError unknown_field, invalid_request */
export interface FrameChecks {
  generate(frame: unknown): asserts frame is GenerateFrame;
  cancel(frame: unknown): asserts frame is { type: 'cancel'; id: string };
  ping(frame: unknown): asserts frame is { type: 'ping' };
}

type Json = Record<string, unknown>;

function parseFrame(text: string): Json {
  let frame: unknown;
  try {
    frame = JSON.parse(text);
  } catch (cause) {
    throw new LoramuxError('invalid_request', 'the frame is not JSON', { cause });
  }
  if (typeof frame === 'object' && frame !== null && !Array.isArray(frame)) return frame as Json;
  throw new LoramuxError('invalid_request', 'a frame is a JSON object with a "type"');
}

export class SocketSession {
  readonly #socket: WebSocket;
  readonly #services: HttpServices;
  readonly #checks: FrameChecks;
  readonly #log: FastifyBaseLogger;
  /** Running generations by the client's id. */
  readonly #running = new Map<string, AbortController>();
  #alive = true;
  #drained: Promise<void> | undefined;
  /** Bytes of answers to frames that are not sent. */
  #replyBytes = 0;
  readonly #heartbeat: NodeJS.Timeout;

  constructor(
    socket: WebSocket,
    services: HttpServices,
    checks: FrameChecks,
    log: FastifyBaseLogger,
  ) {
    this.#socket = socket;
    this.#services = services;
    this.#checks = checks;
    this.#log = log;
    socket.on('message', (data, isBinary) => this.#onMessage(String(data), isBinary));
    socket.on('close', () => this.#onClose());
    socket.on('pong', () => {
      this.#alive = true;
    });
    this.#heartbeat = setInterval(() => this.#beat(), services.config.wsPingMs);
  }

  #beat(): void {
    if (!this.#alive) {
      this.#socket.terminate();
      return;
    }
    this.#alive = false;
    this.#socket.ping();
  }

  #onClose(): void {
    clearInterval(this.#heartbeat);
    for (const controller of this.#running.values()) controller.abort();
    this.#running.clear();
  }

  #onMessage(text: string, isBinary: boolean): void {
    this.#alive = true;
    let id: string | undefined;
    try {
      if (isBinary) {
        throw new LoramuxError('invalid_request', 'frames are JSON text, not binary');
      }
      const frame = parseFrame(text);
      if (typeof frame.id === 'string' && frame.id.length <= GENERATION_ID_LENGTH_MAX)
        id = frame.id;
      this.#dispatch(frame);
    } catch (error) {
      this.#reply(this.#errorFrame(id, error));
    }
  }

  #dispatch(frame: Json): void {
    switch (frame.type) {
      case 'generate': {
        dropNeutralFields(frame);
        this.#checks.generate(frame);
        this.#start(frame);
        return;
      }
      case 'cancel': {
        this.#checks.cancel(frame);
        // An unknown id is no error: the generation may have ended while the frame was on its way.
        this.#running.get(frame.id)?.abort();
        return;
      }
      case 'ping': {
        this.#checks.ping(frame);
        this.#reply({ type: 'pong' });
        return;
      }
      default:
        throw new LoramuxError('invalid_request', 'type must be generate, cancel or ping', {
          param: 'type',
        });
    }
  }

  #start(frame: GenerateFrame): void {
    const { id } = frame;
    const { maxGenerationsPerSocket } = this.#services.config;
    if (this.#running.has(id)) {
      throw new LoramuxError(
        'invalid_request',
        `a generation with id ${JSON.stringify(id)} runs on this socket; choose another id`,
        { param: 'id' },
      );
    }
    if (this.#services.lifecycle.draining) {
      throw new LoramuxError('shutting_down', 'the server is shutting down; retry elsewhere');
    }
    if (this.#running.size >= maxGenerationsPerSocket) {
      throw new LoramuxError(
        'socket_limit_exceeded',
        `${maxGenerationsPerSocket} generations run on this socket, its limit ` +
          '(--max-generations-per-socket); wait for one to end',
      );
    }
    const request = toGenerationRequest(frame, this.#services.model.name);
    const controller = new AbortController();
    this.#running.set(id, controller);
    this.#services.generator
      .start(request, controller.signal)
      .then((generation) => this.#pump(id, generation))
      .catch((error: unknown) => {
        // A defect while sending must not leave the generation running unread.
        controller.abort();
        this.#reply(this.#errorFrame(id, error));
      })
      .finally(() => {
        if (this.#running.get(id) === controller) this.#running.delete(id);
      });
  }

  /** Sends events as fast as the socket takes them; what waits meanwhile is bounded upstream. */
  async #pump(id: string, generation: Generation): Promise<void> {
    // Choices that never finish were cancelled.
    const reasons = new Array<FinishReason>(generation.choices).fill('cancelled');
    const stops = new Array<string | number | null>(generation.choices).fill(null);
    const answeredBy = generationOf(generation);
    for (;;) {
      await this.#drained;
      const events = await generation.next();
      if (events === undefined) break;
      for (const event of events) {
        if (event.type === 'error') {
          this.#sendError(id, event.error);
          return;
        }
        if (event.type === 'finish') {
          reasons[event.index] = event.reason;
          stops[event.index] = event.stopReason ?? null;
        }
        if (event.type !== 'finish' || event.text !== '') this.#sendToken(id, event, answeredBy);
      }
    }
    this.#send({
      type: 'done',
      id,
      finish_reasons: reasons,
      stop_reasons: stops,
      usage: wireUsage(generation.usage()),
      ...answeredBy,
    });
  }

  #sendToken(
    id: string,
    event: Exclude<GenerationEvent, { type: 'error' }>,
    answeredBy: { readonly adapter_generation?: string },
  ): void {
    const logprobs = wireLogprobs(event);
    this.#send({
      type: 'token',
      id,
      index: event.index,
      text: event.text,
      ...(event.type === 'token' && { token_id: event.tokenId }),
      ...(logprobs !== undefined && { logprobs }),
      ...answeredBy,
    });
  }

  #send(frame: ServerFrame): void {
    const socket = this.#socket;
    if (socket.readyState !== socket.OPEN) return;
    if (socket.bufferedAmount < SEND_BUFFER_HIGH_BYTES || this.#drained !== undefined) {
      socket.send(JSON.stringify(frame));
      return;
    }
    this.#drained = new Promise((resolve) => {
      socket.send(JSON.stringify(frame), () => {
        this.#drained = undefined;
        resolve();
      });
    });
  }

  /** Answers a frame at once. */
  #reply(frame: ServerFrame): void {
    const socket = this.#socket;
    if (socket.readyState !== socket.OPEN) return;
    if (this.#replyBytes > REPLY_BYTES_MAX) {
      this.#log.warn(`closed a WebSocket: ${this.#replyBytes} bytes of answers wait to be read`);
      socket.terminate();
      return;
    }
    const text = JSON.stringify(frame);
    this.#replyBytes += text.length;
    socket.send(text, () => {
      this.#replyBytes -= text.length;
    });
  }

  #sendError(id: string | undefined, thrown: unknown): void {
    this.#send(this.#errorFrame(id, thrown));
  }

  #errorFrame(id: string | undefined, thrown: unknown): ServerFrame {
    const error = toLoramuxError(thrown);
    if (error.code === 'internal_error') this.#log.error({ err: error }, error.message);
    return { type: 'error', ...(id !== undefined && { id }), ...errorBody(error) };
  }
}
