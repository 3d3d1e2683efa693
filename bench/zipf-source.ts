/** Seeded Zipf numbers: 0 is the most popular of `count`. */
export class ZipfSource {
  readonly #cumulative: Float64Array;
  #state: number;

  constructor(count: number, exponent: number, seed: number) {
    this.#cumulative = new Float64Array(count);
    let sum = 0;
    for (let i = 0; i < count; i++) {
      sum += 1 / (i + 1) ** exponent;
      this.#cumulative[i] = sum;
    }
    this.#state = seed >>> 0;
  }

  next(): number {
    const point = this.#uniform() * this.#cumulative.at(-1)!;
    let low = 0;
    let high = this.#cumulative.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#cumulative[middle]! < point) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** Mulberry32. */
  #uniform(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let t = this.#state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  }
}
