/** Everything the client throws on purpose. */
import type { Error as WireError } from './openapi.ts';

/** Characters of an answer that is not the server's which an error repeats. */
const FOREIGN_TEXT_MAX = 200;

export interface LoramuxErrorDetails {
  readonly status?: number | undefined;
  readonly type?: string | undefined;
  readonly param?: string | null | undefined;
  readonly requestId?: string | undefined;
  readonly retryAfterMs?: number | undefined;
  readonly currentGeneration?: string | null | undefined;
  readonly tokens?: number | undefined;
  readonly cause?: unknown;
}

/**
 * What a server refused, or what went wrong on the way to it. `code` is one of the server's
 * (docs/errors.md) or one of the client's own (docs/client.md).
 */
export class LoramuxError extends Error {
  override readonly name = 'LoramuxError';
  readonly code: string;
  /** HTTP status; undefined when no answer came, and for errors inside a stream. */
  readonly status: number | undefined;
  readonly type: string | undefined;
  /** The request field at fault. */
  readonly param: string | null;
  /** The answer's `x-request-id`, where a proxy or gateway sets one. */
  readonly requestId: string | undefined;
  /** How long the server asks to wait before the next try. */
  readonly retryAfterMs: number | undefined;
  /** With `generation_mismatch`: what is current; null when there is no such name. */
  readonly currentGeneration: string | null | undefined;
  /** With `connection_lost` in a stream: token events that had come. */
  readonly tokens: number | undefined;

  constructor(code: string, message: string, details: LoramuxErrorDetails = {}) {
    super(message, details.cause === undefined ? {} : { cause: details.cause });
    this.code = code;
    this.status = details.status;
    this.type = details.type;
    this.param = details.param ?? null;
    this.requestId = details.requestId;
    this.retryAfterMs = details.retryAfterMs;
    this.currentGeneration = details.currentGeneration;
    this.tokens = details.tokens;
  }
}

/** Seconds or an HTTP date, as milliseconds from now; undefined for neither. */
export function retryAfterMs(value: string | null, nowMs: number): number | undefined {
  if (value === null) return undefined;
  if (/^\d+(\.\d+)?$/.test(value.trim())) return Number(value) * 1000;
  const atMs = Date.parse(value);
  return Number.isNaN(atMs) ? undefined : Math.max(0, atMs - nowMs);
}

/** The error object of an answer, an event or a frame; undefined when it is none. */
export function wireErrorOf(value: unknown): WireError['error'] | undefined {
  if (typeof value !== 'object' || value === null || !('error' in value)) return undefined;
  const { error } = value;
  if (typeof error !== 'object' || error === null) return undefined;
  return typeof (error as { code?: unknown }).code === 'string'
    ? (error as WireError['error'])
    : undefined;
}

export function fromWire(error: WireError['error'], more: LoramuxErrorDetails = {}): LoramuxError {
  const { code, message, type, param, current_generation: currentGeneration } = error;
  return new LoramuxError(code, message, { type, param, currentGeneration, ...more });
}

/** The error that an answer with this status and text is. */
export function errorOfAnswer(status: number, headers: Headers, text: string): LoramuxError {
  const details: LoramuxErrorDetails = {
    status,
    requestId: headers.get('x-request-id') ?? undefined,
    retryAfterMs: retryAfterMs(headers.get('retry-after'), Date.now()),
  };
  let body: unknown;
  try {
    body = JSON.parse(text);
  } catch {
    // A proxy's page; the message below shows how it begins.
  }
  const error = wireErrorOf(body);
  if (error !== undefined) return fromWire(error, details);
  const shown = text.slice(0, FOREIGN_TEXT_MAX);
  return new LoramuxError(`http_${status}`, `HTTP ${status}: ${shown}`, details);
}
