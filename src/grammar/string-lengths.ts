/** From which length on all strings of a grammar of JSON go on alike. */
import { WRITTEN_OUT_MAX } from './limits.ts';

/**
 * Notes what strings a grammar has. A string that is longer than every name and value that is written
 * out, and than every greatest length, is one of those that have none; whatever plain character it
 * goes on with, it stays in the same place of the grammar, and so does its mask.
 */
export class StringLengths {
  #least = 0;
  readonly #greatest: { readonly bound: number; readonly length: number }[] = [];
  #patterns = false;

  /** One that is written out, or the least length of one that is not. */
  atLeast(length: number): void {
    this.#least = Math.max(this.#least, length);
  }

  /**
   * Strings whose last `bound` characters are counted.
   * @param length of the whole string
   */
  atMost(bound: number, length = bound): void {
    this.#greatest.push({ bound, length });
  }

  /** A string has other places than its length says. */
  pattern(): void {
    this.#patterns = true;
  }

  /**
   * Characters beyond which a string stays in its place; undefined when that cannot be told.
   * @param boundMax greater lengths do not end a string, as in `Printer`
   */
  settledAfter(boundMax = Number.POSITIVE_INFINITY): number | undefined {
    if (this.#patterns) return undefined;
    let longest = this.#least;
    for (const { bound, length } of this.#greatest) {
      // Small bounds are written out whatever the greatest one is.
      if (bound <= Math.max(boundMax, WRITTEN_OUT_MAX)) longest = Math.max(longest, length);
    }
    return longest;
  }
}
