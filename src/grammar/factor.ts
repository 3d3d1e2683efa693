/**
 * Alternatives without a common beginning. The library builds an automaton of each rule, and version
 * 0.1.27 accepts texts that no alternative has where two of them begin alike (docs/decisions/0013):
 * `"ab" | "ba" | "bba" | "abb"` accepts `bab`. So what begins alike is written once, as in a trie.
 */
import { ASCII_END, type CharClass, EMPTY, type Expression, keyOf } from './expression.ts';

/** Rules with at most so many characters of their own are written out where they are one of several. */
const INLINE_SIZE_MAX = 4096;

/** An alternative as a list: first what it begins with. */
type Parts = readonly Expression[];
type RuleBody = (name: string) => Expression | undefined;

export function factored(options: readonly Expression[], bodyOf: RuleBody): Expression {
  return alternatives(
    options.flatMap((option) => spread(option, bodyOf)).map((option) => partsOf(option)),
    bodyOf,
  );
}

/** One option, or several where it is a choice itself. */
function spread(option: Expression, bodyOf: RuleBody): Expression[] {
  if (option.kind === 'either') return option.options.flatMap((one) => spread(one, bodyOf));
  if (option.kind === 'sequence' && option.parts.length === 1) {
    return spread(option.parts[0]!, bodyOf);
  }
  if (option.kind !== 'rule') return [option];
  const body = bodyOf(option.name);
  if (body === undefined || sizeOf(body) > INLINE_SIZE_MAX) return [option];
  return spread(body, bodyOf);
}

/** Characters of an expression without repetitions and rules; infinite for others. */
function sizeOf(node: Expression): number {
  if (node.kind === 'literal') return node.text.length;
  if (node.kind === 'class') return 1;
  const parts = node.kind === 'sequence' ? node.parts : node.kind === 'either' ? node.options : [];
  if (parts.length === 0) return Number.POSITIVE_INFINITY;
  return parts.reduce((sum, part) => sum + sizeOf(part), 1);
}

/** Flat: sequences are spread, texts split into characters. */
function partsOf(node: Expression): Parts {
  if (node.kind === 'sequence') return node.parts.flatMap(partsOf);
  if (node.kind !== 'literal') return [node];
  return [...node.text].map((char): Expression => ({ kind: 'literal', text: char }));
}

const isChar = (node: Expression | undefined) => node?.kind === 'literal' || node?.kind === 'class';

/** What a character or a class names. */
const codesOf = (node: Expression): Iterable<number> => {
  if (node.kind === 'literal') return [node.text.codePointAt(0)!];
  return node.kind === 'class' ? node.chars.ascii : [];
};

function alternatives(lists: readonly Parts[], bodyOf: RuleBody): Expression {
  // A choice at the beginning hides what the alternative begins with.
  const open = lists.flatMap((list): Parts[] => {
    const [first, ...rest] = list;
    if (first?.kind !== 'either') return [list];
    return first.options.flatMap((one) =>
      spread(one, bodyOf).map((part) => [...partsOf(part), ...rest]),
    );
  });
  const options: Expression[] = [];
  if (open.some((list) => list.length === 0)) options.push(EMPTY);
  const opaque = new Map<string, { first: Expression; rests: Parts[] }>();
  for (const list of open) {
    const [first, ...rest] = list;
    if (first === undefined || isChar(first)) continue;
    const key = keyOf(first);
    const same = opaque.get(key) ?? { first, rests: [] };
    same.rests.push(rest);
    opaque.set(key, same);
  }
  options.unshift(
    ...byCharacter(
      open.filter((list) => isChar(list[0])),
      bodyOf,
    ),
  );
  for (const { first, rests } of opaque.values()) options.push(joined(first, rests, bodyOf));
  return options.length === 1 ? options[0]! : { kind: 'either', options };
}

function joined(first: Expression, rests: readonly Parts[], bodyOf: RuleBody): Expression {
  if (rests.length === 1) {
    const parts = [first, ...rests[0]!];
    return parts.length === 1 ? first : { kind: 'sequence', parts };
  }
  return { kind: 'sequence', parts: [first, alternatives(rests, bodyOf)] };
}

/** Groups of characters that the same alternatives begin with. */
function byCharacter(lists: readonly Parts[], bodyOf: RuleBody): Expression[] {
  // Alternatives by the characters they may begin with; any other one beyond ASCII stands for itself.
  const beginning = new Map<number, number[]>();
  const anyBeyond: number[] = [];
  for (const [i, [first]] of lists.entries()) {
    for (const code of codesOf(first!)) {
      const begun = beginning.get(code);
      if (begun === undefined) beginning.set(code, [i]);
      else begun.push(i);
    }
    if (first!.kind === 'class' && first!.chars.beyond) anyBeyond.push(i);
  }
  const groups = new Map<string, { codes: number[]; beyond: boolean; rests: Parts[] }>();
  const groupOf = (begun: readonly number[], own = '') => {
    const key = begun.join() + own;
    let group = groups.get(key);
    if (group === undefined) {
      group = { codes: [], beyond: false, rests: begun.map((i) => lists[i]!.slice(1)) };
      groups.set(key, group);
    }
    return group;
  };
  for (let code = 0; code < ASCII_END; code++) {
    const begun = beginning.get(code);
    if (begun !== undefined) groupOf(begun).codes.push(code);
  }
  for (const [code, named] of beginning) {
    if (code < ASCII_END) continue;
    // A character beyond ASCII is a text of its own.
    const begun = [...named, ...anyBeyond].sort((x, y) => x - y);
    groupOf(begun, ` ${code}`).codes.push(code);
  }
  if (anyBeyond.length > 0) groupOf(anyBeyond).beyond = true;
  return [...groups.values()].map(({ codes, beyond, rests }) =>
    joined(charsFrom(codes, beyond), rests, bodyOf),
  );
}

function charsFrom(codes: readonly number[], beyond: boolean): Expression {
  if (codes.length === 1 && !beyond) {
    return { kind: 'literal', text: String.fromCodePoint(codes[0]!) };
  }
  const chars: CharClass = { ascii: new Set(codes), beyond };
  return { kind: 'class', chars };
}
