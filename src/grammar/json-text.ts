/** Texts of JSON as grammars: strings and their formats, numbers within bounds, any value. */
import { LoramuxError } from '../errors.ts';
import type { Grammar } from './ebnf.ts';
import {
  ASCII_END,
  allBut,
  charsOf,
  counted,
  type Expression,
  either,
  literal,
  optional,
  repeat,
  sequence,
} from './expression.ts';
import { JSON_DIGITS_MAX, JSON_SPACE_MAX, NAME_LENGTH_MAX, REPETITIONS_MAX } from './limits.ts';
import { RAW, regexExpression, type Spelling } from './regex.ts';
import { intersection } from './regular.ts';
import { StringLengths } from './string-lengths.ts';

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const DELETE = 0x7f;
const QUOTE_MARK = literal('"');
const HEX = charsOf('09', 'af', 'AF');
const DIGIT = charsOf('09');
const NONZERO = charsOf('19');

const isControl = (code: number) => code < 0x20;
const CONTROLS = Array.from({ length: 0x20 }, (_, code) => code);
const SHORT_ESCAPES = new Map([
  [8, 'b'],
  [9, 't'],
  [10, 'n'],
  [12, 'f'],
  [13, 'r'],
  [QUOTE, '"'],
  [BACKSLASH, '\\'],
]);

/** A character as `JSON.stringify` writes it. */
function escaped(code: number): string {
  const short = SHORT_ESCAPES.get(code);
  if (short !== undefined) return `\\${short}`;
  return isControl(code) ? `\\u${code.toString(16).padStart(4, '0')}` : String.fromCodePoint(code);
}

/** Inside a string of JSON: characters that need it are escaped, all others stand for themselves. */
const IN_STRING: Spelling = {
  char: (code) => literal(escaped(code)),
  chars: ({ ascii, beyond }) => {
    const plain = new Set<number>();
    const options: Expression[] = [];
    for (const code of ascii) {
      if (escaped(code).length === 1) plain.add(code);
      else options.push(literal(escaped(code)));
    }
    if (plain.size > 0 || beyond) options.unshift(RAW.chars({ ascii: plain, beyond }));
    return either(...options);
  },
};

/** One character of a string: as itself, or escaped. Halves of surrogate pairs cannot be escaped. */
const CHARACTER = either(
  allBut([...CONTROLS, QUOTE, BACKSLASH, DELETE]),
  sequence(
    literal('\\'),
    either(
      charsOf('"', '\\', '/', 'b', 'f', 'n', 'r', 't'),
      sequence(
        literal('u'),
        either(
          sequence(charsOf('09', 'ac', 'AC', 'ef', 'EF'), HEX, HEX, HEX),
          sequence(charsOf('d', 'D'), charsOf('07'), HEX, HEX),
        ),
      ),
    ),
  ),
);

const quoted = (content: Expression): Expression => sequence(QUOTE_MARK, content, QUOTE_MARK);

/** A value that is known: as `JSON.stringify` writes it. */
export function jsonLiteral({ lengths }: JsonGrammar, value: unknown): Expression {
  const text = JSON.stringify(value);
  lengths.atLeast(text.length);
  return literal(text);
}

/** A string of `min` to `max` code points. */
export function stringOfLength(grammar: JsonGrammar, min: number, max: number | undefined) {
  grammar.lengths.atLeast(min);
  if (max !== undefined) grammar.lengths.atMost(max);
  return quoted(counted(grammar.character, min, max));
}

/** A string that the pattern matches as a whole. */
export function stringOfPattern({ lengths }: JsonGrammar, pattern: string): Expression {
  lengths.pattern();
  return quoted(regexExpression(pattern, { spelling: IN_STRING, counted: true }));
}

/** A string that all of these match; of characters as themselves. */
export function stringOfAll(
  { rules, lengths }: JsonGrammar,
  expressions: readonly Expression[],
): Expression {
  lengths.pattern();
  return quoted(intersection(expressions, rules, IN_STRING));
}

/** Any characters, so many. */
export const anyOfLength = (min: number, max: number | undefined): Expression =>
  repeat(allBut([]), min, max);

