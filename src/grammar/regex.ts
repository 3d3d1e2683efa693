/**
 * Regular expressions as grammars: ECMAScript's syntax, the whole text must match. What a grammar
 * cannot say, or this library says wrongly, is refused by name.
 */
import { type AST, RegExpParser } from '@eslint-community/regexpp';
import { LoramuxError } from '../errors.ts';
import {
  ASCII_END,
  type CharClass,
  counted,
  EMPTY,
  type Expression,
  either,
  literal,
  repeat,
  sequence,
} from './expression.ts';
import { CLASS_CHARS_MAX, PATTERN_DEPTH_MAX, REPETITIONS_MAX } from './limits.ts';

/** How one character, or one of a class, is written in the text. */
export interface Spelling {
  char(code: number): Expression;
  chars(chars: CharClass): Expression;
}

/** As itself. */
export const RAW: Spelling = {
  char: (code) => literal(String.fromCodePoint(code)),
  chars: (chars) => ({ kind: 'class', chars }),
};

export interface RegexOptions {
  readonly spelling?: Spelling;
  /** Whether it has the whole of a text or of a string of JSON to itself. */
  readonly counted?: boolean;
}

/** @throws LoramuxError grammar_invalid, grammar_unsupported, grammar_too_complex */
export function regexExpression(pattern: string, options: RegexOptions = {}): Expression {
  return new Converter(pattern, options).convert();
}

function parse(pattern: string): AST.Pattern {
  const parser = new RegExpParser({ ecmaVersion: 2024 });
  try {
    return parser.parsePattern(pattern, 0, pattern.length, { unicode: true });
  } catch (strict) {
    // Patterns are often written for Python, where needless backslashes are no error.
    try {
      const lenient = parser.parsePattern(pattern, 0, pattern.length, { unicode: false });
      if (!/[\ud800-\udfff]/.test(pattern)) return lenient;
    } catch {
      // The first answer says more.
    }
    const reason = strict instanceof Error ? strict.message : String(strict);
    throw new LoramuxError('grammar_invalid', `The pattern cannot be read: ${reason}.`);
  }
}

interface Chars {
  /** Single characters beyond ASCII. */
  readonly named: ReadonlySet<number>;
  readonly chars: CharClass;
}

const WORD = /\w/;
/** White space of ASCII. */
const SPACES = new Set([9, 10, 11, 12, 13, 32]);
const asciiWhere = (test: (code: number) => boolean): Set<number> =>
  new Set(Array.from({ length: ASCII_END }, (_, code) => code).filter(test));

class Converter {
  readonly #pattern: string;
  readonly #spelling: Spelling;
  readonly #repeat: typeof repeat;

  constructor(pattern: string, options: RegexOptions) {
    this.#pattern = pattern;
    this.#spelling = options.spelling ?? RAW;
    this.#repeat = options.counted ? counted : repeat;
  }

  convert(): Expression {
    return this.#alternatives(parse(this.#pattern).alternatives, 0);
  }

