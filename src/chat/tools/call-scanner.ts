/** Reads one call, `{"name": ..., "arguments": {...}}`, a character at a time. */
import type { ToolEvent } from './types.ts';
import { beginsValue, isSpace, ValueScanner } from './value-scanner.ts';

/** Longest name of a tool; longer ones are no calls. */
export const TOOL_NAME_LENGTH_MAX = 256;

const ARGUMENT_KEYS: ReadonlySet<string> = new Set(['arguments', 'parameters']);

/** `more` characters are needed, the object is `done`, or it is no call (`invalid`). */
export type ScanState = 'more' | 'done' | 'invalid';

type Place = 'open' | 'key' | 'colon' | 'value' | 'comma';

const unquoted = (json: string): unknown => {
  try {
    return JSON.parse(json);
  } catch {
    return undefined;
  }
};

/**
 * The keys may come in any order; others than the two are skipped. The call is announced as soon as
 * its name is known and its arguments begin. From then on it is a call, whatever follows: arguments
 * are passed on as they are written, and whoever reads them checks them.
 */
export class CallScanner {
  readonly #emit: (event: ToolEvent) => void;
  #place: Place = 'open';
  #value: ValueScanner | undefined;
  #key = '';
  #name: string | undefined;
  /** Arguments that were written before the name. */
  #early = '';
  #hasArguments = false;
  /** The call event is out. */
  #announced = false;

  constructor(emit: (event: ToolEvent) => void) {
    this.#emit = emit;
  }

  get announced(): boolean {
    return this.#announced;
  }

  /** A complete object that has a name and no arguments is a call without any. */
  acceptBare(): boolean {
    if (this.#announced || this.#name === undefined || this.#hasArguments) return this.#announced;
    this.#announce(this.#name);
    this.#emit({ type: 'arguments', text: '{}' });
    return true;
  }

  push(char: string): ScanState {
    if (this.#value !== undefined) return this.#inValue(this.#value, char);
    if (isSpace(char)) return 'more';
    switch (this.#place) {
      case 'open':
        if (char !== '{') return 'invalid';
        this.#place = 'key';
        return 'more';
      case 'key':
        if (char === '}') return 'done';
        if (char !== '"') return 'invalid';
        return this.#begin(char);
      case 'colon':
        if (char !== ':') return 'invalid';
        this.#place = 'value';
        return 'more';
      case 'value':
        return this.#begin(char);
      case 'comma':
        if (char === '}') return 'done';
        if (char !== ',') return 'invalid';
        this.#place = 'key';
        return 'more';
    }
  }

  #begin(char: string): ScanState {
    const isName = this.#place === 'value' && this.#key === 'name';
    if (isName && char !== '"') return 'invalid';
    const isArguments = this.#place === 'value' && ARGUMENT_KEYS.has(this.#key);
    if (isArguments && (this.#hasArguments || !beginsValue(char))) return 'invalid';
    const value = new ValueScanner({ keep: !isArguments });
    this.#value = value;
    if (isArguments) {
      this.#hasArguments = true;
      if (this.#name !== undefined) this.#announce(this.#name);
    }
    return this.#inValue(value, char);
  }

  #inValue(value: ValueScanner, char: string): ScanState {
    const before = value.push(char);
    const isArguments = this.#place === 'value' && ARGUMENT_KEYS.has(this.#key);
    if (isArguments && before !== 'past') this.#argument(char);
    if (before === 'more') {
      const tooLong = this.#key === 'name' || this.#place === 'key';
      if (!tooLong || value.text.length <= TOOL_NAME_LENGTH_MAX) return 'more';
      return 'invalid';
    }
    this.#value = undefined;
    const ended = this.#ended(value.text);
    // A number ends with the character after it, which is looked at again.
    return ended === 'more' && before === 'past' ? this.push(char) : ended;
  }

  #ended(text: string): ScanState {
    if (this.#place === 'key') {
      const key = unquoted(text);
      if (typeof key !== 'string') return 'invalid';
      this.#key = key;
      this.#place = 'colon';
      return 'more';
    }
    this.#place = 'comma';
    if (this.#key !== 'name') return 'more';
    const name = unquoted(text);
    if (typeof name !== 'string' || name === '' || this.#name !== undefined) return 'invalid';
    this.#name = name;
    if (this.#hasArguments) {
      this.#announce(name);
      this.#emit({ type: 'arguments', text: this.#early });
    }
    return 'more';
  }

  #argument(char: string): void {
    if (this.#announced) this.#emit({ type: 'arguments', text: char });
    else this.#early += char;
  }

  #announce(name: string): void {
    this.#announced = true;
    this.#emit({ type: 'call', name });
  }
}
