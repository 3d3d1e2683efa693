/**
 * JSON Schema as a grammar whose every text the schema accepts. A keyword is honoured, is an
 * annotation, or is refused with its place; docs/structured-outputs.md lists them.
 */
import { LoramuxError } from '../errors.ts';
import type { JsonObject } from '../importer/json.ts';
import { Grammar, type Printer } from './ebnf.ts';
import { type Expression, either } from './expression.ts';
import { JsonGrammar, jsonLiteral } from './json-text.ts';
import { RULES_MAX, SCHEMA_DEPTH_MAX } from './limits.ts';
import { arrayExpression } from './schema-arrays.ts';
import { areExclusive } from './schema-exclusive.ts';
import { objectExpression } from './schema-objects.ts';
import { scalarExpression } from './schema-scalars.ts';
import { isTypeAllowed, JSON_TYPES, type JsonType, typesOf } from './schema-types.ts';

export type Schema = JsonObject | boolean;

/** Say nothing about what is valid. */
const ANNOTATIONS: ReadonlySet<string> = new Set([
  ...['$comment', '$defs', 'default', 'definitions', 'deprecated', 'description', 'example'],
  ...['examples', 'readOnly', 'title', 'writeOnly'],
]);
/** Only at the top, where they name the dialect and the schema. */
const AT_TOP: ReadonlySet<string> = new Set(['$schema', '$id']);

const BY_TYPE: Readonly<Record<string, readonly string[]>> = {
  object: [
    ...['properties', 'required', 'additionalProperties', 'propertyNames'],
    ...['minProperties', 'maxProperties'],
  ],
  array: ['items', 'prefixItems', 'minItems', 'maxItems'],
  string: ['minLength', 'maxLength', 'pattern', 'format', 'contentEncoding'],
  number: ['minimum', 'maximum', 'exclusiveMinimum', 'exclusiveMaximum', 'multipleOf'],
};
/** Values of keywords that are otherwise refused, which ask for nothing. */
const NEUTRAL: Readonly<Record<string, unknown>> = {
  uniqueItems: false,
  unevaluatedProperties: false,
  unevaluatedItems: false,
};
const COMBINATORS = ['enum', 'const', 'anyOf', 'oneOf', 'allOf', '$ref'] as const;

/** What the builders of one type need of the converter. */
export interface SchemaBuilder {
  readonly json: JsonGrammar;
  /** A value that `schema` accepts. */
  build(schema: unknown, at: string): Expression;
  /** Whether no value at all is accepted; such a property or item is left out. */
  isNever(schema: unknown): boolean;
  refuse(at: string, why: string): LoramuxError;
  invalid(at: string, why: string): LoramuxError;
}

/** A schema as a grammar. @throws LoramuxError grammar_* naming keyword and place */
export function schemaGrammar(schema: Schema): Printer {
  const rules = new Grammar(RULES_MAX);
  const converter = new Converter(schema, rules);
  const root = converter.build(schema, '#');
  const endless = rules.endless();
  const bad = converter.placeOf(endless);
  if (bad !== undefined) {
    throw new LoramuxError(
      'grammar_invalid',
      `The schema at ${bad} has no finite value: it requires itself.`,
    );
  }
  const { ambiguous, json } = converter;
  return (boundMax) => ({
    ...rules.print(root, boundMax),
    ambiguous,
    settledAfter: json.lengths.settledAfter(boundMax),
  });
}

const isObject = (value: unknown): value is JsonObject =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** Whether only numbers, booleans, null and strings are accepted, as far as is plain. */
function isScalar(schema: unknown): boolean {
  if (!isObject(schema)) return false;
  const types = typesOf(schema.type);
  return types?.every((type) => type !== 'object' && type !== 'array') ?? false;
}

class Converter implements SchemaBuilder {
  readonly json: JsonGrammar;
  readonly #root: Schema;
  readonly #rules: Grammar;
  /** Rules by schema, so that references and recursion end in one rule. */
  readonly #built = new Map<object, { name: string; at: string }>();
  /** Schemas whose values are being decided without a character in between. */
  readonly #deciding = new Set<object>();
  #depth = 0;
  /** A union has several objects or lists, which may begin alike. */
  ambiguous = false;

  constructor(root: Schema, rules: Grammar) {
    this.#root = root;
    this.#rules = rules;
    this.json = new JsonGrammar(rules);
  }

