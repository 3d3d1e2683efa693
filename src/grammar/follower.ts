/** One choice of a request: what its text may go on with. */
import type { CompiledGrammar, GrammarMatcher } from '@mlc-ai/web-xgrammar';
import { isContinuation, sequenceLength } from '../tokenizer/utf8.ts';
import type { GrammarSource } from './source.ts';
import type { Vocabulary } from './vocabulary.ts';

/** A grammar as the thread prepared it. */
export interface PreparedGrammar {
  readonly exact: CompiledGrammar;
  /** What stands in for it, by bound; see source.ts. */
  readonly relaxed: readonly {
    readonly bound: number;
    readonly settledAfter: GrammarSource['settledAfter'];
    readonly grammar: CompiledGrammar;
  }[];
  readonly ambiguous: boolean;
  readonly counts: GrammarSource['counts'];
  readonly settledAfter: GrammarSource['settledAfter'];
}

/** One token in so many may be tried for a mask; where there are more, the whole mask is made anew. */
const TRIED_PART = 64;
const NONE = new Int32Array();
const QUOTE = 0x22;
const BACKSLASH = 0x5c;

/** Characters after a backslash that may belong to its escape. */
const ESCAPE_LENGTH_MAX = 5;

/** Where the text is, as far as quotation marks and backslashes tell. */
class TextPlace {
  /** Characters since the last quotation mark that is none of a string's own; or all. */
  value = 0;
  /** The highest value so far. */
  peak = 0;
  readonly #all: boolean;
  #escaped = false;
  #inString = false;
  /** Characters of the string since it began or last had an escape, which may count as less. */
  #plain = 0;
  /** Bytes that the last character lacks. */
  missing = 0;

  /** @param all the whole text is counted, which may be no JSON */
  constructor(all: boolean) {
    this.#all = all;
  }

  /**
   * An escape counts as several characters: what the value decides is then decided earlier.
   * @returns whether the bytes end no string and are no part of an escape that they begin
   */
  add(bytes: Uint8Array): boolean {
    let plain = bytes.length > 0;
    for (const byte of bytes) {
      const ends = byte === QUOTE && !this.#escaped;
      if (ends || byte === BACKSLASH) plain = false;
      if (ends && !this.#all) this.value = 0;
      else if (!isContinuation(byte)) this.value += 1;
      if (this.value > this.peak) this.peak = this.value;
      this.#escaped = byte === BACKSLASH && !this.#escaped;
      this.#follow(byte, ends);
    }
    return plain;
  }

  #follow(byte: number, ends: boolean): void {
    if (ends) this.#inString = !this.#inString;
    if (ends) this.#plain = 0;
    else if (byte === BACKSLASH) this.#plain = -ESCAPE_LENGTH_MAX;
    else if (isContinuation(byte)) this.missing -= 1;
    else {
      this.#plain += 1;
      this.missing = sequenceLength(byte) - 1;
    }
  }

  /** Whether it is in a string of JSON, after more than so many whole characters. */
  isBeyond(length: number): boolean {
    const whole = this.missing > 0 ? this.#plain - 1 : this.#plain;
    return this.#inString && whole > length;
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
  readonly #place: TextPlace;
  /** Masks of the place where the text stays with plain characters, and the grammar they are of. */
  #settled: { readonly by: number; readonly masks: Map<number, Int32Array> } | undefined;
  #failed = false;

  constructor(grammar: PreparedGrammar, vocabulary: Vocabulary, matcherOf: MatcherOf) {
    this.#grammar = grammar;
    this.#vocabulary = vocabulary;
    this.#matcherOf = matcherOf;
    this.#matchers = Array.from({ length: grammar.relaxed.length + 1 }, () => undefined);
    this.#place = new TextPlace(grammar.counts === 'text');
  }

  get numTokens(): number {
    return this.#tokens.length;
  }

  accept(tokenId: number): void {
    this.#tokens.push(tokenId);
    const plain = this.#place.add(this.#vocabulary.bytesOf(tokenId));
    if (!plain) this.#settled = undefined;
    for (const matcher of this.#matchers) {
      if (matcher?.acceptToken(tokenId) === false) this.#failed = true;
    }
  }

  /**
   * int32 [vocabSize / 32]: a bit for each token that may come next; undefined after one that may not.
   * An array that it gave before where the text is in the same place again.
   */
  async mask(): Promise<Int32Array | undefined> {
    const known = this.#knownMask();
    if (known !== undefined) return known;
    const { by, tried } = this.#choose();
    const matcher = await this.#open(by);
    const mask = await matcher?.getNextTokenBitmask();
    if (mask === undefined || !(await this.#try(tried, mask))) return undefined;
    const forbidden = this.#vocabulary.forbiddenAfter.get(this.#lead);
    if (forbidden !== undefined) {
      for (let i = 0; i < forbidden.length; i++) mask[i]! &= ~forbidden[i]!;
    }
    if (tried.length === 0 && this.#isSettled(by)) {
      if (this.#settled?.by !== by) this.#settled = { by, masks: new Map() };
      this.#settled.masks.set(this.#within, mask);
    }
    return mask;
  }

  /** The mask, if it is one that was given before. */
  #knownMask(): Int32Array | undefined {
    const settled = this.#settled;
    if (settled === undefined || this.#failed) return undefined;
    const { by, tried } = this.#choose();
    if (by !== settled.by || tried.length > 0 || !this.#isSettled(by)) return undefined;
    return settled.masks.get(this.#within);
  }

  /** The last byte where it narrows what may follow, else 0. */
  get #lead(): number {
    return this.#vocabulary.narrowing[this.#tokens.at(-1) ?? -1] ?? 0;
  }

  /** Where the text is within a character. */
  get #within(): number {
    return this.#place.missing * 256 + this.#lead;
  }

  /** Whether any plain character leaves the text in the same place of the grammar. */
  #isSettled(by: number): boolean {
    const { relaxed, settledAfter: exact } = this.#grammar;
    const settledAfter = by === relaxed.length ? exact : relaxed[by]!.settledAfter;
    return settledAfter !== undefined && this.#place.isBeyond(settledAfter);
  }

  /** The grammar that gives the next mask, and tokens that the exact one may not allow nevertheless. */
  #choose(): { by: number; tried: Int32Array } {
    const { relaxed, ambiguous } = this.#grammar;
    const { lengths } = this.#vocabulary;
    for (const [by, { bound }] of relaxed.entries()) {
      const left = bound - this.#place.value;
      // A longer string has ruled values out that this grammar still has.
      if (left < 0 || (ambiguous && this.#place.peak > bound)) continue;
      const tried = lengths.longerThan(left);
      if (tried.length <= lengths.size / TRIED_PART) return { by, tried };
    }
    return { by: relaxed.length, tried: NONE };
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
