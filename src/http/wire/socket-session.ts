/** One WebSocket: several generations at once, each with the id the client chose. */
import type { Socket } from 'node:net';
import type { FastifyBaseLogger } from 'fastify';
import type { WebSocket } from 'ws';
import { LoramuxError, shuttingDown, toLoramuxError } from '../../errors.ts';
import type { Turns } from '../plugins/turns.ts';
import { errorBody } from '../schemas/error.ts';
import { GENERATION_ID_LENGTH_MAX } from '../schemas/limits.ts';
import { type CreditFrame, FRAME_TYPES, type GenerateFrame } from '../schemas/stream.ts';
import { dropNeutralFields, SOCKET_UNSUPPORTED } from '../schemas/unsupported.ts';
import type { HttpServices } from '../services.ts';
import { toGenerationRequest } from './completion-request.ts';
import { SocketGeneration } from './socket-generation.ts';
import { SocketWriter } from './socket-writer.ts';

/** Why the server closes a socket (RFC 6455, 7.4.1). */
export const CLOSE_CODES = {
  /** The server ends. */
  goingAway: 1001,
  /** The peer asks and does not read the answers. */
  policy: 1008,
  /** A defect of the server. */
  internal: 1011,
} as const;

/** Checks a frame's shape. @throws LoramuxError unknown_field, invalid_request */
export interface FrameChecks {
  generate(frame: unknown): asserts frame is GenerateFrame;
  cancel(frame: unknown): asserts frame is { type: 'cancel'; id: string };
  credit(frame: unknown): asserts frame is CreditFrame;
  ping(frame: unknown): asserts frame is { type: 'ping' };
}

export interface SocketOptions {
  readonly services: HttpServices;
  readonly checks: FrameChecks;
  readonly log: FastifyBaseLogger;
  /** Shared by all sockets. */
  readonly turns: Turns;
  /** What the WebSocket lies on. */
  readonly connection: Pick<Socket, 'bytesWritten' | 'writableLength'>;
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

const idOf = ({ id }: Json) =>
  typeof id === 'string' && id.length <= GENERATION_ID_LENGTH_MAX ? id : undefined;

const typeOf = ({ type }: Json) => FRAME_TYPES.find((known) => known === type);

export class SocketSession {
  readonly #socket: WebSocket;
  readonly #options: SocketOptions;
  readonly #writer: SocketWriter;
  /** Generations whose last frame was not sent, by the client's id. */
  readonly #running = new Map<string, SocketGeneration>();
  /** The peer gave a sign of life since the last ping. */
  #alive = true;
  /** Bytes were waiting to be sent at the last ping, and how many had been sent then. */
  #behind = false;
  #sentBytes = 0;
  readonly #heartbeat: NodeJS.Timeout;

  constructor(socket: WebSocket, options: SocketOptions) {
    this.#socket = socket;
    this.#options = options;
    this.#writer = new SocketWriter(socket, (bytes) => {
      options.log.warn(`closed a WebSocket: ${bytes} bytes of answers wait to be read`);
      this.#end();
      socket.close(CLOSE_CODES.policy, 'answers wait to be read');
    });
    socket.on('message', (data, isBinary) => this.#onMessage(String(data), isBinary));
    socket.on('close', () => this.#end());
    for (const sign of ['ping', 'pong'] as const) {
      socket.on(sign, () => {
        this.#alive = true;
      });
    }
    this.#heartbeat = setInterval(() => this.#beat(), options.services.config.wsPingMs);
  }

  #beat(): void {
    const { bytesWritten, writableLength } = this.#options.connection;
    const sentBytes = bytesWritten - writableLength;
    // The ping waits behind what a slow peer has not read; that it reads is a sign of life too.
    const reads = this.#behind && sentBytes > this.#sentBytes;
    if (!this.#alive && !reads) {
      this.#socket.terminate();
      return;
    }
    this.#alive = false;
    this.#behind = writableLength > 0;
    this.#sentBytes = sentBytes;
    this.#socket.ping();
  }

  #end(): void {
    clearInterval(this.#heartbeat);
    for (const generation of this.#running.values()) generation.abandon();
    this.#running.clear();
  }

  #onMessage(text: string, isBinary: boolean): void {
    // Frames may still come in while the socket closes.
    if (this.#socket.readyState !== this.#socket.OPEN) return;
    this.#alive = true;
    let frame: Json | undefined;
    try {
      if (isBinary) {
        throw new LoramuxError('invalid_request', 'frames are JSON text, not binary');
      }
      frame = parseFrame(text);
      this.#dispatch(frame);
    } catch (error) {
      this.#refuse(frame, error);
    }
  }

  #dispatch(frame: Json): void {
    switch (frame.type) {
      case 'generate': {
        dropNeutralFields(frame, SOCKET_UNSUPPORTED);
        this.#options.checks.generate(frame);
        this.#start(frame);
        return;
      }
      // An unknown id is no error for these two: the generation may have ended meanwhile.
      case 'cancel': {
        this.#options.checks.cancel(frame);
        this.#running.get(frame.id)?.cancel();
        return;
      }
      case 'credit': {
        this.#options.checks.credit(frame);
        this.#running.get(frame.id)?.addCredit(frame.frames);
        return;
      }
      case 'ping': {
        this.#options.checks.ping(frame);
        this.#writer.reply({ type: 'pong' });
        return;
      }
      default:
        throw new LoramuxError('invalid_request', `type must be one of ${FRAME_TYPES.join(', ')}`, {
          param: 'type',
        });
    }
  }

  #start({ window, ...frame }: GenerateFrame): void {
    const { id } = frame;
    const { config, lifecycle, model, generator } = this.#options.services;
    if (this.#running.has(id)) {
      throw new LoramuxError(
        'invalid_request',
        `a generation with id ${JSON.stringify(id)} runs on this socket; choose another id`,
        { param: 'id' },
      );
    }
    if (lifecycle.draining) {
      throw shuttingDown();
    }
    if (this.#running.size >= config.maxGenerationsPerSocket) {
      throw new LoramuxError(
        'socket_limit_exceeded',
        `${config.maxGenerationsPerSocket} generations run on this socket, its limit ` +
          '(--max-generations-per-socket); wait for one to end',
      );
    }
    const request = toGenerationRequest(frame, model.name, true);
    const generation = new SocketGeneration(id, this.#writer, window ?? undefined);
    this.#running.set(id, generation);
    this.#options.turns.take(() => {
      // The socket was closed before its turn.
      if (this.#running.get(id) !== generation) return;
      generation
        .run((signal) => generator.start(request, signal))
        .catch((error: unknown) => {
          // A defect while sending must not leave the generation running unread.
          generation.cancel();
          return generation.end({ type: 'error', id, ...this.#errorBody(error) });
        })
        .finally(() => {
          if (this.#running.get(id) === generation) this.#running.delete(id);
        });
    });
  }

  /** An error with an id says that its generation is over, so it never names one that goes on. */
  #refuse(frame: Json | undefined, thrown: unknown): void {
    const id = frame && idOf(frame);
    const goesOn = id !== undefined && this.#running.has(id);
    const type = frame && typeOf(frame);
    this.#writer.reply({
      type: 'error',
      ...(id !== undefined && !goesOn && { id }),
      ...(goesOn && type !== undefined && { refused: { type, id } }),
      ...this.#errorBody(thrown),
    });
  }

  #errorBody(thrown: unknown) {
    const error = toLoramuxError(thrown);
    if (error.code === 'internal_error') this.#options.log.error({ err: error }, error.message);
    return errorBody(error);
  }
}