  #refuse(what: string, node: AST.Node): LoramuxError {
    return new LoramuxError(
      'grammar_unsupported',
      `The pattern uses ${what} ('${node.raw}' at ${node.start}), which is not supported.`,
    );
  }

  #alternatives(alternatives: readonly AST.Alternative[], depth: number): Expression {
    if (depth > PATTERN_DEPTH_MAX) {
      throw new LoramuxError(
        'grammar_too_complex',
        `The pattern has groups more than ${PATTERN_DEPTH_MAX} deep.`,
      );
    }
    return either(...alternatives.map((one) => this.#alternative(one, depth)));
  }

  #alternative({ elements }: AST.Alternative, depth: number): Expression {
    const parts: Expression[] = [];
    for (const [i, element] of elements.entries()) {
      // At the ends of the whole pattern they say what holds anyway.
      const outer = depth === 0 && element.type === 'Assertion';
      if (outer && element.kind === 'start' && i === 0) continue;
      if (outer && element.kind === 'end' && i === elements.length - 1) continue;
      parts.push(this.#element(element, depth));
    }
    return parts.length === 0 ? EMPTY : sequence(...parts);
  }

  #element(node: AST.Element, depth: number): Expression {
    switch (node.type) {
      case 'Character':
        return this.#spelling.char(node.value);
      case 'CharacterClass':
      case 'CharacterSet':
        return this.#spell(this.#charsOf(node));
      case 'Group':
        if (node.modifiers) throw this.#refuse('modifiers', node);
        return this.#alternatives(node.alternatives, depth + 1);
      case 'CapturingGroup':
        return this.#alternatives(node.alternatives, depth + 1);
      case 'Quantifier':
        return this.#quantifier(node, depth);
      case 'Assertion':
        throw this.#refuse(`an assertion (${node.kind})`, node);
      case 'Backreference':
        throw this.#refuse('a reference to a group', node);
      default:
        throw this.#refuse('sets of characters', node);
    }
  }

  #quantifier(node: AST.Quantifier, depth: number): Expression {
    const max = node.max === Number.POSITIVE_INFINITY ? undefined : node.max;
    if ((max ?? node.min) > REPETITIONS_MAX) {
      throw new LoramuxError(
        'grammar_too_complex',
        `The pattern repeats '${node.element.raw}' up to ${max ?? node.min} times; ` +
          `at most ${REPETITIONS_MAX} are supported.`,
      );
    }
    if (max === 0) return EMPTY;
    return this.#repeat(this.#element(node.element, depth), node.min, max);
  }

  #spell({ named, chars }: Chars): Expression {
    const options: Expression[] = [];
    if (chars.ascii.size > 0 || chars.beyond) options.push(this.#spelling.chars(chars));
    if (!chars.beyond) for (const code of named) options.push(this.#spelling.char(code));
    if (options.length === 0) {
      throw new LoramuxError('grammar_invalid', 'A class of the pattern has no characters.');
    }
    return either(...options);
  }

  #charsOf(node: AST.CharacterClass | AST.CharacterSet): Chars {
    if (node.type === 'CharacterSet') return this.#set(node);
    const ascii = new Set<number>();
    const named = new Set<number>();
    let beyond = false;
    let spaces = false;
    for (const element of node.elements) {
      if (element.type === 'Character') add(element.value, element.value);
      else if (element.type === 'CharacterClassRange') {
        if (element.max.value - element.min.value > CLASS_CHARS_MAX && element.max.value >= 128) {
          throw this.#refuse('a long range beyond ASCII', element);
        }
        add(element.min.value, element.max.value);
      } else if (element.type === 'CharacterSet') {
        const { chars } = this.#set(element);
        for (const code of chars.ascii) ascii.add(code);
        beyond ||= chars.beyond;
        spaces ||= element.kind === 'space';
      } else throw this.#refuse('sets of characters', element);
    }
    function add(first: number, last: number): void {
      for (let code = first; code <= last; code++) (code < ASCII_END ? ascii : named).add(code);
    }
    if (named.size > CLASS_CHARS_MAX) throw this.#refuse('many characters beyond ASCII', node);
    if (!node.negate) return { named, chars: { ascii, beyond } };
    if (named.size > 0) throw this.#refuse('a negated class with characters beyond ASCII', node);
    const rest = asciiWhere((code) => !ascii.has(code));
    return { named, chars: { ascii: rest, beyond: !beyond && !spaces } };
  }

  #set(node: AST.CharacterSet): Chars {
    const of = (ascii: Set<number>, beyond: boolean): Chars => ({
      named: new Set(),
      chars: { ascii, beyond },
    });
    switch (node.kind) {
      case 'any':
        return of(
          asciiWhere((code) => code !== 10 && code !== 13),
          true,
        );
      case 'digit':
        return of(
          asciiWhere((code) => (code >= 48 && code <= 57) !== node.negate),
          node.negate,
        );
      case 'word':
        return of(
          asciiWhere((code) => WORD.test(String.fromCharCode(code)) !== node.negate),
          node.negate,
        );
      case 'space':
        // White space beyond ASCII cannot be told from the rest: it is left out both ways.
        return of(
          asciiWhere((code) => SPACES.has(code) !== node.negate),
          false,
        );
      default:
        throw this.#refuse('a Unicode property', node);
    }
  }
}
