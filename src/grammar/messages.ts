/** What the main thread and a grammar thread say to each other. */
import type { PackedError } from '../threads/packed-error.ts';
import type { KeyedConstraint } from './source.ts';

/** Given to a thread once, at its start. */
export interface ThreadSetup {
  readonly modelDir: string;
  /** Rows of the model's output; ids without a token are never allowed. */
  readonly vocabSize: number;
  /** Allowed where a text may end. */
  readonly stopTokenIds: readonly number[];
  /** Memory of the masks, see mask-memory.ts. */
  readonly words: Int32Array;
  readonly stride: number;
  /** Of its token ring, see token-ring.ts. */
  readonly ring: Int32Array;
}

/** With the bell of the token ring after it. */
export type ToThread =
  | { readonly kind: 'compile'; readonly asked: KeyedConstraint }
  | { readonly kind: 'drop'; readonly key: string }
  /** A choice that has these tokens already; its masks go to the slot. */
  | {
      readonly kind: 'open';
      readonly id: number;
      readonly key: string;
      readonly slot: number;
      readonly tokens: Int32Array;
    };

export type FromThread =
  | { readonly kind: 'ready' }
  /** `length`: characters of all its texts. */
  | { readonly kind: 'compiled'; readonly ms: number; readonly length: number }
  /** No grammar can be made of the constraint. */
  | { readonly kind: 'unusable'; readonly error: PackedError }
  /** Not a grammar; the thread is not to be used any more. */
  | { readonly kind: 'refused'; readonly reason: string }
  /** Nothing is written to the slot any more. */
  | { readonly kind: 'closed'; readonly id: number };
