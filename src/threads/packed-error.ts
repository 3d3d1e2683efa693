/** Errors between threads: classes do not survive structured cloning. */
import { type ErrorCode, LoramuxError } from '../errors.ts';

/** A LoramuxError in parts. */
export interface PackedError {
  /** Undefined for what is not a LoramuxError. */
  readonly code: ErrorCode | undefined;
  readonly message: string;
  readonly param: string | undefined;
  readonly stack: string | undefined;
}

export function packError(error: unknown): PackedError {
  const { message, stack } = error instanceof Error ? error : new Error(String(error));
  const { code, param } = error instanceof LoramuxError ? error : {};
  return { code, message, param, stack };
}

export function unpackError({ code, message, param, stack }: PackedError): LoramuxError {
  const cause = new Error(message);
  if (stack !== undefined) cause.stack = stack;
  return new LoramuxError(code ?? 'internal_error', message, {
    cause,
    ...(param !== undefined && { param }),
  });
}
