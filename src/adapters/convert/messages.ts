/** What the main thread and a conversion thread say to each other. */
import type { PackedError } from '../../threads/packed-error.ts';
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
  | { readonly kind: 'error'; readonly error: PackedError };
