/**
 * Masks of grammars whose strings have a greatest length: simpler grammars stand in for most of them.
 * Masks that stay as they are within a long string. Each is the one that the exact grammar alone gives
 * there. Lengths against counting.
 */
import type { CompiledGrammar, GrammarMatcher } from '@mlc-ai/web-xgrammar';
import { beforeAll, describe, expect, it } from 'vitest';
import { Follower, type PreparedGrammar } from '../../../src/grammar/follower.ts';
import { type GrammarSource, sourceOf } from '../../../src/grammar/source.ts';
import { vocabularyOf } from '../../../src/grammar/vocabulary.ts';
import { loadXGrammar } from '../../../src/grammar/xgrammar.ts';
import type { JsonObject } from '../../../src/importer/json.ts';
import { Random } from '../../support/random.ts';

/** Tokens of one byte, plain ones of many lengths, and those with quotation marks and escapes. */
const TEXTS = [
  ...Array.from({ length: 128 }, (_, code) => String.fromCharCode(code)),
  ...Array.from({ length: 676 }, (_, i) => String.fromCharCode(97 + (i % 26), 97 + i / 26)),
  ...['é', '漢字', '🙂🙂', 'abc', 'word', 'a word', 'twelve chars'],
  ...[16, 20, 33, 40, 64].flatMap((n) => ['x'.repeat(n), 'é'.repeat(n), `${'x'.repeat(n)}"`]),
  ...['","', '": "', 'a","b', '"}', '\\"', '\\\\', '\\n', '\\u00e9', '\\"\\"', 'b\\"c"', '{"'],
];
/** And parts of characters, among them those that narrow what may follow. */
const PARTS = [
  [0x80],
  [0x8f],
  [0x9f],
  [0xbf],
  [0xc3],
  [0xe0],
  [0xe2],
  [0xed],
  [0xf0],
  [0xf4],
].concat([
  [0x61, 0xe2, 0x82],
  [0xe2, 0x82],
  [0xf0, 0x9f],
  [0x80, 0x80],
]);
const encoder = new TextEncoder();
const TOKENS = [
  ...TEXTS.map((text) => encoder.encode(text)),
  ...PARTS.map((bytes) => Uint8Array.from(bytes)),
];
const END = TOKENS.length;
const VOCAB = TOKENS.length + 1;
const vocabulary = vocabularyOf({ tokenBytes: (id) => TOKENS[id] }, VOCAB);
const has = (mask: Int32Array, id: number) => (mask[id >> 5]! & (1 << (id & 31))) !== 0;

let compile: (source: GrammarSource) => Promise<PreparedGrammar>;
let matcherOf: (grammar: CompiledGrammar) => Promise<GrammarMatcher>;

beforeAll(async () => {
  const library = await loadXGrammar();
  const { encoded } = vocabulary;
  const { TokenizerInfo } = library;
  const info = await TokenizerInfo.createTokenizerInfo(encoded, 'byte_level', false, VOCAB, [END]);
  const compiler = await library.GrammarCompiler.createGrammarCompiler(info, false);
  const one = (kind: GrammarSource['kind'], text: string) =>
    kind === 'ebnf' ? compiler.compileGrammar(text) : compiler.compileStructuralTag(text);
  matcherOf = (grammar) => library.GrammarMatcher.createGrammarMatcher(grammar);
  compile = async ({ kind, text, relaxed, ...rest }) => ({
    ...rest,
    exact: await one(kind, text),
    relaxed: await Promise.all(
      relaxed.map(async ({ text: simpler, ...standIn }) => ({
        ...standIn,
        grammar: await one(kind, simpler),
      })),
    ),
  });
});

const schemaSource = (schema: JsonObject) => sourceOf({ kind: 'json_schema', schema });
const string = (fields: object): JsonObject => ({ type: 'string', ...fields });
const object = (properties: JsonObject): JsonObject => ({
  type: 'object',
  properties,
  required: Object.keys(properties),
  additionalProperties: false,
});
const parameters = object({ q: string({ maxLength: 30 }) });

