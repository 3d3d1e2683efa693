/** A constraint as what the library compiles: the text of a grammar. */
import { createHash } from 'node:crypto';
import { LoramuxError } from '../errors.ts';
import type { Constraint } from '../generation/constraint.ts';
import type { JsonObject, JsonValue } from '../importer/json.ts';
import { checkEbnf } from './check-ebnf.ts';
import { Grammar, type Printer } from './ebnf.ts';
import { type Expression, either, literal } from './expression.ts';
import { schemaGrammar } from './json-schema.ts';
import { JsonGrammar } from './json-text.ts';
import {
  CONSTRAINT_LENGTH_MAX,
  GRAMMAR_LENGTH_MAX,
  KEYED_LENGTH_MAX,
  RELAXED_MAX,
  RULES_MAX,
  SCHEMA_DEPTH_MAX,
} from './limits.ts';
import { regexExpression } from './regex.ts';

export interface GrammarSource {
  /** `tag`: a structural tag as JSON; `ebnf`: a grammar. */
  readonly kind: 'ebnf' | 'tag';
  readonly text: string;
  /** What stands in for it where it would take long; by bound. */
  readonly relaxed: readonly Relaxed[];
  /** Whether what stands in for it does so only until the first string that is longer than its bound. */
  readonly ambiguous: boolean;
  /** Characters that the bounds limit: those of a string of JSON, or of the whole text. */
  readonly counts: 'string' | 'text';
  /** Characters beyond which a string of JSON stays in its place; undefined where texts are no JSON. */
  readonly settledAfter: number | undefined;
}

/**
 * The grammar with strings that have no greatest length, for as long as that is the same: until the
 * next token may make a string longer than `bound`.
 */
export interface Relaxed {
  readonly bound: number;
  readonly text: string;
  readonly settledAfter: number | undefined;
}

/** A constraint and the key that its grammar is kept under. */
export interface KeyedConstraint {
  readonly key: string;
  /** The constraint as JSON: whatever its depth, it can be sent to a thread. */
  readonly text: string;
}

/**
 * Equal constraints have equal keys, whatever field they came in.
 * @throws LoramuxError grammar_too_complex
 */
export function keyed(constraint: Constraint): KeyedConstraint {
  const { field: _, ...asked } = constraint;
  const text = notTooDeep(() => JSON.stringify(asked));
  if (text.length > KEYED_LENGTH_MAX) {
    throw new LoramuxError(
      'grammar_too_complex',
      `The constraint has ${text.length} characters as JSON; at most ${KEYED_LENGTH_MAX} are taken.`,
    );
  }
  return { key: createHash('sha256').update(text).digest('base64'), text };
}

/**
 * Takes up to seconds where the constraint is made to: grammar threads do it.
 * @throws LoramuxError grammar_invalid, grammar_unsupported, grammar_too_complex
 */
export function sourceOf(constraint: Constraint): GrammarSource {
  return notTooDeep(() => convert(constraint));
}

/** What ends the stack is too deep. */
function notTooDeep<T>(work: () => T): T {
  try {
    return work();
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new LoramuxError('grammar_too_complex', 'The constraint is too deep.', { cause: error });
  }
}

function convert(constraint: Constraint): GrammarSource {
  switch (constraint.kind) {
    case 'json_object': {
      const rules = new Grammar(RULES_MAX);
      const { object, lengths } = new JsonGrammar(rules);
      return sourceFrom('ebnf', (boundMax) => ({
        ...rules.print(object, boundMax),
        settledAfter: lengths.settledAfter(boundMax),
      }));
    }
    case 'json_schema':
      checkLength('schema', JSON.stringify(constraint.schema));
      return sourceFrom('ebnf', schemaGrammar(constraint.schema));
    case 'regex':
      checkLength('pattern', constraint.pattern);
      return sourceFrom(
        'ebnf',
        printerOf(regexExpression(constraint.pattern, { counted: true })),
        'text',
      );
    case 'choice': {
      const choices = [...new Set(constraint.choices)];
      if (choices.length === 0) {
        throw new LoramuxError('grammar_invalid', 'The list of choices is empty.');
      }
      checkLength('list of choices', choices.join(''));
      return sourceFrom('ebnf', printerOf(either(...choices.map(literal))));
    }
    case 'grammar':
      checkLength('grammar', constraint.ebnf);
      checkEbnf(constraint.ebnf);
      return sourceFrom('ebnf', asGiven(constraint.ebnf));
    case 'structural_tag':
      checkLength('structural tag', JSON.stringify(constraint.tag));
      return sourceFrom('tag', tagPrinter(constraint.tag));
  }
}

const printerOf = (root: Expression): Printer => {
  return (boundMax) => new Grammar(RULES_MAX).print(root, boundMax);
};

const asGiven = (text: string): Printer => {
  return () => ({ text, bounds: new Set() });
};

function sourceFrom(
  kind: GrammarSource['kind'],
  print: Printer,
  counts: GrammarSource['counts'] = 'string',
): GrammarSource {
  const { text, bounds, ambiguous = false, settledAfter } = print();
  if (text.length > GRAMMAR_LENGTH_MAX) {
    throw new LoramuxError(
      'grammar_too_complex',
      `The grammar has ${text.length} characters; at most ${GRAMMAR_LENGTH_MAX} are allowed.`,
    );
  }
  const relaxed = relaxedOf(print, bounds);
  return { kind, text, relaxed, ambiguous, counts, settledAfter };
}

