/**
 * Tokens on their way to a grammar thread, in memory that both sides share, and the bell that wakes
 * it. A message with the tokens of each step would take both sides longer than many a mask does.
 */

/** Changes whenever there is something to do: tokens here, or a message. */
const BELL = 0;
/** Tokens put in and taken out since the start, modulo 2^32. */
const WRITTEN = 1;
const TAKEN = 2;
const HEADER_WORDS = 16;
/** In a token's place: the choice has no more of them, and those before it are still followed. */
export const CLOSE = -1;
/** Entries of one choice that may be under way: its next token is sampled with the mask of the last. */
const ENTRIES_PER_CHOICE = 2;

export class TokenRing {
  /** int32 [header, then pairs of a choice's number and its token] */
  readonly words: Int32Array;
  readonly #capacity: number;
  /** Put in or taken out by this side. */
  #count = 0;

  /** @param words of the other side, which has nothing under way yet */
  constructor(words: Int32Array) {
    this.words = words;
    this.#count = Atomics.load(words, TAKEN);
    this.#capacity = (words.length - HEADER_WORDS) / 2;
  }

  /** @param choicesMax that may be open, or have closed without the other side knowing yet */
  static forChoices(choicesMax: number): TokenRing {
    // A power of two: places go on in order where the count begins anew.
    const capacity = 2 ** Math.ceil(Math.log2(choicesMax * ENTRIES_PER_CHOICE));
    return new TokenRing(new Int32Array(new SharedArrayBuffer(4 * (HEADER_WORDS + 2 * capacity))));
  }

  #at(count: number): number {
    return HEADER_WORDS + 2 * ((count >>> 0) % this.#capacity);
  }

  /** Seen by the other side after `publish`. */
  put(id: number, tokenId: number): void {
    const { words } = this;
    if (((this.#count - Atomics.load(words, TAKEN)) | 0) >= this.#capacity) {
      throw new RangeError(`More than ${this.#capacity} tokens are under way to a grammar thread`);
    }
    const at = this.#at(this.#count);
    words[at] = id;
    words[at + 1] = tokenId;
    this.#count = (this.#count + 1) | 0;
  }

  /** Whether there is anything new. */
  publish(): boolean {
    if (Atomics.load(this.words, WRITTEN) === this.#count) return false;
    Atomics.store(this.words, WRITTEN, this.#count);
    return true;
  }

  /** Wakes the thread. */
  ring(): void {
    Atomics.add(this.words, BELL, 1);
    Atomics.notify(this.words, BELL);
  }

  /** Calls `each` with all tokens that were published. */
  async takeAll(each: (id: number, tokenId: number) => Promise<void>): Promise<void> {
    const { words } = this;
    const end = Atomics.load(words, WRITTEN);
    while (this.#count !== end) {
      const at = this.#at(this.#count);
      await each(words[at]!, words[at + 1]!);
      this.#count = (this.#count + 1) | 0;
      Atomics.store(words, TAKEN, this.#count);
    }
  }

  /** What `wait` compares with: to be asked before looking for something to do. */
  get bell(): number {
    return Atomics.load(this.words, BELL);
  }

  /** Blocks until the bell has rung since. */
  wait(bell: number): void {
    Atomics.wait(this.words, BELL, bell);
  }
}