const SOURCES: readonly [string, () => GrammarSource][] = [
  ['one length', () => schemaSource(string({ maxLength: 20 }))],
  ['a least and a greatest', () => schemaSource(string({ minLength: 12, maxLength: 70 }))],
  [
    'several lengths',
    () =>
      schemaSource(
        object({
          title: string({ maxLength: 18 }),
          text: string({ minLength: 1, maxLength: 150 }),
          code: string({ maxLength: 6 }),
          more: string({ maxLength: 40 }),
          most: string({ maxLength: 60 }),
          free: string({}),
        }),
      ),
  ],
  [
    'lengths that two values may have',
    () =>
      schemaSource({
        anyOf: [
          object({ a: string({ maxLength: 20 }), b: { type: 'integer' } }),
          object({ a: string({ maxLength: 45 }), c: { type: 'null' } }),
          object({ a: { enum: ['a word', 'x'.repeat(50)] }, d: { type: 'null' } }),
        ],
      }),
  ],
  ['a list', () => schemaSource({ type: 'array', items: string({ maxLength: 17 }), maxItems: 4 })],
  ['names', () => schemaSource({ ...object({ xa: string({}) }), additionalProperties: true })],
  [
    'objects that begin alike',
    () =>
      schemaSource({
        anyOf: [
          { type: 'object', additionalProperties: { type: 'integer' } },
          { ...object({ xxxx: string({}) }), additionalProperties: { type: 'null' } },
        ],
      }),
  ],
  ['a pattern in a string', () => schemaSource(string({ pattern: '^[^"]{1,30}( .*){0,20}$' }))],
  ['a pattern', () => sourceOf({ kind: 'regex', pattern: '"?.{3,60}"x?' })],
  [
    'a tag',
    () =>
      sourceOf({
        kind: 'structural_tag',
        tag: {
          type: 'triggered_tags',
          triggers: ['<a'],
          tags: [
            {
              begin: '<a>',
              content: { type: 'json_schema', json_schema: parameters },
              end: '</a>',
            },
          ],
        },
      }),
  ],
];

const LONG_STRINGS: readonly [string, () => GrammarSource][] = [
  ['any object', () => sourceOf({ kind: 'json_object' })],
  [
    'a value of several types',
    () => schemaSource({ type: 'array', items: { type: ['string', 'integer'] }, minItems: 3 }),
  ],
  ['no greatest length', () => schemaSource(string({ minLength: 40 }))],
  ['a great length', () => schemaSource(string({ minLength: 3, maxLength: 1000 }))],
  [
    'values that are written out, beside free ones',
    () =>
      schemaSource({
        type: 'array',
        items: { anyOf: [{ enum: ['xxxxxxxx', 'abcdefgh', 'é'.repeat(9)] }, string({})] },
      }),
  ],
  [
    'several lengths, beside free ones',
    () =>
      schemaSource({
        type: 'array',
        items: { anyOf: [string({ minLength: 30, maxLength: 35 }), string({ minLength: 20 })] },
      }),
  ],
];

const NEVER_SETTLED: readonly [string, () => GrammarSource][] = [
  ['a pattern', () => schemaSource(string({ pattern: '^[a-z]+$|^.*$' }))],
  [
    'a pattern beside free ones',
    () => schemaSource({ anyOf: [string({ pattern: '^x{1,40}$' }), string({})] }),
  ],
  [
    'names of objects that have a name beyond ASCII',
    () => schemaSource({ ...object({ é: string({}) }), additionalProperties: { type: 'null' } }),
  ],
  [
    'a grammar that is given',
    () => sourceOf({ kind: 'grammar', ebnf: 'root ::= "\\"" [a-z]* "\\""' }),
  ],
  ['a text that is no JSON', () => sourceOf({ kind: 'regex', pattern: '"[^"]*"' })],
];