/** Grammars without all bounds, and without the greater ones. */
function relaxedOf(print: Printer, bounds: ReadonlySet<number>): Relaxed[] {
  const sorted = [...bounds].sort((a, b) => a - b);
  const every = sorted.length / Math.min(sorted.length, RELAXED_MAX);
  return sorted.flatMap((bound, i) => {
    if (Math.floor(i / every) === Math.floor((i - 1) / every)) return [];
    const { text, settledAfter } = print(sorted[i - 1] ?? 0);
    return [{ bound, text, settledAfter }];
  });
}

function checkLength(what: string, text: string): void {
  if (text.length <= CONSTRAINT_LENGTH_MAX) return;
  throw new LoramuxError(
    'grammar_too_complex',
    `The ${what} has ${text.length} characters; at most ${CONSTRAINT_LENGTH_MAX} are allowed.`,
  );
}

/** What a part of a structural tag holds besides other parts. */
const TAG_FORMATS: Readonly<Record<string, readonly string[]>> = {
  any_text: [],
  const_string: ['value'],
  sequence: ['elements'],
  or: ['elements'],
  tag: ['begin', 'content', 'end'],
  triggered_tags: ['triggers', 'tags', 'at_least_one', 'stop_after_first'],
  tags_with_separator: ['tags', 'separator', 'at_least_one', 'stop_after_first'],
};

/** The tag with its schemas and patterns as grammars, so that they mean what they mean elsewhere. */
function tagPrinter(tag: JsonObject): Printer {
  const outer = tag.type === 'structural_tag' ? tag.format : tag;
  const format = formatOf(outer, 1);
  return (boundMax) => {
    const bounds = new Set<number>();
    const print = (_: string, value: JsonValue | Printer) => {
      if (typeof value !== 'function') return value;
      const printed = value(boundMax);
      for (const bound of printed.bounds) bounds.add(bound);
      return printed.text;
    };
    return {
      text: JSON.stringify({ type: 'structural_tag', format }, print),
      bounds,
      ambiguous: true,
    };
  };
}

/** A format whose grammars are yet to be written. */
interface Format {
  [key: string]: JsonValue | Printer | Format | Format[];
}

function formatOf(format: JsonValue | undefined, depth: number): Format {
  if (depth > SCHEMA_DEPTH_MAX) {
    throw new LoramuxError('grammar_too_complex', 'The structural tag is too deep.');
  }
  if (typeof format !== 'object' || format === null || Array.isArray(format)) {
    throw new LoramuxError('grammar_invalid', 'A format of the structural tag must be an object.');
  }
  const grammar = grammarOfFormat(format);
  if (grammar !== undefined) return { type: 'grammar', grammar };
  const { type } = format;
  const known = typeof type === 'string' ? TAG_FORMATS[type] : undefined;
  if (known === undefined) {
    throw new LoramuxError(
      'grammar_unsupported',
      `The structural tag has a format of type ${JSON.stringify(type)}; supported are ` +
        `${[...Object.keys(TAG_FORMATS), 'json_schema', 'regex', 'grammar'].join(', ')}.`,
    );
  }
  const built: Format = { type: type! };
  for (const [key, value] of Object.entries(format)) {
    if (key === 'type') continue;
    if (!known.includes(key)) {
      throw new LoramuxError(
        'grammar_unsupported',
        `The structural tag has '${key}' in a format of type ${type}, which is not supported.`,
      );
    }
    if (key === 'content') built[key] = formatOf(value, depth + 1);
    else if (key === 'elements') built[key] = listOf(value).map((one) => formatOf(one, depth + 1));
    else if (key === 'tags') {
      built[key] = listOf(value).map((one) => formatOf(withType(one), depth + 1));
    } else built[key] = value;
  }
  return built;
}

/** Tags within a list may leave their type out. */
function withType(tag: JsonValue): JsonValue {
  return typeof tag === 'object' && tag !== null && !Array.isArray(tag)
    ? { type: 'tag', ...tag }
    : tag;
}

function listOf(value: JsonValue): readonly JsonValue[] {
  if (Array.isArray(value) && value.length > 0) return value;
  throw new LoramuxError('grammar_invalid', 'A list of the structural tag is missing or empty.');
}

function grammarOfFormat(format: JsonObject): Printer | undefined {
  if (format.type === 'json_schema') {
    const { json_schema: schema } = format;
    if (typeof schema !== 'boolean' && (typeof schema !== 'object' || schema === null)) {
      throw new LoramuxError('grammar_invalid', 'A format json_schema lacks its json_schema.');
    }
    return schemaGrammar(schema as JsonObject | boolean);
  }
  if (format.type === 'regex' && typeof format.pattern === 'string') {
    return printerOf(regexExpression(format.pattern));
  }
  if (format.type === 'grammar' && typeof format.grammar === 'string') {
    checkEbnf(format.grammar);
    return asGiven(format.grammar);
  }
  return undefined;
}
