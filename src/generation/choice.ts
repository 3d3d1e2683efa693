/** One choice of a request: tokens in, safe text out, until a stop string, a stop token or the end. */
import type { TokenEvent, TokenLogprobs } from '../engine/types.ts';
import type { Detokenizer, Tokenizer } from '../tokenizer/tokenizer.ts';
import { StopMatcher, type StopPattern } from './stop-matcher.ts';
import type { GenerationEvent, GenerationRequest, TextLogprobs } from './types.ts';

export type FinishedChoice = Extract<GenerationEvent, { type: 'finish' }>;

export type ChoiceOptions = Pick<GenerationRequest, 'includeStopInOutput' | 'skipSpecialTokens'> & {
  readonly index: number;
  readonly stops: readonly StopPattern[];
  readonly stopTokenIds: ReadonlySet<number>;
  readonly minTokens: number;
  /** The prompt's tokens: they decide about the leading space. */
  readonly promptTokenIds: Int32Array;
  /** Length of the echoed prompt in code points, where the generated text starts. */
  readonly textStart: number;
};

/** Characters as clients in most languages count them: code points, not UTF-16 units. */
export function codePoints(text: string): number {
  let count = text.length;
  for (let i = 0; i < text.length; i++) {
    const unit = text.charCodeAt(i);
    if (unit >= 0xdc00 && unit <= 0xdfff) count -= 1;
  }
  return count;
}

/** Log-probabilities of one token with the texts clients see. */
export function textLogprobs(
  tokenizer: Tokenizer,
  logprobs: TokenLogprobs,
  textOffset: number,
): TextLogprobs {
  return {
    token: tokenizer.tokenText(logprobs.tokenId),
    tokenId: logprobs.tokenId,
    logprob: logprobs.logprob,
    rank: logprobs.rank,
    top: logprobs.top.map(({ tokenId, logprob }) => ({
      token: tokenizer.tokenText(tokenId),
      tokenId,
      logprob,
    })),
    textOffset,
  };
}

export class Choice {
  readonly #tokenizer: Tokenizer;
  readonly #options: ChoiceOptions;
  readonly #detokenizer: Detokenizer;
  readonly #matcher: StopMatcher;
  /** End of the detokenised text so far in code points, held-back text included. */
  #textEnd: number;
  #numTokens = 0;
  #finished = false;

  constructor(tokenizer: Tokenizer, options: ChoiceOptions) {
    this.#tokenizer = tokenizer;
    this.#options = options;
    this.#detokenizer = tokenizer.createDetokenizer({
      skipSpecialTokens: options.skipSpecialTokens,
      context: options.promptTokenIds,
    });
    this.#matcher = new StopMatcher(options.stops, options.includeStopInOutput);
    this.#textEnd = options.textStart;
  }

  /** Number of the choice in the whole request. */
  get index(): number {
    return this.#options.index;
  }

  get numTokens(): number {
    return this.#numTokens;
  }

  get finished(): boolean {
    return this.#finished;
  }

  /** One or two events: the token, and the end when it completed a stop string. */
  token(event: TokenEvent): GenerationEvent[] {
    const { index, stopTokenIds, includeStopInOutput, minTokens } = this.#options;
    this.#numTokens += 1;
    const offset = this.#textEnd;
    // A stop token ends the text without being part of it.
    const silent = stopTokenIds.has(event.tokenId) && !includeStopInOutput;
    const piece = silent ? '' : this.#detokenizer.push(event.tokenId);
    this.#textEnd += codePoints(piece);
    // Like stop tokens, stop strings count only from min_tokens on.
    const early = this.#numTokens < minTokens;
    const { text, stop } = early ? { text: piece, stop: undefined } : this.#matcher.push(piece);
    const token: GenerationEvent = {
      type: 'token',
      index,
      tokenId: event.tokenId,
      text,
      logprobs: event.logprobs && textLogprobs(this.#tokenizer, event.logprobs, offset),
    };
    if (stop === undefined) return [token];
    this.#finished = true;
    return [token, { type: 'finish', index, text: '', reason: 'stop', stopReason: stop }];
  }

  /** The engine ended the choice; a stop string may still appear in the last held-back bytes. */
  end(reason: 'stop' | 'length', stopTokenId: number | undefined): FinishedChoice {
    this.#finished = true;
    const { index } = this.#options;
    const last = this.#matcher.push(this.#detokenizer.flush());
    if (last.stop !== undefined) {
      return { type: 'finish', index, text: last.text, reason: 'stop', stopReason: last.stop };
    }
    const text = last.text + this.#matcher.flush();
    return { type: 'finish', index, text, reason, stopReason: stopTokenId };
  }
}
