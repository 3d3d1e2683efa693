/**
 * A bound on the values of one label: what comes after the first N distinct ones is `other`.
 *
 * A value's label is an object that its holders read when they count: it turns into `other` when the
 * value is forgotten, so that a request that outlives its adapter does not bring the series back.
 */

export const OTHER_LABEL = 'other';

export interface Label {
  readonly text: string;
}

const OTHER: Label = { text: OTHER_LABEL };

export class LabelCap {
  readonly #max: number;
  readonly #reserved: ReadonlySet<string>;
  readonly #known = new Map<string, { text: string }>();

  /**
   * @param max distinct values that get a label of their own
   * @param reserved labels with a meaning of their own: values that look like one are `other`
   */
  constructor(max: number, reserved: readonly string[] = []) {
    this.#max = max;
    this.#reserved = new Set([...reserved, OTHER_LABEL]);
  }

  label(value: string): Label {
    const known = this.#known.get(value);
    if (known !== undefined) return known;
    if (this.#known.size >= this.#max || this.#reserved.has(value)) return OTHER;
    const label = { text: value };
    this.#known.set(value, label);
    return label;
  }

  /** Values with a label of their own; at most the maximum. */
  values(): string[] {
    return [...this.#known.keys()];
  }

  /** Frees the place of a value that will not come again; true when it had one. */
  forget(value: string): boolean {
    const label = this.#known.get(value);
    if (label === undefined) return false;
    label.text = OTHER_LABEL;
    return this.#known.delete(value);
  }
}
