/** Types between the request layer (generation) and the engine. Token ids only, no text. */
import type { WeightedAdapter } from '../adapters/types.ts';
import type { LoramuxError } from '../errors.ts';
import type { BannedTokens } from './banned-tokens.ts';

/** Masks of one choice's next tokens, computed elsewhere while steps run. */
export interface TokenMasks {
  /** Where they are written; may change between two steps. */
  readonly slot: number;
  /** The stamp they all have, where they are one that never changes. */
  readonly stamp?: number;
  /** The choice goes on with this token, and the mask of the one after it is wanted. */
  accept(tokenId: number): void;
  close(): void;
}

/** Which tokens may come next. */
export interface TokenConstraint {
  /** Begins with a choice that has these tokens already. */
  open(output: Int32Array): TokenMasks;
}

/** Validated sampling parameters; the names and meanings of OpenAI and vLLM. */
export interface SamplingParams {
  /** 0 is greedy. */
  temperature: number;
  /** 0 is off. */
  topK: number;
  topP: number;
  minP: number;
  repetitionPenalty: number;
  presencePenalty: number;
  frequencyPenalty: number;
  /** Unsigned 64-bit; the engine's caller draws one when the client gave none. */
  seed: bigint;
  /** Token id -> bias added to its logit. */
  logitBias: ReadonlyMap<number, number> | undefined;
  /** Tokens that are never sampled: a few, or all but some. */
  bannedTokenIds?: Int32Array | BannedTokens | undefined;
  /** int32 [length >= 2] each: never sampled as a whole. */
  bannedSequences?: readonly Int32Array[] | undefined;
  maxTokens: number;
  /** Token ids that end generation (end-of-sequence and the client's stop_token_ids). */
  stopTokenIds: ReadonlySet<number>;
  /** Stop tokens are not honoured before this many output tokens; their logits are masked. */
  minTokens: number;
  /** Top log-probabilities to return per token; undefined returns none at all. */
  logprobs: number | undefined;
  /** Log-probabilities of the prompt tokens: how many top entries; undefined for none. */
  promptLogprobs: number | undefined;
  /** Only tokens that it allows are sampled; stop tokens are among them where a text may end. */
  constraint?: TokenConstraint | undefined;
}

export interface EngineRequest {
  /** Unique while it lives. */
  id: string;
  promptTokenIds: Int32Array;
  /**
   * Their weighted deltas are added to the base model; none is the base alone. In any order, which
   * never matters. The caller holds no reference; the engine takes one to each.
   */
  adapters: readonly WeightedAdapter[];
  sampling: SamplingParams;
  /** Choices to generate from one prompt; they share the prompt's blocks. */
  n: number;
  /** Keeps the KV blocks of unrelated callers apart (part of every block hash). */
  cacheSalt: string;
  arrivalMs: number;
}

export interface TokenLogprobs {
  tokenId: number;
  logprob: number;
  /** 1 is the most likely token. */
  rank: number;
  /** Best first. */
  top: { tokenId: number; logprob: number }[];
}

export interface TokenEvent {
  /** Choice, 0 to n - 1. */
  index: number;
  tokenId: number;
  /** Present when the request asked for log-probabilities. */
  logprobs: TokenLogprobs | undefined;
}

export type FinishReason = 'stop' | 'length' | 'cancelled' | 'error';

export interface FinishEvent {
  index: number;
  reason: FinishReason;
  /** The stop token id that ended it, if one did. Its TokenEvent was delivered too. */
  stopTokenId: number | undefined;
  /** Set when reason is 'error'. */
  error: LoramuxError | undefined;
}

/**
 * Called by the engine while the next native step runs; must be quick and must not throw.
 * Exactly one onFinish per choice, after all its tokens, and nothing after it.
 */
export interface RequestListener {
  /**
   * The first step that computes the request has run. `waitMs` is the time from `submit` to that
   * step's plan: places, blocks and the adapter were waited for. At most once, before all tokens.
   */
  onScheduled?(waitMs: number): void;
  /** Prompt log-probabilities, once, before the first token; entry 0 is null (nothing precedes it). */
  onPromptLogprobs?(logprobs: (TokenLogprobs | null)[]): void;
  onToken(event: TokenEvent): void;
  onFinish(event: FinishEvent): void;
}

export interface EngineHandle {
  /** Ends all unfinished choices with 'cancelled' at the next step border; idempotent. */
  cancel(): void;
  /** Ends one choice as 'stop' (a stop string was seen); later tokens of it are dropped. */
  stop(index: number): void;
  /** Prompt tokens served from the prefix cache; set when the request first runs. */
  readonly cachedPromptTokens: number;
}

/** What the request layer sees of the engine. */
export interface Engine {
  /** Throws capacity_exceeded, context_length_exceeded, queue_full, shutting_down synchronously. */
  submit(request: EngineRequest, listener: RequestListener): EngineHandle;
  readonly limits: EngineLimits;
  /**
   * The most tokens that each of `n` choices may have after such a prompt; less than 1 when none
   * may.
   */
  outputRoom(promptTokens: number, n: number): number;
  stats(): EngineStats;
  /** Why the engine gave up; submissions are refused with it. undefined while it works. */
  readonly failure?: LoramuxError | undefined;
  /** Finishes or cancels everything, then stops the loop. */
  close(options?: { drainMs?: number }): Promise<void>;
}

export interface EngineLimits {
  /** Longest prompt plus output, tokens. */
  maxModelLen: number;
  maxQueuedRequests: number;
}

export interface EngineStats {
  running: number;
  waiting: number;
  blocksTotal: number;
  blocksFree: number;
  /** Free, but holding reusable prefix content. */
  blocksCached: number;
  blocksReferenced: number;
  steps: number;
  /** Of those, packed while the step before them ran. */
  preparedSteps: number;
  preemptions: number;
  prefixHitTokens: number;
  prefixQueryTokens: number;
  promptTokens: number;
  generatedTokens: number;
  /** Sums over steps, for means. */
  batchSequencesSum: number;
  batchAdaptersSum: number;
  maxAdaptersInOneStep: number;
  maxSequencesInOneStep: number;
  /** Milliseconds in native calls, and from one result to the next dispatch (commit + plan + pack). */
  nativeMsSum: number;
  outsideNativeMsSum: number;
  /**
   * Milliseconds from the end of one native step to the start of the next, over steps that followed
   * another at once: what `outsideNativeMsSum` holds and the way between the threads.
   */
  gapMsSum: number;
  /** Milliseconds that sampling waited for masks of allowed tokens. */
  maskWaitMsSum: number;
}