const MARKS = /["\\]/;

/** Walks at random, mostly in strings; each mask is compared with the exact grammar's. */
async function compare(grammar: PreparedGrammar) {
  const random = new Random(17);
  const opened: CompiledGrammar[] = [];
  const noted = (one: CompiledGrammar) => {
    opened.push(one);
    return matcherOf(one);
  };
  const counts = { masks: 0, relaxed: 0, kept: 0 };
  const alone = { ...grammar, relaxed: [], settledAfter: undefined };
  for (let walk = 0; walk < 12; walk++) {
    opened.length = 0;
    const quick = new Follower(grammar, vocabulary, noted);
    const slow = new Follower(alone, vocabulary, matcherOf);
    const seen = new Set<unknown>();
    for (let i = 0; i < 60; i++) {
      const mask = await quick.mask();
      expect(mask).toEqual(await slow.mask());
      counts.masks += 1;
      if (opened.some((one) => one !== grammar.exact)) counts.relaxed += 1;
      if (seen.has(mask)) counts.kept += 1;
      seen.add(mask);
      const allowed = TOKENS.flatMap((_token, id) => (has(mask!, id) ? [id] : []));
      if (allowed.length === 0) break;
      // Mostly plain ones, so that strings become as long as they may.
      const plain = allowed.filter((id) => TOKENS[id]!.length > 1 && !MARKS.test(TEXTS[id] ?? ''));
      const parts = allowed.filter((id) => id >= TEXTS.length);
      const often = parts.length > 0 && random.chance(0.3) ? parts : plain;
      const tokenId = random.pick(often.length > 0 && random.chance(0.9) ? often : allowed);
      quick.accept(tokenId);
      slow.accept(tokenId);
    }
    quick.end();
    slow.end();
  }
  expect(counts.masks).toBeGreaterThan(20);
  return counts;
}

describe('masks', () => {
  it.each(SOURCES)('of %s are those of the exact grammar', async (_, source) => {
    const made = source();
    expect(made.relaxed.length).toBeGreaterThan(0);
    const { relaxed } = await compare(await compile(made));
    expect(relaxed).toBeGreaterThan(0);
  });

  it.each(LONG_STRINGS)('stay as they are in long strings of %s', async (_, source) => {
    const { kept } = await compare(await compile(source()));
    expect(kept).toBeGreaterThan(20);
  });

  it.each(NEVER_SETTLED)('are made anew in strings of %s', async (_, source) => {
    const { kept } = await compare(await compile(source()));
    expect(kept).toBe(0);
  });

  it.each([
    [0, 5],
    [3, 8],
    [0, 9],
    [2, 17],
    [10, 10],
    [0, 63],
    [30, 64],
    [0, 129],
    [1, 200],
  ])('count to %i at least and to %i at most', async (minLength, maxLength) => {
    const grammar = await compile(schemaSource(string({ minLength, maxLength })));
    for (const exact of [true, false]) {
      const used = exact ? { ...grammar, relaxed: [] } : grammar;
      const follower = new Follower(used, vocabulary, matcherOf);
      const quote = TEXTS.indexOf('"');
      follower.accept(quote);
      for (let length = 0; length <= maxLength; length++) {
        const mask = (await follower.mask())!;
        expect([length, has(mask, quote)]).toEqual([length, length >= minLength]);
        for (const char of ['a', 'é', '\\n', '漢字', 'x'.repeat(33)]) {
          const fits = length + (char === '\\n' ? 1 : [...char].length) <= maxLength;
          expect([length, char, has(mask, TEXTS.indexOf(char))]).toEqual([length, char, fits]);
        }
        if (length < maxLength) follower.accept(TEXTS.indexOf(length % 2 === 0 ? 'a' : 'é'));
      }
      follower.end();
    }
  });

  it('do not come for tokens that are longer than they may be', async () => {
    const grammar = await compile(schemaSource(string({ maxLength: 20 })));
    const follower = new Follower(grammar, vocabulary, matcherOf);
    follower.accept(TEXTS.indexOf('"'));
    follower.accept(TEXTS.indexOf('x'.repeat(33)));
    expect(await follower.mask()).toBeUndefined();
    follower.end();
  });
});
