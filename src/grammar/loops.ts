/**
 * Repetitions of a choice as rules that end with themselves. The library prepares the masks of places
 * within one rule. With the choice in a rule of its own, every token of more than one character
 * leaves that rule and is tried anew for each mask, which takes a thousand times longer in a string
 * (docs/decisions/0013).
 */
import { EMPTY, type Expression, either, rule, sequence } from './expression.ts';

type Repeat = Extract<Expression, { kind: 'repeat' }>;

/** Repetitions with an end that are written out; each takes masks of its own. */
const WRITTEN_OUT_MAX = 8;

export class Loops {
  /** Rules that stand for repetitions. */
  readonly rules = new Map<string, Expression>();
  readonly #bodyOf: (name: string) => Expression | undefined;
  /** By the text of what is repeated. */
  readonly #loops = new Map<string, Expression>();

  /** @param bodyOf a rule's body, whose alternatives have no common beginning */
  constructor(bodyOf: (name: string) => Expression | undefined) {
    this.#bodyOf = bodyOf;
  }

  rewrite(node: Expression): Expression {
    switch (node.kind) {
      case 'sequence':
        return { ...node, parts: node.parts.map((part) => this.rewrite(part)) };
      case 'either':
        return { ...node, options: node.options.map((option) => this.rewrite(option)) };
      case 'repeat':
        return this.#repeat({ ...node, item: this.rewrite(node.item) });
      default:
        return node;
    }
  }

  #repeat(node: Repeat): Expression {
    const { item, min, max } = node;
    const options = this.#optionsOf(item);
    if (options === undefined || (min === 0 && max === 1)) return node;
    const end = max === undefined ? this.#loop(options) : EMPTY;
    const written = max ?? min;
    if (written > WRITTEN_OUT_MAX) {
      return max === undefined ? sequence({ ...node, max: min }, end) : node;
    }
    let rest = end;
    for (let left = written - 1; left >= 0; left--) {
      rest = this.#rule(() => choice(options, rest, left >= min));
    }
    return rest;
  }

  /** What is repeated, where it is a choice each option of which takes a character at least. */
  #optionsOf(item: Expression): readonly Expression[] | undefined {
    if (item.kind === 'rule') {
      const body = this.#bodyOf(item.name);
      return body?.kind === 'either' ? this.#optionsOf(this.rewrite(body)) : undefined;
    }
    if (item.kind !== 'either' || item.options.some(mayBeEmpty)) return undefined;
    return item.options;
  }

  #loop(options: readonly Expression[]): Expression {
    const key = JSON.stringify(options, (_, value) => (value instanceof Set ? [...value] : value));
    let loop = this.#loops.get(key);
    if (loop === undefined) {
      loop = this.#rule((self) => choice(options, self, true));
      this.#loops.set(key, loop);
    }
    return loop;
  }

  #rule(bodyOf: (self: Expression) => Expression): Expression {
    const name = `loop_${this.rules.size}`;
    this.rules.set(name, EMPTY);
    this.rules.set(name, bodyOf(rule(name)));
    return rule(name);
  }
}

/** One of the options and then the rest, or nothing where this may be the end. */
function choice(options: readonly Expression[], rest: Expression, end: boolean): Expression {
  const further = rest === EMPTY ? options : options.map((option) => sequence(option, rest));
  return either(...further, ...(end ? [EMPTY] : []));
}

/** Whether it has, or may have, an empty text; a rule is taken to. */
function mayBeEmpty(node: Expression): boolean {
  switch (node.kind) {
    case 'literal':
      return node.text === '';
    case 'class':
      return false;
    case 'sequence':
      return node.parts.every(mayBeEmpty);
    case 'either':
      return node.options.some(mayBeEmpty);
    case 'repeat':
      return node.min === 0 || mayBeEmpty(node.item);
    case 'rule':
      return true;
  }
}