/** Names of an object's members that are none of `taken`. Without escapes: one spelling for each. */
export function otherName(
  { rules: grammar, lengths }: JsonGrammar,
  taken: readonly string[],
): Expression {
  const ascii = taken.every((name) => [...name].every((c) => c.codePointAt(0)! < ASCII_END));
  const rest = (children: readonly number[]): Expression => {
    const excluded = [...CONTROLS, QUOTE, BACKSLASH, DELETE, ...children];
    const all = allBut(excluded);
    // A class cannot leave out a character beyond ASCII.
    return ascii || all.kind !== 'class'
      ? all
      : { kind: 'class', chars: { ascii: all.chars.ascii, beyond: false } };
  };
  const anything = grammar.share('name', counted(rest([]), 0, NAME_LENGTH_MAX));
  const differs = (names: readonly string[]): Expression => {
    const children = new Map<number, string[]>();
    for (const name of names) {
      if (name === '') continue;
      const first = name.codePointAt(0)!;
      const tail = name.slice(String.fromCodePoint(first).length);
      children.set(first, [...(children.get(first) ?? []), tail]);
    }
    const plain = [...children.keys()].filter((code) => code < ASCII_END);
    const options: Expression[] = [sequence(rest(plain), anything)];
    for (const [code, tails] of children) {
      // A name with such a character is never written here, so nothing can equal it.
      if (code >= ASCII_END || escaped(code).length > 1 || code === DELETE) continue;
      const further = grammar.share('name', differs(tails));
      options.push(sequence(literal(String.fromCodePoint(code)), further));
    }
    if (!names.includes('')) options.push(literal(''));
    return either(...options);
  };
  const longest = Math.max(0, ...taken.map(({ length }) => length));
  lengths.atLeast(longest + 1);
  lengths.atMost(NAME_LENGTH_MAX, longest + 1 + NAME_LENGTH_MAX);
  // Such a name ends where a value that has the same beginning goes on.
  if (!ascii) lengths.pattern();
  return quoted(differs(taken));
}

/** Rules that every grammar of JSON shares. */
export class JsonGrammar {
  readonly rules: Grammar;
  readonly space: Expression;
  readonly character: Expression;
  readonly string: Expression;
  readonly lengths = new StringLengths();
  #value: Expression | undefined;
  #object: Expression | undefined;
  #array: Expression | undefined;

  constructor(rules: Grammar) {
    this.rules = rules;
    this.space = rules.share('space', repeat(charsOf(' ', '\n', '\t'), 0, JSON_SPACE_MAX));
    this.character = rules.share('char', CHARACTER);
    this.string = rules.share('string', quoted(repeat(this.character, 0)));
  }

  /** Any value. */
  get value(): Expression {
    if (this.#value === undefined) {
      const name = this.rules.reserve('value');
      this.#value = { kind: 'rule', name };
      this.rules.define(name, either(this.string, NUMBER, BOOLEAN, NULL, this.object, this.array));
    }
    return this.#value;
  }

  get object(): Expression {
    this.#object ??= this.rules.share(
      'object',
      this.objectOf(sequence(this.string, this.colon, this.value)),
    );
    return this.#object;
  }

  get array(): Expression {
    this.#array ??= this.rules.share('array', this.arrayOf(this.value, 0, undefined));
    return this.#array;
  }

  get comma(): Expression {
    return sequence(this.space, literal(','), this.space);
  }

  get colon(): Expression {
    return sequence(this.space, literal(':'), this.space);
  }

  objectOf(member: Expression): Expression {
    const members = sequence(member, repeat(sequence(this.comma, member), 0), this.space);
    return sequence(literal('{'), this.space, optional(members), literal('}'));
  }

  arrayOf(item: Expression, min: number, max: number | undefined): Expression {
    if (max === 0) return sequence(literal('['), this.space, literal(']'));
    const more = repeat(
      sequence(this.comma, item),
      Math.max(0, min - 1),
      max === undefined ? undefined : max - 1,
    );
    const items = sequence(item, more, this.space);
    return sequence(literal('['), this.space, min === 0 ? optional(items) : items, literal(']'));
  }
}

export const NULL = literal('null');
export const BOOLEAN = either(literal('true'), literal('false'));

const WHOLE = either(literal('0'), sequence(NONZERO, repeat(DIGIT, 0, JSON_DIGITS_MAX - 1)));
/** Never `-0`, which is no integer to some readers. */
export const INTEGER = either(
  literal('0'),
  sequence(optional(literal('-')), NONZERO, repeat(DIGIT, 0, JSON_DIGITS_MAX - 1)),
);
export const NUMBER = sequence(
  optional(literal('-')),
  WHOLE,
  optional(sequence(literal('.'), repeat(DIGIT, 1, JSON_DIGITS_MAX))),
  optional(sequence(charsOf('e', 'E'), optional(charsOf('+', '-')), repeat(DIGIT, 1, 2))),
);

/** An inclusive range of scaled integers; undefined is unbounded. */
export interface Range {
  readonly low: bigint | undefined;
  readonly high: bigint | undefined;
}

const SCALED_MAX = 10n ** BigInt(JSON_DIGITS_MAX) - 1n;

/**
 * Integers from `low` to `high`, the last `decimals` digits after a point. undefined when there is
 * none.
 */
export function rangeExpression({ low, high }: Range, decimals = 0): Expression | undefined {
  const from = low === undefined || low < -SCALED_MAX ? -SCALED_MAX : low;
  const to = high === undefined || high > SCALED_MAX ? SCALED_MAX : high;
  const options: Expression[] = [];
  if (from < 0n) {
    const least = to < 0n ? -to : 1n;
    if (least <= -from) {
      options.push(...digitRanges(least, -from, decimals).map((e) => sequence(literal('-'), e)));
    }
  }
  if (to >= 0n) options.push(...digitRanges(from > 0n ? from : 0n, to, decimals));
  return options.length === 0 ? undefined : either(...options);
}

