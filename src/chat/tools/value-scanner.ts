/** Finds the end of a JSON value, a character at a time, without checking what is inside. */

export const isSpace = (char: string): boolean =>
  char === ' ' || char === '\n' || char === '\t' || char === '\r';

/** False for a sign that stands between values. */
export const beginsValue = (char: string): boolean => !',:}]'.includes(char);

/** The value goes on, ends with this character, or ended before it. */
export type ValueState = 'more' | 'end' | 'past';

export class ValueScanner {
  readonly #keep: boolean;
  #text = '';
  #depth = 0;
  #kind: 'unknown' | 'string' | 'nested' | 'bare' = 'unknown';
  #inString = false;
  #escaped = false;

  /** @param options.keep collect the value's text */
  constructor(options: { keep: boolean }) {
    this.#keep = options.keep;
  }

  /** The value so far, when it is kept. */
  get text(): string {
    return this.#text;
  }

  push(char: string): ValueState {
    const state = this.#step(char);
    if (this.#keep && state !== 'past') this.#text += char;
    return state;
  }

  #step(char: string): ValueState {
    if (this.#kind === 'unknown') return this.#first(char);
    if (this.#kind === 'bare') {
      const over = isSpace(char) || char === ',' || char === '}' || char === ']';
      return over ? 'past' : 'more';
    }
    if (this.#inString) return this.#stringStep(char);
    if (char === '"') this.#inString = true;
    else if (char === '{' || char === '[') this.#depth += 1;
    else if (char === '}' || char === ']') this.#depth -= 1;
    return this.#depth === 0 ? 'end' : 'more';
  }

  #first(char: string): ValueState {
    if (char === '{' || char === '[') {
      this.#kind = 'nested';
      this.#depth = 1;
    } else if (char === '"') {
      this.#kind = 'string';
      this.#inString = true;
    } else {
      this.#kind = 'bare';
      // Where a value should be, another sign: it is none, and reading goes on with the sign.
      if (!beginsValue(char)) return 'past';
    }
    return 'more';
  }

  #stringStep(char: string): ValueState {
    if (this.#escaped) this.#escaped = false;
    else if (char === '\\') this.#escaped = true;
    else if (char === '"') {
      this.#inString = false;
      return this.#kind === 'string' ? 'end' : 'more';
    }
    return 'more';
  }
}
