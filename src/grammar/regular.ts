/**
 * What several regular expressions all match, as rules: each place in all of them at once is a rule
 * (the product of their automata), so the grammar has no dead ends.
 */
import { LoramuxError } from '../errors.ts';
import type { Grammar } from './ebnf.ts';
import {
  ASCII_END,
  type CharClass,
  EMPTY,
  type Expression,
  either,
  rule,
  sequence,
} from './expression.ts';
import { AUTOMATON_STATES_MAX, PRODUCT_STATES_MAX } from './limits.ts';
import type { Spelling } from './regex.ts';

/** All characters beyond ASCII are one symbol. */
const BEYOND = ASCII_END;
const NUM_SYMBOLS = ASCII_END + 1;

/** Symbols that no edge tells apart. */
type Groups = readonly (readonly number[])[];
const UNKNOWN = -2;
const NOWHERE = -1;

interface Edge {
  readonly chars: CharClass;
  readonly to: number;
}

const has = (chars: CharClass, symbol: number) =>
  symbol === BEYOND ? chars.beyond : chars.ascii.has(symbol);

/** An automaton whose states are sets of places in the expression, made when they are reached. */
class Automaton {
  readonly #edges: Edge[][] = [];
  readonly #free: number[][] = [];
  readonly #end: number;
  readonly #sets: number[][] = [];
  readonly #ids = new Map<string, number>();
  /** Where each state leads, by group of symbols. */
  readonly #next: Int32Array[] = [];
  /** The state at the beginning. */
  readonly start: number;

  constructor(expression: Expression) {
    const start = this.#place();
    this.#end = this.#build(expression, start);
    this.start = this.#stateOf([start]);
  }

  /** The different classes of its edges. */
  classes(): CharClass[] {
    const classes = new Map<string, CharClass>();
    for (const { chars } of this.#edges.flat()) {
      classes.set(`${[...chars.ascii].join()} ${chars.beyond}`, chars);
    }
    return [...classes.values()];
  }

  isEnd(state: number): boolean {
    return this.#sets[state]!.includes(this.#end);
  }

  /** Where a state leads, by group; undefined is nowhere. */
  next(state: number, group: number, groups: Groups): number | undefined {
    this.#next[state] ??= new Int32Array(groups.length).fill(UNKNOWN);
    const row = this.#next[state];
    if (row[group] === UNKNOWN) {
      const symbol = groups[group]![0]!;
      const reached = this.#sets[state]!.flatMap((place) =>
        this.#edges[place]!.flatMap(({ chars, to }) => (has(chars, symbol) ? [to] : [])),
      );
      row[group] = reached.length === 0 ? NOWHERE : this.#stateOf(reached);
    }
    const to = row[group]!;
    return to === NOWHERE ? undefined : to;
  }

  #stateOf(places: readonly number[]): number {
    const all = new Set(places);
    for (const place of all) for (const free of this.#free[place]!) all.add(free);
    const set = [...all].sort((a, b) => a - b);
    const key = set.join();
    let id = this.#ids.get(key);
    if (id === undefined) {
      id = this.#sets.length;
      this.#ids.set(key, id);
      this.#sets.push(set);
    }
    return id;
  }

  #place(): number {
    if (this.#edges.length === AUTOMATON_STATES_MAX) throw tooComplex();
    this.#free.push([]);
    return this.#edges.push([]) - 1;
  }

  /** Builds it from a place on. @returns the place after it */
  #build(node: Expression, from: number): number {
    switch (node.kind) {
      case 'literal':
        return [...node.text].reduce((place, char) => this.#char(char, place), from);
      case 'class': {
        const to = this.#place();
        this.#edges[from]!.push({ chars: node.chars, to });
        return to;
      }
      case 'sequence':
        return node.parts.reduce((place, part) => this.#build(part, place), from);
      case 'either': {
        const ends = node.options.map((option) => this.#build(option, this.#after(from)));
        const to = this.#place();
        for (const end of ends) this.#free[end]!.push(to);
        return to;
      }
      case 'repeat':
        return this.#repeat(node, from);
      case 'rule':
        throw new TypeError('a rule is no regular expression');
    }
  }

  #after(from: number): number {
    const place = this.#place();
    this.#free[from]!.push(place);
    return place;
  }

  #char(char: string, from: number): number {
    const code = char.codePointAt(0)!;
    if (code >= ASCII_END) {
      throw new LoramuxError(
        'grammar_unsupported',
        `A pattern with '${char}' is not supported beside a format or a length.`,
      );
    }
    return this.#build({ kind: 'class', chars: { ascii: new Set([code]), beyond: false } }, from);
  }

  #repeat({ item, min, max }: Extract<Expression, { kind: 'repeat' }>, from: number): number {
    let place = from;
    for (let i = 0; i < min; i++) place = this.#build(item, place);
    if (max === undefined) {
      const loop = this.#after(place);
      this.#free[this.#build(item, loop)]!.push(loop);
      return this.#after(loop);
    }
    const to = this.#place();
    for (let i = min; i < max; i++) {
      this.#free[place]!.push(to);
      place = this.#build(item, this.#after(place));
    }
    this.#free[place]!.push(to);
    return to;
  }
}

