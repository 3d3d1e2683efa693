/** A bound on the values of one label: what comes after the first N distinct ones is `other`. */

export const OTHER_LABEL = 'other';

export class LabelCap {
  readonly #max: number;
  readonly #known = new Set<string>();

  /** @param max distinct values that get a label of their own. */
  constructor(max: number) {
    this.#max = max;
  }

  label(value: string): string {
    if (this.#known.has(value)) return value;
    if (this.#known.size >= this.#max) return OTHER_LABEL;
    this.#known.add(value);
    return value;
  }

  /** Frees the place of a value that will not come again; true when it had one. */
  forget(value: string): boolean {
    return this.#known.delete(value);
  }
}
