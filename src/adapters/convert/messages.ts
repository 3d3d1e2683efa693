/** What the main thread and a conversion thread say to each other. */
import { type ErrorCode, LoramuxError } from '../../errors.ts';
import type { MatchModule } from '../formats/peft-match.ts';
import type { ConvertJob, ConvertResult } from './canonicalize.ts';
import type { CheckedImage, OpenJob } from './open-canonical.ts';

/** Given to a thread once, at its start. */
export interface WorkerSetup {
  readonly modules: readonly MatchModule[];
}

export type WorkerRequest =
  | { readonly kind: 'convert'; readonly job: ConvertJob }
  | { readonly kind: 'open'; readonly job: OpenJob };

export type WorkerReply =
  | { readonly kind: 'convert'; readonly result: ConvertResult }
  | { readonly kind: 'open'; readonly result: CheckedImage }
  | { readonly kind: 'error'; readonly error: WorkerError };

/** A LoramuxError in parts: classes do not survive structured cloning. */
export interface WorkerError {
  /** Undefined for what is not a LoramuxError. */
  readonly code: ErrorCode | undefined;
  readonly message: string;
  readonly stack: string | undefined;
}

export function packError(error: unknown): WorkerError {
  const { message, stack } = error instanceof Error ? error : new Error(String(error));
  return { code: error instanceof LoramuxError ? error.code : undefined, message, stack };
}

export function unpackError(error: WorkerError): LoramuxError {
  const cause = new Error(error.message);
  if (error.stack !== undefined) cause.stack = error.stack;
  return new LoramuxError(error.code ?? 'internal_error', error.message, { cause });
}
