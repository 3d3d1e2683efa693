/** Objects of a schema: the properties in their order, then others where they are allowed. */
import type { JsonObject } from '../importer/json.ts';
import { EMPTY, type Expression, either, literal, repeat, sequence } from './expression.ts';
import type { SchemaBuilder } from './json-schema.ts';
import { checkCount, jsonLiteral, otherName } from './json-text.ts';
import { countOf } from './schema-scalars.ts';

interface Property {
  readonly member: Expression;
  readonly required: boolean;
}

export function objectExpression(
  builder: SchemaBuilder,
  schema: JsonObject,
  at: string,
): Expression {
  const { json } = builder;
  const { properties = {}, additionalProperties: additional } = withNames(builder, schema, at);
  const required = namesOf(builder, schema.required, `${at}/required`);
  if (typeof properties !== 'object' || properties === null || Array.isArray(properties)) {
    throw builder.invalid(`${at}/properties`, 'must be an object');
  }
  const declared = Object.keys(properties);
  // What the schema does not name is left out, unless it names nothing or asks for it.
  const closed = additional === false || (additional === undefined && declared.length > 0);
  const others = (): Expression =>
    additional === undefined || additional === true
      ? json.value
      : builder.build(additional, `${at}/additionalProperties`);
  const member = (name: string, value: Expression) =>
    sequence(jsonLiteral(json, name), json.colon, value);
  const list: Property[] = [];
  for (const name of declared) {
    const place = `${at}/properties/${name.replaceAll('~', '~0').replaceAll('/', '~1')}`;
    if (builder.isNever(properties[name])) {
      if (required.has(name)) throw builder.invalid(place, 'is false, but required');
      continue;
    }
    const value = builder.build(properties[name], place);
    list.push({ member: member(name, value), required: required.has(name) });
  }
  for (const name of required) {
    if (declared.includes(name)) continue;
    if (additional === false) {
      throw builder.invalid(`${at}/required`, `has '${name}', which no property allows`);
    }
    list.push({ member: member(name, others()), required: true });
  }
  const min = countOf(builder, schema, 'minProperties', at) ?? 0;
  const max = countOf(builder, schema, 'maxProperties', at);
  const numRequired = list.filter((property) => property.required).length;
  const most = closed ? list.length : Number.POSITIVE_INFINITY;
  if (min > Math.min(max ?? most, most) || numRequired > (max ?? most)) {
    throw builder.invalid(at, 'asks for another number of properties than it allows');
  }
  if (!closed && min > numRequired) {
    // Names may be written twice, which counts once.
    throw builder.refuse(
      `${at}/minProperties`,
      'is supported only up to the number of required properties, or without others',
    );
  }
  const names = [...new Set([...declared, ...required])];
  const other = closed
    ? undefined
    : sequence(otherName(json, names), json.colon, json.rules.share('other', others()));
  return new Members(builder, list, other, { min, max, at }).expression();
}

/**
 * The schema without `propertyNames`: a list of names is written as properties of their own, all with
 * what `additionalProperties` asks for; any other text may be a name anyway.
 */
function withNames(builder: SchemaBuilder, schema: JsonObject, at: string): JsonObject {
  const { propertyNames: names, properties, additionalProperties = true, ...rest } = schema;
  if (names === undefined) return schema;
  const place = `${at}/propertyNames`;
  if (names === true) return schema;
  if (typeof names !== 'object' || names === null || Array.isArray(names)) {
    throw builder.refuse(place, 'is supported only as {"type": "string"} or with a list of names');
  }
  const { type = 'string', enum: listed, ...others } = names;
  const [unknown] = Object.keys(others);
  if (type !== 'string' || unknown !== undefined) {
    throw builder.refuse(`${place}/${unknown ?? 'type'}`, 'is not supported');
  }
  if (listed === undefined) return schema;
  if (properties !== undefined) throw builder.refuse(place, 'is not supported beside properties');
  const allowed = [...namesOf(builder, listed, `${place}/enum`)];
  return {
    ...rest,
    properties: Object.fromEntries(allowed.map((name) => [name, additionalProperties])),
    additionalProperties: false,
  };
}

function namesOf(builder: SchemaBuilder, value: unknown, at: string): Set<string> {
  if (value === undefined) return new Set();
  if (Array.isArray(value) && value.every((name) => typeof name === 'string')) {
    return new Set(value as readonly string[]);
  }
  throw builder.invalid(at, 'must be a list of names');
}

interface Counts {
  readonly min: number;
  readonly max: number | undefined;
  readonly at: string;
}

/** Rules for what follows: which property comes next, and how many are written. */
class Members {
  readonly #builder: SchemaBuilder;
  readonly #list: readonly Property[];
  readonly #other: Expression | undefined;
  readonly #counts: Counts;
  /** Counting further changes nothing. */
  readonly #countMax: number;
  readonly #rules = new Map<string, Expression>();

  constructor(
    builder: SchemaBuilder,
    list: readonly Property[],
    other: Expression | undefined,
    counts: Counts,
  ) {
    this.#builder = builder;
    this.#list = list;
    this.#other = other;
    this.#counts = counts;
    this.#countMax = Math.max(1, counts.min, counts.max ?? 0);
    checkCount(
      `${counts.at}/properties times their counts`,
      list.length * Math.min(this.#countMax, list.length),
    );
  }

  expression(): Expression {
    const { json } = this.#builder;
    return sequence(literal('{'), json.space, this.#from(0, 0), literal('}'));
  }

  /** Properties from the i-th on, after `count` were written. */
  #from(i: number, count: number): Expression {
    const capped = Math.min(count, this.#countMax);
    const key = `${i} ${capped}`;
    const known = this.#rules.get(key);
    if (known !== undefined) return known;
    const { rules } = this.#builder.json;
    const built = rules.share('members', this.#members(i, capped));
    this.#rules.set(key, built);
    return built;
  }

  #members(i: number, count: number): Expression {
    const { json } = this.#builder;
    const property = this.#list[i];
    if (property === undefined) return this.#end(count);
    const before = count > 0 ? json.comma : EMPTY;
    const { max } = this.#counts;
    const left = this.#list.slice(i).filter((one) => one.required).length;
    const written = sequence(before, property.member, this.#from(i + 1, count + 1));
    if (property.required) return written;
    const mayWrite = max === undefined || count + 1 + left <= max;
    const mayLeave = this.#reachable(i + 1, count);
    if (!mayWrite) return this.#from(i + 1, count);
    return mayLeave ? either(written, this.#from(i + 1, count)) : written;
  }

  /** Whether the least number can still be written from the i-th property on. */
  #reachable(i: number, count: number): boolean {
    return count + this.#list.length - i >= this.#counts.min;
  }

  #end(count: number): Expression {
    const { json } = this.#builder;
    const space = count > 0 ? json.space : EMPTY;
    const other = this.#other;
    const left = this.#counts.max === undefined ? undefined : this.#counts.max - count;
    if (other === undefined || left === 0) return space;
    const more = sequence(json.comma, other);
    if (count > 0) return sequence(repeat(more, 0, left), space);
    const further = repeat(more, 0, left === undefined ? undefined : left - 1);
    return either(sequence(other, further, json.space), EMPTY);
  }
}