/** 0 <= from <= to as runs of digits of equal length with a range for each place. */
function digitRanges(from: bigint, to: bigint, decimals: number): Expression[] {
  if (from > to) return [];
  const found: Expression[] = [];
  const add = (digits: readonly [string, string][]) => {
    const parts = digits.map(([a, b]) => (a === b ? literal(a) : charsOf(a + b)));
    if (decimals > 0) parts.splice(parts.length - decimals, 0, literal('.'));
    found.push(sequence(...parts));
  };
  const split = (a: string, b: string, head: readonly [string, string][]): void => {
    if (a === '') {
      add(head);
      return;
    }
    const low = a[0]!;
    const high = b[0]!;
    const lows = /^0*$/.test(a.slice(1));
    const highs = /^9*$/.test(b.slice(1));
    const free = Array.from(a.slice(1), (): [string, string] => ['0', '9']);
    if (lows && highs) {
      add([...head, [low, high], ...free]);
      return;
    }
    if (low === high) {
      split(a.slice(1), b.slice(1), [...head, [low, low]]);
      return;
    }
    const nines = '9'.repeat(a.length - 1);
    const zeros = '0'.repeat(a.length - 1);
    let first = Number(low);
    let last = Number(high);
    if (!lows) {
      split(a.slice(1), nines, [...head, [low, low]]);
      first += 1;
    }
    if (!highs) {
      split(zeros, b.slice(1), [...head, [high, high]]);
      last -= 1;
    }
    if (first <= last) add([...head, [String(first), String(last)], ...free]);
  };
  const shortest = decimals + 1;
  const longest = Math.max(to.toString().length, shortest);
  for (let length = shortest; length <= longest; length++) {
    const least = length === shortest ? 0n : 10n ** BigInt(length - 1);
    const most = 10n ** BigInt(length) - 1n;
    const a = from > least ? from : least;
    const b = to < most ? to : most;
    if (a <= b) split(pad(a, length), pad(b, length), []);
  }
  return found;
}

const pad = (value: bigint, length: number) => value.toString().padStart(length, '0');

const OCTET = '(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])';
const DATE =
  '[0-9]{4}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)' +
  '|02-(0[1-9]|1[0-9]|2[0-8]))';
const TIME =
  '([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,6})?(Z|[+-](0[0-9]|1[0-2]):[0-5][0-9])';
/** Without two hyphens in a row, which may mean an encoded name that cannot be decoded. */
const LABEL = '[a-z0-9]{1,15}(-[a-z0-9]{1,15})?';
/** Letters at the end: a number there makes it an address. */
const HOST = `(${LABEL}\\.){1,4}[a-z]{2,24}`;
const PATH = '(/[A-Za-z0-9._~-]{0,64}){0,8}';

/** The longest part of a name in the net, which is what ends a format without bounds of its own. */
export const SHORT_FORMAT_LENGTH_MAX = 63;
const SHORT_LABEL = '[a-z0-9]+(-[a-z0-9]+)*';
const SHORT_HOST = `(${SHORT_LABEL}\\.)+[a-z]{2,24}`;
/** For use beside lengths: few places, and valid up to SHORT_FORMAT_LENGTH_MAX. */
export const SHORT_FORMATS: ReadonlyMap<string, string> = new Map([
  ['email', `[a-z0-9]+([._+-][a-z0-9]+)*@${SHORT_HOST}`],
  ['hostname', SHORT_HOST],
  ['uri', `https?://${SHORT_HOST}(/[A-Za-z0-9._~-]*)*`],
]);

/** Formats and what is written for them: a part of what the format allows, every text of it valid. */
export const FORMATS: ReadonlyMap<string, string> = new Map([
  ['date', DATE],
  ['time', TIME],
  ['date-time', `${DATE}T${TIME}`],
  ['duration', 'P([1-9][0-9]{0,2}D(T[1-9][0-9]{0,2}H)?|T[1-9][0-9]{0,3}[HMS])'],
  ['email', `[a-z0-9]{1,32}([._+-][a-z0-9]{1,32}){0,3}@${HOST}`],
  ['hostname', HOST],
  ['ipv4', `${OCTET}(\\.${OCTET}){3}`],
  ['ipv6', '[0-9a-f]{1,4}(:[0-9a-f]{1,4}){7}'],
  ['uri', `https?://${HOST}${PATH}`],
  ['uuid', '[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}'],
]);

/** A count or length of a schema. @throws LoramuxError grammar_too_complex */
export function checkCount(what: string, value: number): number {
  if (value <= REPETITIONS_MAX) return value;
  throw new LoramuxError(
    'grammar_too_complex',
    `${what} is ${value}; at most ${REPETITIONS_MAX} is supported.`,
  );
}
