/** JSON schemas and patterns as grammars: what is refused, and where; what is left out. */
import { describe, expect, it } from 'vitest';
import { keyed, sourceOf } from '../../../src/grammar/source.ts';
import type { JsonObject } from '../../../src/importer/json.ts';

const ebnf = (schema: JsonObject | boolean) => sourceOf({ kind: 'json_schema', schema }).text;
const refusal = (work: () => unknown): string => {
  try {
    work();
  } catch (error) {
    const { code, message } = error as { code: string; message: string };
    return `${code}: ${message}`;
  }
  return 'accepted';
};
const nested = (depth: number): JsonObject =>
  depth === 0 ? {} : { type: 'array', items: nested(depth - 1) };

describe('a schema', () => {
  it('may have bounds that no number of 15 digits reaches', () => {
    const wide = { minimum: -(2 ** 53) + 1, maximum: 2 ** 53 - 1 };
    const long = { minimum: -999_999_999_999_999, maximum: 999_999_999_999_999 };
    for (const type of ['integer', 'number']) {
      expect(ebnf({ type, ...wide })).toBe(ebnf({ type, ...long }));
    }
    expect(ebnf({ type: 'integer', minimum: 0, exclusiveMaximum: 1e300 })).toBe(
      ebnf({ type: 'integer', minimum: 0 }),
    );
  });

  it.each<[JsonObject | boolean, string]>([
    [{ not: {} }, '#/not is not supported'],
    [{ if: {} }, '#/if is not supported'],
    [{ type: 'array', uniqueItems: true }, '#/uniqueItems is not supported'],
    [{ type: 'array', contains: {} }, '#/contains is not supported'],
    [{ type: 'array', items: [{}] }, '#/items is a list'],
    [{ type: 'object', patternProperties: {} }, '#/patternProperties is not supported'],
    [{ type: 'object', propertyNames: false }, '#/propertyNames is supported only as'],
    [{ type: 'object', propertyNames: { pattern: 'a' } }, '#/propertyNames/pattern is not'],
    [
      { type: 'object', properties: { a: {} }, propertyNames: { enum: ['a'] } },
      '#/propertyNames is not supported beside properties',
    ],
    [{ type: 'object', dependentRequired: {} }, '#/dependentRequired is not supported'],
    [{ type: 'object', minProperties: 1 }, '#/minProperties is supported only'],
    [{ type: 'integer', multipleOf: 5 }, '#/multipleOf is supported only with 1'],
    [{ type: 'number', exclusiveMinimum: true }, '#/exclusiveMinimum must be a number'],
    [{ type: 'integer', minimum: 2 ** 53 - 1 }, '#/minimum needs more than 15 digits'],
    [{ type: 'integer', exclusiveMaximum: -1e15 }, '#/exclusiveMaximum needs more than 15'],
    [{ type: 'string', format: 'color' }, '#/format is "color"; supported are date'],
    [{ type: 'string', format: 'email', minLength: 64 }, '#/minLength is above 63 with a format'],
    [
      { type: 'string', pattern: 'é', maxLength: 2 },
      "#: A pattern with 'é' is not supported beside",
    ],
    [{ type: 'string', contentEncoding: 'base64' }, '#/contentEncoding is supported only beside'],
    [{ type: 'string', minimum: 2 }, '#/minimum is not supported for type string'],
    [{ anyOf: [{}], minimum: 2 }, '#/minimum is not supported beside anyOf'],
    [{ allOf: [{}, {}] }, '#/allOf is supported with one schema only'],
    [{ oneOf: [{ type: 'integer' }, { type: 'number' }] }, '#/oneOf is supported only where'],
    [{ $ref: 'http://a/b' }, "#/$ref is 'http://a/b'"],
    [{ type: 'object', properties: { 'a/b': { not: {} } } }, '#/properties/a~1b/not is not'],
    [{ $ref: '#/$defs/a', $defs: { a: { items: { not: {} } } } }, '#/$defs/a/items/not is not'],
  ])('%j is refused', (schema, message) => {
    const found = refusal(() => ebnf(schema));
    expect(found).toContain('grammar_unsupported: ');
    expect(found).toContain(message);
  });

  it.each<[JsonObject | boolean, string]>([
    [false, '# is false'],
    [{ type: 'text' }, '#/type names no type'],
    [{ $ref: '#/$defs/a' }, 'which leads nowhere'],
    [{ $ref: '#' }, 'refers to itself'],
    [{ anyOf: [{ $ref: '#' }] }, 'refers to itself'],
    [{ type: 'object', properties: { a: { $ref: '#' } }, required: ['a'] }, 'it requires itself'],
    [{ type: 'string', pattern: 'a', minLength: 2 }, '#: No text has the pattern, format and'],
    [{ type: 'string', format: 'date', maxLength: 2 }, '#: No text has the pattern, format and'],
    [{ type: 'string', format: 'date', pattern: '[a-z]*' }, '#: No text has the pattern, format'],
    [{ type: 'integer', minimum: 3, maximum: 2 }, 'has bounds without a number in between'],
    [{ type: 'array', minItems: 3, maxItems: 2 }, '#/minItems is above maxItems'],
    [{ type: 'string', minLength: -1 }, '#/minLength must be a whole number'],
    [{ type: 'string', enum: [1] }, '#/enum has no value of the type'],
    [
      { type: 'object', required: ['a'], additionalProperties: false },
      "#/required has 'a', which no property allows",
    ],
  ])('%j is invalid', (schema, message) => {
    const found = refusal(() => ebnf(schema));
    expect(found).toContain('grammar_invalid: ');
    expect(found).toContain(message);
  });

  it('has limits', () => {
    expect(refusal(() => ebnf(nested(65)))).toMatch(/^grammar_too_complex: .*64 deep/);
    expect(refusal(() => ebnf(nested(60)))).toBe('accepted');
    expect(refusal(() => ebnf({ type: 'string', maxLength: 5000 }))).toMatch(/at most 4096/);
    expect(refusal(() => ebnf({ enum: ['x'.repeat(140_000)] }))).toMatch(/at most 131072/);
  });

  it('reads as annotations what says nothing about values', () => {
    const bare = ebnf({ type: 'boolean' });
    const annotated = {
      ...{ $schema: 'https://json-schema.org/draft/2020-12/schema', $id: 'x', title: 't' },
      ...{ description: 'd', default: 1, examples: [1], $comment: 'c', deprecated: true },
      ...{ readOnly: true, type: 'boolean' },
    };
    expect(ebnf(annotated)).toBe(bare);
  });

  it('has the same key when it is the same schema, whatever field it came in', () => {
    const keyOf = (schema: JsonObject, field?: string) =>
      keyed({ kind: 'json_schema', schema, field }).key;
    expect(keyOf({ type: 'null' }, 'a')).toBe(keyOf({ type: 'null' }, 'b'));
    expect(keyOf({ type: 'null' })).not.toBe(keyOf({ type: 'boolean' }));
    expect(ebnf({ type: 'null', title: 'a' })).toBe(ebnf({ type: 'null' }));
  });
});

