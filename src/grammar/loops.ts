/**
 * Repetitions of a choice as rules that end with themselves. The library prepares the masks of places
 * within one rule. With the choice in a rule of its own, every token of more than one character
 * leaves that rule and is tried anew for each mask, which takes a thousand times longer in a string
 * (docs/decisions/0013).
 */
import {
  ASCII_END,
  EMPTY,
  type Expression,
  either,
  keyOf,
  repeat,
  rule,
  sequence,
} from './expression.ts';
import { WRITTEN_OUT_MAX } from './limits.ts';

type Repeat = Extract<Expression, { kind: 'repeat' }>;

/** A class with as many characters of ASCII is as slow as a choice: most tokens are made of it. */
const BROAD_SIZE = ASCII_END / 2;
/**
 * Repetitions with an end are counted in blocks: the library keeps every optional repetition that has
 * begun open until the last one ends.
 */
const BLOCKS = [64, 8];

export class Loops {
  /** Rules that stand for repetitions. */
  readonly rules = new Map<string, Expression>();
  /** Ends of counted repetitions, and those left away among them. */
  readonly bounds = new Set<number>();
  readonly #bodyOf: (name: string) => Expression | undefined;
  readonly #boundMax: number;
  /** By the text of what is repeated. */
  readonly #shared = new Map<string, Expression>();

  /**
   * @param bodyOf a rule's body, whose alternatives have no common beginning
   * @param boundMax counted repetitions that end later do not end
   */
  constructor(bodyOf: (name: string) => Expression | undefined, boundMax: number) {
    this.#bodyOf = bodyOf;
    this.#boundMax = boundMax;
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
    const { item, min } = node;
    let { max } = node;
    // The library is quick where a single class has no end, and a narrow one takes few tokens.
    const ends = node.counted && max !== undefined && max > WRITTEN_OUT_MAX;
    if (item.kind === 'class' && (!ends || item.chars.ascii.size < BROAD_SIZE)) return node;
    const options = this.#optionsOf(item);
    if (options === undefined || (min === 0 && max === 1)) return node;
    if (ends) {
      this.bounds.add(max!);
      if (max! > this.#boundMax) max = undefined;
    }
    const last = max === undefined ? this.#loop(options) : EMPTY;
    const written = max ?? min;
    if (written > WRITTEN_OUT_MAX) {
      const one = this.#share('one', either(...options));
      const tail = max === undefined ? last : this.#upTo(one, max - min);
      return min === 0 ? tail : sequence(repeat(one, min, min), tail);
    }
    let rest = last;
    for (let before = written - 1; before >= 0; before--) {
      const next = rest;
      rest = this.#rule(() => choice(options, next, before >= min));
    }
    return rest;
  }

  /** At most so many: blocks of fixed length, and at least as many single ones as a block has. */
  #upTo(one: Expression, max: number): Expression {
    const parts: Expression[] = [];
    let left = max;
    for (const length of BLOCKS) {
      const blocks = Math.floor((left - length + 1) / length);
      if (blocks <= 0) continue;
      const block = this.#share(`block${length}`, repeat(one, length, length));
      parts.push(repeat(block, 0, blocks));
      left -= blocks * length;
    }
    if (left > 0) parts.push(repeat(one, 0, left));
    return parts.length === 0 ? EMPTY : sequence(...parts);
  }

  /** What is repeated, where it is a choice each option of which takes a character at least. */
  #optionsOf(item: Expression): readonly Expression[] | undefined {
    if (item.kind === 'class') return [item];
    if (item.kind === 'rule') {
      const body = this.#bodyOf(item.name);
      return body?.kind === 'either' ? this.#optionsOf(this.rewrite(body)) : undefined;
    }
    if (item.kind !== 'either' || item.options.some(mayBeEmpty)) return undefined;
    return item.options;
  }

  #loop(options: readonly Expression[]): Expression {
    return this.#share('loop', either(...options), (self) => choice(options, self, true));
  }

  /** A rule for all places with the same of it. */
  #share(
    kind: string,
    of: Expression,
    bodyOf: (self: Expression) => Expression = () => of,
  ): Expression {
    const key = `${kind} ${keyOf(of)}`;
    let shared = this.#shared.get(key);
    if (shared === undefined) {
      shared = this.#rule(bodyOf);
      this.#shared.set(key, shared);
    }
    return shared;
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
