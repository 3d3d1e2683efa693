/** Parts of grammars as values. */

export type Expression =
  | { readonly kind: 'literal'; readonly text: string }
  | { readonly kind: 'class'; readonly chars: CharClass }
  | { readonly kind: 'sequence'; readonly parts: readonly Expression[] }
  | { readonly kind: 'either'; readonly options: readonly Expression[] }
  | {
      readonly kind: 'repeat';
      readonly item: Expression;
      readonly min: number;
      /** undefined is unlimited. */
      readonly max: number | undefined;
      /** Never more repetitions than characters of the string, or the text, that it is in. */
      readonly counted?: boolean;
    }
  | { readonly kind: 'rule'; readonly name: string };

/** A set of characters: some of ASCII, and all or none of the rest. */
export interface CharClass {
  /** Code points below 128. */
  readonly ascii: ReadonlySet<number>;
  readonly beyond: boolean;
}

export const ASCII_END = 128;

export const literal = (text: string): Expression => ({ kind: 'literal', text });
export const rule = (name: string): Expression => ({ kind: 'rule', name });
export const sequence = (...parts: readonly Expression[]): Expression =>
  parts.length === 1 ? parts[0]! : { kind: 'sequence', parts };
export const either = (...options: readonly Expression[]): Expression =>
  options.length === 1 ? options[0]! : { kind: 'either', options };
export const repeat = (item: Expression, min: number, max?: number): Expression => ({
  kind: 'repeat',
  item,
  min,
  max,
});
/** Of characters, in a string of JSON or in a text as a whole. */
export const counted = (item: Expression, min: number, max?: number): Expression => ({
  ...{ kind: 'repeat', item, min, max },
  counted: true,
});
export const optional = (item: Expression): Expression => repeat(item, 0, 1);
export const EMPTY = literal('');

/** Characters of ASCII by ranges, each a text of its first and last one: `charsOf('az', 'AZ')`. */
export function charsOf(...ranges: readonly string[]): Expression {
  const ascii = new Set<number>();
  for (const range of ranges) {
    const last = range.charCodeAt(range.length - 1);
    for (let code = range.charCodeAt(0); code <= last; code++) ascii.add(code);
  }
  return { kind: 'class', chars: { ascii, beyond: false } };
}

/** Every character but these of ASCII. */
export function allBut(excluded: Iterable<number>): Expression {
  const ascii = new Set(Array.from({ length: ASCII_END }, (_, code) => code));
  for (const code of excluded) ascii.delete(code);
  return { kind: 'class', chars: { ascii, beyond: true } };
}

/** Equal expressions have equal keys. */
export const keyOf = (expression: Expression): string =>
  JSON.stringify(expression, (_, value) => (value instanceof Set ? [...value] : value));