describe('a constraint', () => {
  it('that ends the stack, or is very long, is too complex', () => {
    let deep: JsonObject = {};
    for (let i = 0; i < 200_000; i++) deep = { items: deep };
    expect(refusal(() => keyed({ kind: 'json_schema', schema: deep }))).toMatch(
      /^grammar_too_complex: .*too deep/,
    );
    const long = { kind: 'regex', pattern: 'a'.repeat(2 ** 21) } as const;
    expect(refusal(() => keyed(long))).toMatch(/^grammar_too_complex: .*at most 1048576/);
    const alike = ['b', 'c'].map((last) => 'a'.repeat(60_000) + last);
    expect(refusal(() => sourceOf({ kind: 'choice', choices: alike }))).toMatch(
      /^grammar_too_complex: .*too deep/,
    );
  });
});

describe('a pattern', () => {
  const source = (pattern: string) => sourceOf({ kind: 'regex', pattern }).text;

  it.each([
    ['a(?=b)', 'an assertion (lookahead)'],
    ['(a)\\1', 'a reference to a group'],
    ['\\bx', 'an assertion (word)'],
    ['a^b', 'an assertion (start)'],
    ['\\p{L}', 'a Unicode property'],
    ['[^é]', 'a negated class with characters beyond ASCII'],
    ['[一-龥]', 'a long range beyond ASCII'],
  ])('%s is refused', (pattern, what) => {
    const found = refusal(() => source(pattern));
    expect(found).toContain('grammar_unsupported: ');
    expect(found).toContain(what);
  });

  it('that cannot be read is invalid, and one that repeats too often too complex', () => {
    expect(refusal(() => source('('))).toMatch(/^grammar_invalid: The pattern cannot be read/);
    expect(refusal(() => source('a{5000}'))).toMatch(/^grammar_too_complex: .*5000 times/);
    const groups = '('.repeat(200) + ')'.repeat(200);
    expect(refusal(() => source(groups))).toMatch(/^grammar_too_complex: .*deep/);
  });

  it('writes once what alternatives begin with', () => {
    expect(source('ab|abb|a|ca')).toBe('root ::= (("a" (("b" ("b" | "")) | "")) | ("c" "a"))');
  });

  it('becomes rules of ASCII classes and of texts', () => {
    expect(source('^[a-c]+é?$')).toBe('root ::= ([a-c]{1,} "\\u00e9"?)');
    expect(source('x|[é1]')).toBe('root ::= ("1" | "x" | "\\u00e9")');
  });
});

describe('a grammar of a request', () => {
  const check = (text: string) => refusal(() => sourceOf({ kind: 'grammar', ebnf: text }));

  it('may have characters beyond ASCII in texts and comments, but not in classes', () => {
    expect(check('root ::= "é" # [é]')).toBe('accepted');
    expect(check('root ::= "\\"[é]"')).toBe('accepted');
    expect(check('root ::= [a-é]')).toContain('grammar_unsupported');
    expect(check('root ::= "a"\n| [\\u00e9]')).toContain('on line 2');
  });
});
