/** What the transport hands to the generation layer, and what it gets back. Typed values only. */
import type { AdapterRecord } from '../adapters/types.ts';
import type { SamplingParams, TokenLogprobs } from '../engine/types.ts';
import type { LoramuxError } from '../errors.ts';
import type { Constraint } from './constraint.ts';

export type Prompt =
  | { readonly kind: 'text'; readonly text: string }
  | { readonly kind: 'tokens'; readonly tokenIds: Int32Array }
  /** A chat: its text depends on the generation that answers, whose template may be its own. */
  | {
      readonly kind: 'chat';
      readonly render: (
        adapter: AdapterRecord | undefined,
        /** Gives up what waits; the promise rejects with its reason. */
        signal: AbortSignal,
      ) => Promise<string>;
      /** Whether the tokenizer adds its own tokens; templates mostly write them themselves. */
      readonly addSpecialTokens: boolean;
    };

/** An adapter by its name, or by the digest of one of its generations. */
export type AdapterRef =
  | { readonly by: 'name'; readonly name: string }
  | { readonly by: 'generation'; readonly digest: string };

/** What a request says of adapters beside its `model`. */
export type AdapterChoice =
  /** Nothing: an adapter that `model` names has this weight. */
  | { readonly kind: 'model'; readonly weight: number }
  /** One, where `model` names the base or agrees. */
  | { readonly kind: 'one'; readonly ref: AdapterRef; readonly weight: number }
  /** Their weighted sum; `model` names the base. */
  | {
      readonly kind: 'sum';
      readonly parts: readonly { readonly ref: AdapterRef; readonly weight: number }[];
    };

/** An adapter that answers, with its weight. */
export interface ChosenAdapter {
  readonly record: AdapterRecord;
  readonly weight: number;
}

/** One client request: every prompt gets `n` choices. Ranges are checked by the transport. */
export interface GenerationRequest {
  /** The base's name, an adapter's, or both with a colon between them. */
  model: string;
  adapter: AdapterChoice;
  /** Requests with equal keys get the same side of a split name; drawn when there is none. */
  splitKey?: string | undefined;
  prompts: readonly Prompt[];
  n: number;
  /** Answer with the prompt before the generated text. */
  echo: boolean;
  addSpecialTokens: boolean;
  skipSpecialTokens: boolean;
  stop: readonly string[];
  includeStopInOutput: boolean;
  ignoreEos: boolean;
  stopTokenIds: readonly number[];
  sampling: Omit<
    SamplingParams,
    | 'seed'
    | 'stopTokenIds'
    | 'promptLogprobs'
    | 'logitBias'
    | 'maxTokens'
    | 'bannedTokenIds'
    | 'bannedSequences'
  > & {
    /** Without one: as many as there is room for. */
    maxTokens: number | undefined;
    /** Drawn when the client gave none. */
    seed: bigint | undefined;
    logitBias: ReadonlyMap<number, number> | undefined;
  };
  cacheSalt: string;
  /** Cut prompts down to so many tokens, or to the room there is. */
  truncate?: { readonly tokens: number | 'room'; readonly side: 'left' | 'right' } | undefined;
  /** Show log-probabilities of the prompts, with so many likely tokens. */
  promptLogprobs?: number | undefined;
  /** Only these tokens are generated. */
  allowedTokenIds?: readonly number[] | undefined;
  /** Words that are not generated, wherever they begin. */
  badWords?: readonly string[] | undefined;
  /** What the text must be. */
  constraint?: Constraint | undefined;
  /** The same where it depends on the chat's template: asked for when the prompt is rendered. */
  lateConstraint?: (() => Constraint | undefined) | undefined;
}

/** A token's log-probabilities with the texts a client sees. */
export interface TextLogprobs {
  readonly token: string;
  readonly tokenId: number;
  /** null for the first prompt token, which nothing precedes. */
  readonly logprob: number | null;
  /** 1 is the likeliest token. */
  readonly rank: number | null;
  readonly top: readonly { token: string; tokenId: number; logprob: number }[] | null;
  /** Where the token's text starts in the choice's text, in code points. */
  readonly textOffset: number;
}

/** `index` numbers the choices of the whole request: prompt * n + choice. */
export type GenerationEvent =
  /** The prompt, once per choice and before its tokens, when the request asked for `echo`. */
  | {
      readonly type: 'echo';
      readonly index: number;
      readonly text: string;
      readonly logprobs: readonly TextLogprobs[] | undefined;
    }
  /** One generated token. The text may be empty or belong to earlier tokens (held-back text). */
  | {
      readonly type: 'token';
      readonly index: number;
      readonly tokenId: number;
      readonly text: string;
      readonly logprobs: TextLogprobs | undefined;
    }
  /** The end of one choice, with text that was still held back. */
  | {
      readonly type: 'finish';
      readonly index: number;
      readonly text: string;
      readonly reason: 'stop' | 'length';
      /** The stop string or stop token id that ended it, if one did. */
      readonly stopReason: string | number | undefined;
    }
  /** The end of the whole request. */
  | { readonly type: 'error'; readonly error: LoramuxError };

export interface Usage {
  promptTokens: number;
  completionTokens: number;
  /** Prompt tokens served from the prefix cache. */
  cachedTokens: number;
}

/** A running request. Exactly one reader. */
export interface Generation {
  readonly id: string;
  /** In the order of the request; none is the base. */
  readonly adapters: readonly ChosenAdapter[];
  readonly choices: number;
  /**
   * The events since the last call, `eventsMax` of them at most, or the next ones; undefined after
   * the last. With `timeoutMs`, an empty array when nothing happened in that time.
   */
  next(timeoutMs?: number, eventsMax?: number): Promise<GenerationEvent[] | undefined>;
  /**
   * Called once when the request fails, before `next` tells it: for a reader who holds off reading.
   */
  onFailure: (() => void) | undefined;
  /** Stops and frees everything; `next` answers undefined. Idempotent. */
  cancel(): void;
  usage(): Usage;
  /** The prompts, as they were computed; with log-probabilities when they are known and wanted. */
  readonly prompts: readonly {
    readonly tokenIds: Int32Array;
    readonly logprobs: readonly TextLogprobs[] | undefined;
  }[];
}

export type { TokenLogprobs };
