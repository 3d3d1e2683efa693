/**
 * Grammars as values, and their text in the library's EBNF. Classes are built of ASCII alone: version
 * 0.1.27 of the library misreads ranges beyond it (docs/decisions/0013).
 */
import { LoramuxError } from '../errors.ts';
import { ASCII_END, type CharClass, EMPTY, type Expression, rule } from './expression.ts';
import { factored } from './factor.ts';
import { Loops } from './loops.ts';

export interface Printed {
  readonly text: string;
  /** Where counted repetitions end that take the library long, whether they do in this text or not. */
  readonly bounds: ReadonlySet<number>;
  /** Whether a text may be the beginning of several values, some of which a longer string rules out. */
  readonly ambiguous?: boolean;
  /** Characters beyond which every string of JSON stays in its place; see string-lengths.ts. */
  readonly settledAfter?: number | undefined;
}

/** Writes a grammar whose counted repetitions do not end where they would end later than that. */
export type Printer = (boundMax?: number) => Printed;

/** Named rules under construction. */
export class Grammar {
  readonly rules = new Map<string, Expression>();
  readonly #rulesMax: number;

  constructor(rulesMax: number) {
    this.#rulesMax = rulesMax;
  }

  /** A name for a rule that is defined later. */
  reserve(hint: string): string {
    if (this.rules.size >= this.#rulesMax) {
      throw new LoramuxError(
        'grammar_too_complex',
        `The grammar needs more than ${this.#rulesMax} rules.`,
      );
    }
    const name = `${hint}_${this.rules.size}`;
    this.rules.set(name, EMPTY);
    return name;
  }

  define(name: string, body: Expression): Expression {
    this.rules.set(name, body);
    return rule(name);
  }

  /** A rule of its own for an expression that is used in several places. */
  share(hint: string, body: Expression): Expression {
    return this.define(this.reserve(hint), body);
  }

  /**
   * The names of rules that no finite text satisfies, e.g. an object that requires itself: a
   * sequence under them would never end.
   */
  endless(): string[] {
    const ends = new Set<string>();
    const canEnd = (node: Expression): boolean => {
      if (node.kind === 'rule') return ends.has(node.name);
      if (node.kind === 'sequence') return node.parts.every(canEnd);
      if (node.kind === 'either') return node.options.some(canEnd);
      if (node.kind === 'repeat') return node.min === 0 || canEnd(node.item);
      return true;
    };
    for (let changed = true; changed; ) {
      changed = false;
      for (const [name, body] of this.rules) {
        if (ends.has(name) || !canEnd(body)) continue;
        ends.add(name);
        changed = true;
      }
    }
    return [...this.rules.keys()].filter((name) => !ends.has(name));
  }

  #factor(node: Expression): Expression {
    switch (node.kind) {
      case 'sequence':
        return { ...node, parts: node.parts.map((part) => this.#factor(part)) };
      case 'repeat':
        return { ...node, item: this.#factor(node.item) };
      case 'either':
        return factored(
          node.options.map((option) => this.#factor(option)),
          (name) => this.rules.get(name),
        );
      default:
        return node;
    }
  }

  /**
   * The text, with `root` as the rule `root`.
   * @param boundMax counted repetitions that end later do not end
   */
  print(root: Expression, boundMax = Number.POSITIVE_INFINITY): Printed {
    const bodies = new Map([...this.rules].map(([name, body]) => [name, this.#factor(body)]));
    const loops = new Loops((name) => bodies.get(name), boundMax);
    const shown = (name: string, body: Expression) => `${name} ::= ${show(loops.rewrite(body))}`;
    const lines = [shown('root', this.#factor(root))];
    for (const [name, body] of bodies) lines.push(shown(name, body));
    for (const [name, body] of loops.rules) lines.push(`${name} ::= ${show(body)}`);
    return { text: lines.join('\n'), bounds: loops.bounds };
  }
}

function show(node: Expression): string {
  switch (node.kind) {
    case 'literal':
      return showLiteral(node.text);
    case 'class':
      return showClass(node.chars);
    case 'rule':
      return node.name;
    case 'sequence':
      return `(${node.parts.map(show).join(' ')})`;
    case 'either':
      return `(${node.options.map(show).join(' | ')})`;
    case 'repeat': {
      const { min, max } = node;
      const item = node.item.kind === 'repeat' ? `(${show(node.item)})` : show(node.item);
      if (min === 0 && max === undefined) return `${item}*`;
      if (min === 0 && max === 1) return `${item}?`;
      if (min === max) return `${item}{${min}}`;
      return `${item}{${min},${max ?? ''}}`;
    }
  }
}

/** `\x` would swallow hexadecimal digits that follow it, so escapes have a fixed length. */
const hex = (code: number, digits: number) => code.toString(16).padStart(digits, '0');
const isPlain = (code: number) => code < ASCII_END && /\w/.test(String.fromCharCode(code));

function showLiteral(text: string): string {
  let shown = '';
  for (const char of text) {
    const code = char.codePointAt(0)!;
    if (isPlain(code)) shown += char;
    else shown += code < 0x10000 ? `\\u${hex(code, 4)}` : `\\U${hex(code, 8)}`;
  }
  return `"${shown}"`;
}

function showClass({ ascii, beyond }: CharClass): string {
  const shown: string[] = [];
  for (let first = 0; first < ASCII_END; first++) {
    if (ascii.has(first) === beyond) continue;
    let last = first;
    while (last + 1 < ASCII_END && ascii.has(last + 1) !== beyond) last++;
    shown.push(first === last ? showCode(first) : `${showCode(first)}-${showCode(last)}`);
    first = last;
  }
  return `[${beyond ? '^' : ''}${shown.join('')}]`;
}

const showCode = (code: number) =>
  isPlain(code) ? String.fromCharCode(code) : `\\u${hex(code, 4)}`;
