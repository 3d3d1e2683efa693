/** One choice of a request: what its text may go on with. */
import type { CompiledGrammar, GrammarMatcher } from '@mlc-ai/web-xgrammar';
import type { Vocabulary } from './vocabulary.ts';

/** A grammar as the thread prepared it. */
export interface PreparedGrammar {
  readonly exact: CompiledGrammar;
  /** What stands in for it, by bound; see source.ts. */
  readonly relaxed: readonly { readonly bound: number; readonly grammar: CompiledGrammar }[];
  readonly ambiguous: boolean;
  readonly counts: 'string' | 'text';
}

/** One token in so many may be tried for a mask; where there are more, the whole mask is made anew. */
const TRIED_PART = 64;
const QUOTE = 0x22;
const BACKSLASH = 0x5c;

/** Counts the characters since the last quotation mark that is none of a string's own; or all. */
class Count {
  value = 0;
  /** The highest value so far. */
  peak = 0;
  readonly #all: boolean;
  #escaped = false;

  constructor(all: boolean) {
    this.#all = all;
  }

  /** An escape counts as several characters: what the count decides is then decided earlier. */
  add(bytes: Uint8Array): void {
    for (const byte of bytes) {
      if (byte === QUOTE && !this.#escaped && !this.#all) this.value = 0;
      else if ((byte & 0xc0) !== 0x80) this.value += 1;
      if (this.value > this.peak) this.peak = this.value;
      this.#escaped = byte === BACKSLASH && !this.#escaped;
    }
  }
}

type MatcherOf = (grammar: CompiledGrammar) => Promise<GrammarMatcher>;

export class Follower {
  readonly #grammar: PreparedGrammar;
  readonly #vocabulary: Vocabulary;
  readonly #matcherOf: MatcherOf;
  /** Of the relaxed grammars in their order, then of the exact one; made when they are needed. */
  readonly #matchers: (GrammarMatcher | undefined)[];
  readonly #tokens: number[] = [];
  readonly #count: Count;
  #failed = false;

  constructor(grammar: PreparedGrammar, vocabulary: Vocabulary, matcherOf: MatcherOf) {
    this.#grammar = grammar;
    this.#vocabulary = vocabulary;
    this.#matcherOf = matcherOf;
    this.#matchers = Array.from({ length: grammar.relaxed.length + 1 }, () => undefined);
    this.#count = new Count(grammar.counts === 'text');
  }

  get numTokens(): number {
    return this.#tokens.length;
  }

  accept(tokenId: number): void {
    this.#tokens.push(tokenId);
    this.#count.add(this.#vocabulary.bytesOf(tokenId));
    for (const matcher of this.#matchers) {
      if (matcher?.acceptToken(tokenId) === false) this.#failed = true;
    }
  }

  /** int32 [vocabSize / 32]: a bit for each token that may come next; undefined after one that may not. */
  async mask(): Promise<Int32Array | undefined> {
    const mask = await this.#grammarMask();
    const { forbiddenAfter, narrowing } = this.#vocabulary;
    const lead = narrowing[this.#tokens.at(-1) ?? -1] ?? 0;
    const forbidden = mask && forbiddenAfter.get(lead);
    if (forbidden !== undefined) {
      for (let i = 0; i < forbidden.length; i++) mask![i]! &= ~forbidden[i]!;
    }
    return mask;
  }

  async #grammarMask(): Promise<Int32Array | undefined> {
    const { relaxed, ambiguous } = this.#grammar;
    const { lengths } = this.#vocabulary;
    for (const [i, { bound }] of relaxed.entries()) {
      const left = bound - this.#count.value;
      // A longer string has ruled values out that this grammar still has.
      if (left < 0 || (ambiguous && this.#count.peak > bound)) continue;
      const long = lengths.longerThan(left);
      if (long.length > lengths.size / TRIED_PART) continue;
      const matcher = await this.#open(i);
      if (matcher === undefined) return undefined;
      const mask = await matcher.getNextTokenBitmask();
      return (await this.#try(long, mask)) ? mask : undefined;
    }
    const exact = await this.#open(relaxed.length);
    return exact?.getNextTokenBitmask();
  }

  end(): void {
    for (const matcher of this.#matchers) matcher?.dispose();
  }

  /** Takes those of the tokens out of the mask that the exact grammar does not allow. */
  async #try(tokens: Int32Array, mask: Int32Array): Promise<boolean> {
    for (const tokenId of tokens) {
      const bit = 1 << (tokenId & 31);
      if ((mask[tokenId >> 5]! & bit) === 0) continue;
      const exact = await this.#open(this.#grammar.relaxed.length);
      if (exact === undefined) return false;
      if (exact.acceptToken(tokenId)) exact.rollBack(1);
      else mask[tokenId >> 5]! &= ~bit;
    }
    return true;
  }

  /** The matcher, where the choice is now; undefined if its tokens are not allowed. */
  async #open(i: number): Promise<GrammarMatcher | undefined> {
    let matcher = this.#matchers[i];
    if (matcher === undefined) {
      const { relaxed, exact } = this.#grammar;
      matcher = await this.#matcherOf(relaxed[i]?.grammar ?? exact);
      this.#matchers[i] = matcher;
      for (const tokenId of this.#tokens) {
        if (this.#failed) break;
        this.#failed = !matcher.acceptToken(tokenId);
      }
    }
    return this.#failed ? undefined : matcher;
  }
}
