/** Tokens that are never sampled where they are most of the vocabulary: all but a few. */

const BITS = 32;

/** Its items are the banned tokens, ascending. */
export class BannedTokens implements Iterable<number> {
  readonly vocabSize: number;
  /** int32 [vocabSize / 32, rounded up]: a bit for each token that is not banned, as in a token mask. */
  readonly allowed: Int32Array;

  /** @param allowed tokens below `vocabSize` */
  constructor(allowed: Iterable<number>, vocabSize: number) {
    this.vocabSize = vocabSize;
    this.allowed = new Int32Array(Math.ceil(vocabSize / BITS));
    for (const id of allowed) this.allowed[Math.floor(id / BITS)]! |= 1 << (id % BITS);
  }

  *[Symbol.iterator](): Generator<number> {
    for (let id = 0; id < this.vocabSize; id++) {
      const word = this.allowed[Math.floor(id / BITS)]!;
      if ((word & (1 << (id % BITS))) === 0) yield id;
    }
  }
}