interface ProductState {
  readonly states: readonly number[];
  /** By group of symbols. */
  readonly next: (number | undefined)[];
  /** The whole text may end here. */
  readonly isEnd: boolean;
}

/**
 * @param expressions of characters as themselves, without rules
 * @throws LoramuxError grammar_invalid where they have no text in common, grammar_too_complex
 */
export function intersection(
  expressions: readonly Expression[],
  grammar: Grammar,
  spelling: Spelling,
): Expression {
  const automata = expressions.map((one) => new Automaton(one));
  const groups = symbolGroups(automata);
  const product = productOf(automata, groups);
  const alive = leadingToEnds(product);
  if (!alive.has(0)) {
    throw new LoramuxError(
      'grammar_invalid',
      'No text has the pattern, format and length at once.',
    );
  }
  const names = new Map([...alive].map((i) => [i, grammar.reserve('both')]));
  for (const [i, name] of names) {
    const { next, isEnd } = product[i]!;
    const symbols = new Map<number, number[]>();
    for (const [group, to] of next.entries()) {
      if (to === undefined || !alive.has(to)) continue;
      symbols.set(to, [...(symbols.get(to) ?? []), ...groups[group]!]);
    }
    const options = [...symbols].map(([to, taken]) =>
      sequence(spelling.chars(classOf(taken)), rule(names.get(to)!)),
    );
    grammar.define(name, either(...options, ...(isEnd ? [EMPTY] : [])));
  }
  return rule(names.get(0)!);
}

function classOf(symbols: readonly number[]): CharClass {
  const ascii = new Set(symbols.filter((symbol) => symbol !== BEYOND));
  return { ascii, beyond: symbols.includes(BEYOND) };
}

function symbolGroups(automata: readonly Automaton[]): Groups {
  const classes = automata.flatMap((automaton) => automaton.classes());
  const groups = new Map<string, number[]>();
  for (let symbol = 0; symbol < NUM_SYMBOLS; symbol++) {
    const key = classes.map((chars) => (has(chars, symbol) ? '1' : '0')).join('');
    groups.set(key, [...(groups.get(key) ?? []), symbol]);
  }
  return [...groups.values()];
}

/** All that can be reached, the beginning first. */
function productOf(automata: readonly Automaton[], groups: Groups): ProductState[] {
  const product: ProductState[] = [];
  const ids = new Map<string, number>();
  const add = (states: readonly number[]): number => {
    const key = states.join();
    let id = ids.get(key);
    if (id === undefined) {
      if (product.length === PRODUCT_STATES_MAX) throw tooComplex();
      const isEnd = automata.every((automaton, i) => automaton.isEnd(states[i]!));
      id = product.push({ states, next: [], isEnd }) - 1;
      ids.set(key, id);
    }
    return id;
  };
  add(automata.map(({ start }) => start));
  // It grows while it is gone through.
  for (const { states, next } of product) {
    for (const group of groups.keys()) {
      const reached = automata.map((automaton, i) => automaton.next(states[i]!, group, groups));
      const all = reached.every((state) => state !== undefined);
      next.push(all ? add(reached as number[]) : undefined);
    }
  }
  return product;
}

function leadingToEnds(product: readonly ProductState[]): Set<number> {
  const before = product.map((): number[] => []);
  for (const [i, { next }] of product.entries()) {
    for (const to of next) if (to !== undefined) before[to]!.push(i);
  }
  const alive = new Set(product.flatMap(({ isEnd }, i) => (isEnd ? [i] : [])));
  for (const i of alive) for (const from of before[i]!) alive.add(from);
  return alive;
}

function tooComplex(): LoramuxError {
  return new LoramuxError(
    'grammar_too_complex',
    'A pattern, format and length at once take too many rules; make them shorter.',
  );
}
