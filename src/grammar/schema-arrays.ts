/** Arrays of a schema: leading items of their own, then items alike, within counts. */
import type { JsonObject } from '../importer/json.ts';
import { EMPTY, type Expression, either, literal, repeat, sequence } from './expression.ts';
import type { SchemaBuilder } from './json-schema.ts';
import { checkCount } from './json-text.ts';
import { countOf } from './schema-scalars.ts';

export function arrayExpression(
  builder: SchemaBuilder,
  schema: JsonObject,
  at: string,
): Expression {
  const { json } = builder;
  const { items, prefixItems } = schema;
  if (Array.isArray(items)) {
    throw builder.refuse(`${at}/items`, 'is a list, as in old drafts; use prefixItems');
  }
  const leading = (prefixItems ?? []) as readonly unknown[];
  if (!Array.isArray(leading)) throw builder.invalid(`${at}/prefixItems`, 'must be a list');
  const min = countOf(builder, schema, 'minItems', at) ?? 0;
  const max = countOf(builder, schema, 'maxItems', at);
  if (max !== undefined && min > max) throw builder.invalid(`${at}/minItems`, 'is above maxItems');
  // As with objects: beyond what is named comes only what is asked for.
  const closed = builder.isNever(items) || (items === undefined && leading.length > 0);
  const most = closed ? Math.min(max ?? leading.length, leading.length) : max;
  if (most !== undefined && min > most) {
    throw builder.invalid(`${at}/minItems`, 'is above the number of items that are allowed');
  }
  if (most === 0) return json.arrayOf(EMPTY, 0, 0);
  const item = closed
    ? EMPTY
    : items === undefined
      ? json.value
      : builder.build(items, `${at}/items`);
  if (leading.length === 0) return json.arrayOf(item, min, most);
  return prefixed(builder, leading, { item, closed, min, max: most, at });
}

interface Rest {
  readonly item: Expression;
  readonly closed: boolean;
  readonly min: number;
  readonly max: number | undefined;
  readonly at: string;
}

/** Built from the end: what may follow after each leading item. */
function prefixed(builder: SchemaBuilder, leading: readonly unknown[], rest: Rest): Expression {
  const { json } = builder;
  const { item, closed, min, max, at } = rest;
  checkCount(`${at}/prefixItems`, leading.length);
  const least = Math.max(0, min - leading.length);
  const most = max === undefined ? undefined : Math.max(0, max - leading.length);
  const used = Math.min(leading.length, max ?? leading.length);
  let tail: Expression =
    closed || most === 0 || used < leading.length
      ? EMPTY
      : repeat(sequence(json.comma, item), least, most);
  for (let i = used - 1; i >= 0; i--) {
    const one = builder.build(leading[i], `${at}/prefixItems/${i}`);
    const from = i === 0 ? one : sequence(json.comma, one);
    const taken = sequence(from, tail);
    tail = json.rules.share('items', i < min ? taken : either(taken, EMPTY));
  }
  return sequence(literal('['), json.space, tail, json.space, literal(']'));
}