  refuse(at: string, why: string): LoramuxError {
    return new LoramuxError('grammar_unsupported', `The schema's ${at} ${why}.`);
  }

  invalid(at: string, why: string): LoramuxError {
    return new LoramuxError('grammar_invalid', `The schema's ${at} ${why}.`);
  }

  /** Where the schema of one of the rules stands. */
  placeOf(names: readonly string[]): string | undefined {
    for (const { name, at } of this.#built.values()) if (names.includes(name)) return at;
    return undefined;
  }

  isNever(schema: unknown): boolean {
    return schema === false;
  }

  build(schema: unknown, at: string): Expression {
    if (schema === true) return this.json.value;
    if (schema === false) throw this.invalid(at, 'is false: no value satisfies it');
    if (!isObject(schema)) throw this.invalid(at, 'must be an object or a boolean');
    const known = this.#built.get(schema);
    if (known !== undefined) {
      if (this.#deciding.has(schema)) throw this.invalid(at, 'refers to itself');
      return { kind: 'rule', name: known.name };
    }
    if (this.#depth >= SCHEMA_DEPTH_MAX) {
      throw new LoramuxError(
        'grammar_too_complex',
        `The schema has values more than ${SCHEMA_DEPTH_MAX} deep at ${at}.`,
      );
    }
    const name = this.#rules.reserve('schema');
    this.#built.set(schema, { name, at });
    this.#depth += 1;
    const body = this.#body(schema, at);
    this.#depth -= 1;
    return this.#rules.define(name, body);
  }

  #body(schema: JsonObject, at: string): Expression {
    this.#checkKeywords(schema, at);
    const present = COMBINATORS.filter((keyword) => schema[keyword] !== undefined);
    const [combinator, another] = present;
    if (combinator === undefined) return this.#plain(schema, at);
    if (another !== undefined) {
      throw this.refuse(`${at}/${another}`, `is not supported beside ${combinator}`);
    }
    if (combinator === 'enum' || combinator === 'const') {
      return this.#values(schema, combinator, at);
    }
    for (const keyword of Object.keys(schema)) {
      if (keyword === combinator || ANNOTATIONS.has(keyword) || AT_TOP.has(keyword)) continue;
      throw this.refuse(`${at}/${keyword}`, `is not supported beside ${combinator}`);
    }
    this.#deciding.add(schema);
    const built = this.#combined(schema, combinator, at);
    this.#deciding.delete(schema);
    return built;
  }

  #combined(
    schema: JsonObject,
    combinator: 'anyOf' | 'oneOf' | 'allOf' | '$ref',
    at: string,
  ): Expression {
    const place = `${at}/${combinator}`;
    const given = schema[combinator];
    if (combinator === '$ref') {
      const target = this.resolve(given, place);
      return this.build(target.schema, target.at);
    }
    if (!Array.isArray(given) || given.length === 0) {
      throw this.invalid(place, 'must be a list of schemas that is not empty');
    }
    const branches = given as readonly unknown[];
    if (combinator === 'allOf' && branches.length > 1) {
      throw this.refuse(place, 'is supported with one schema only');
    }
    const possible = branches.filter((branch) => !this.isNever(branch));
    if (combinator === 'allOf' && possible.length === 0) throw this.invalid(place, 'is false');
    if (possible.length === 0) throw this.invalid(place, 'has only false');
    if (combinator === 'oneOf') {
      const resolved = possible.map((branch, i) => this.#target(branch, `${place}/${i}`));
      if (!areExclusive(resolved, (one) => this.#target(one, place))) {
        throw this.refuse(
          place,
          'is supported only where no value can satisfy two of its schemas: they differ in their ' +
            'types, their enum or const, or the const of a property that all require; use anyOf',
        );
      }
    }
    const deep = possible.filter((branch) => !isScalar(this.#target(branch, place)));
    if (deep.length > 1) this.ambiguous = true;
    return either(
      ...branches.flatMap((branch, i) =>
        this.isNever(branch) ? [] : [this.build(branch, `${place}/${i}`)],
      ),
    );
  }

  /** What a reference leads to in the end. */
  #target(schema: unknown, at: string): unknown {
    let current = schema;
    for (let hops = 0; hops < SCHEMA_DEPTH_MAX; hops++) {
      if (!isObject(current) || current.$ref === undefined) return current;
      current = this.resolve(current.$ref, at).schema;
    }
    throw this.invalid(at, 'refers to itself');
  }

  /** A reference within the schema: `#` or `#/a/b`. */
  resolve(ref: unknown, at: string): { schema: unknown; at: string } {
    if (typeof ref !== 'string') throw this.invalid(at, 'must be a text');
    if (ref !== '#' && !ref.startsWith('#/')) {
      throw this.refuse(at, `is '${ref}'; only references within the schema (#/...) are supported`);
    }
    let current: unknown = this.#root;
    for (const part of ref.split('/').slice(1)) {
      let key: string;
      try {
        key = decodeURIComponent(part).replaceAll('~1', '/').replaceAll('~0', '~');
      } catch {
        throw this.invalid(at, `is '${ref}', which is no pointer`);
      }
      const next: unknown =
        typeof current === 'object' && current !== null && Object.hasOwn(current, key)
          ? (current as Record<string, unknown>)[key]
          : undefined;
      if (next === undefined) throw this.invalid(at, `is '${ref}', which leads nowhere`);
      current = next;
    }
    return { schema: current, at: ref };
  }

  #checkKeywords(schema: JsonObject, at: string): void {
    const known = new Set(Object.values(BY_TYPE).flat());
    for (const keyword of Object.keys(schema)) {
      if (ANNOTATIONS.has(keyword) || keyword === 'type' || known.has(keyword)) continue;
      if ((COMBINATORS as readonly string[]).includes(keyword)) continue;
      if (at === '#' && AT_TOP.has(keyword)) continue;
      if (Object.hasOwn(NEUTRAL, keyword) && NEUTRAL[keyword] === schema[keyword]) continue;
      throw this.refuse(`${at}/${keyword}`, 'is not supported');
    }
  }

  /** Types the schema allows; without `type`, those whose keywords it has, or all. */
  #types(schema: JsonObject, at: string): readonly JsonType[] {
    if (schema.type !== undefined) {
      const types = typesOf(schema.type);
      if (types === undefined) throw this.invalid(`${at}/type`, 'names no type of JSON');
      return types;
    }
    const implied = Object.entries(BY_TYPE)
      .filter(([, keywords]) => keywords.some((keyword) => schema[keyword] !== undefined))
      .map(([type]) => type as JsonType);
    return implied.length > 0 ? implied : JSON_TYPES;
  }

  #plain(schema: JsonObject, at: string): Expression {
    const types = this.#types(schema, at);
    // A keyword of another type says nothing; most likely it is a mistake.
    for (const [type, keywords] of Object.entries(BY_TYPE)) {
      const allowed = type === 'number' ? ['number', 'integer'] : [type];
      if (types.some((one) => allowed.includes(one))) continue;
      const stray = keywords.find((keyword) => schema[keyword] !== undefined);
      if (stray !== undefined) {
        throw this.refuse(`${at}/${stray}`, `is not supported for type ${types.join(', ')}`);
      }
    }
    const all = types.length === JSON_TYPES.length && Object.keys(schema).length === 0;
    if (all) return this.json.value;
    return either(...types.map((type) => this.#ofType(type, schema, at)));
  }

  #ofType(type: JsonType, schema: JsonObject, at: string): Expression {
    if (type !== 'object' && type !== 'array') return scalarExpression(this, type, schema, at);
    // A bracket comes first, so what is inside may well lead back here.
    const deciding = [...this.#deciding];
    this.#deciding.clear();
    const build = type === 'object' ? objectExpression : arrayExpression;
    const built = build(this, schema, at);
    for (const one of deciding) this.#deciding.add(one);
    return built;
  }

  #values(schema: JsonObject, keyword: 'enum' | 'const', at: string): Expression {
    for (const other of Object.keys(schema)) {
      if (other === keyword || other === 'type') continue;
      if (ANNOTATIONS.has(other) || AT_TOP.has(other)) continue;
      throw this.refuse(`${at}/${other}`, `is not supported beside ${keyword}`);
    }
    const given = keyword === 'const' ? [schema.const] : schema.enum;
    if (!Array.isArray(given)) throw this.invalid(`${at}/enum`, 'must be a list');
    const types = schema.type === undefined ? JSON_TYPES : this.#types(schema, at);
    const values = (given as readonly unknown[]).filter((value) => isTypeAllowed(value, types));
    if (values.length === 0) throw this.invalid(`${at}/${keyword}`, 'has no value of the type');
    return either(
      ...[...new Set(values.map((v) => JSON.stringify(v)))].map((text) =>
        jsonLiteral(this.json, JSON.parse(text)),
      ),
    );
  }
}
