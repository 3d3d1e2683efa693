/** Strings, numbers, booleans and null of a schema. */

import { LoramuxError } from '../errors.ts';
import type { JsonObject } from '../importer/json.ts';
import { type Expression, either } from './expression.ts';
import type { SchemaBuilder } from './json-schema.ts';
import {
  anyOfLength,
  BOOLEAN,
  checkCount,
  FORMATS,
  INTEGER,
  NULL,
  NUMBER,
  rangeExpression,
  SHORT_FORMAT_LENGTH_MAX,
  SHORT_FORMATS,
  stringOfAll,
  stringOfLength,
  stringOfPattern,
} from './json-text.ts';
import { JSON_DIGITS_MAX, REPETITIONS_MAX } from './limits.ts';
import { regexExpression } from './regex.ts';
import type { JsonType } from './schema-types.ts';

export function scalarExpression(
  builder: SchemaBuilder,
  type: Exclude<JsonType, 'object' | 'array'>,
  schema: JsonObject,
  at: string,
): Expression {
  if (type === 'null') return NULL;
  if (type === 'boolean') return BOOLEAN;
  if (type === 'string') return stringExpression(builder, schema, at);
  return numberExpression(builder, schema, type === 'integer', at);
}

/** A count or length that a keyword gives. */
export function countOf(
  builder: SchemaBuilder,
  schema: JsonObject,
  keyword: string,
  at: string,
): number | undefined {
  const value = schema[keyword];
  if (value === undefined) return undefined;
  if (typeof value !== 'number' || !Number.isInteger(value) || value < 0) {
    throw builder.invalid(`${at}/${keyword}`, 'must be a whole number of at least 0');
  }
  return checkCount(`The schema's ${at}/${keyword}`, value);
}

function stringExpression(builder: SchemaBuilder, schema: JsonObject, at: string): Expression {
  const { pattern, format } = schema;
  const min = countOf(builder, schema, 'minLength', at);
  const max = countOf(builder, schema, 'maxLength', at);
  if (min !== undefined && max !== undefined && min > max) {
    throw builder.invalid(`${at}/minLength`, 'is above maxLength');
  }
  if (pattern !== undefined && typeof pattern !== 'string') {
    throw builder.invalid(`${at}/pattern`, 'must be a text');
  }
  if (schema.contentEncoding !== undefined && pattern === undefined) {
    throw builder.refuse(
      `${at}/contentEncoding`,
      'is supported only beside a pattern that says it',
    );
  }
  const hasLength = min !== undefined || max !== undefined;
  const known = formatOf(builder, { format, pattern, hasLength }, at);
  if (pattern === undefined && known === undefined) {
    if (!hasLength) return builder.json.string;
    return stringOfLength(builder.json, min ?? 0, max);
  }
  const given = [pattern, known?.pattern].filter((one) => one !== undefined);
  if (given.length === 1 && !hasLength) return stringOfPattern(builder.json, given[0]!);
  const all = given.map((one) => regexExpression(one));
  if (hasLength) {
    const most = Math.min(max ?? REPETITIONS_MAX, known?.lengthMax ?? REPETITIONS_MAX);
    const ends = max !== undefined || known?.lengthMax !== undefined;
    if ((min ?? 0) > most)
      throw builder.refuse(`${at}/minLength`, `is above ${most} with a format`);
    all.push(anyOfLength(min ?? 0, ends ? most : undefined));
  }
  try {
    return stringOfAll(builder.json, all);
  } catch (error) {
    if (!(error instanceof LoramuxError)) throw error;
    throw new LoramuxError(error.code, `The schema's ${at}: ${error.message}`, { cause: error });
  }
}

/** Formats that Zod and others name after the pattern beside them, which says it all. */
const PATTERN_FORMATS: ReadonlySet<unknown> = new Set([
  ...['base64', 'base64url', 'cidrv4', 'cidrv6', 'cuid', 'cuid2', 'e164', 'ends_with', 'includes'],
  ...['ksuid', 'lowercase', 'nanoid', 'regex', 'starts_with', 'ulid', 'uppercase', 'xid'],
]);

interface KnownFormat {
  readonly pattern: string;
  /** The pattern's texts are of the format up to this length. */
  readonly lengthMax?: number;
}

function formatOf(
  builder: SchemaBuilder,
  beside: { format: unknown; pattern: string | undefined; hasLength: boolean },
  at: string,
): KnownFormat | undefined {
  const { format, pattern, hasLength } = beside;
  if (format === undefined || (pattern !== undefined && PATTERN_FORMATS.has(format))) {
    return undefined;
  }
  const known = typeof format === 'string' ? FORMATS.get(format) : undefined;
  if (known === undefined) {
    throw builder.refuse(
      `${at}/format`,
      `is ${JSON.stringify(format)}; supported are ${[...FORMATS.keys()].join(', ')}`,
    );
  }
  const short = hasLength ? SHORT_FORMATS.get(format as string) : undefined;
  if (short === undefined) return { pattern: known };
  return { pattern: short, lengthMax: SHORT_FORMAT_LENGTH_MAX };
}

const BOUNDS = ['minimum', 'maximum', 'exclusiveMinimum', 'exclusiveMaximum'] as const;
/** Digits after the point of a number within bounds, unless the bounds have more. */
const DECIMALS = 2;

/** A decimal as an integer of 10^-scale. */
interface Decimal {
  readonly digits: bigint;
  readonly scale: number;
}

function numberExpression(
  builder: SchemaBuilder,
  schema: JsonObject,
  integer: boolean,
  at: string,
): Expression {
  const { multipleOf } = schema;
  const whole = integer || multipleOf === 1;
  if (multipleOf !== undefined && multipleOf !== 1) {
    throw builder.refuse(`${at}/multipleOf`, 'is supported only with 1');
  }
  const bounds = BOUNDS.map((keyword) => boundOf(builder, schema[keyword], keyword, at));
  if (bounds.every((bound) => bound === undefined)) return whole ? INTEGER : NUMBER;
  const scale = Math.max(DECIMALS, ...bounds.map((bound) => bound?.scale ?? 0));
  const integers = rangeExpression(rangeOf(bounds, 0));
  const decimals = whole ? undefined : rangeExpression(rangeOf(bounds, scale), scale);
  const options = [integers, decimals].filter((option) => option !== undefined);
  if (options.length === 0) throw builder.invalid(at, 'has bounds without a number in between');
  return either(...options);
}

function boundOf(
  builder: SchemaBuilder,
  value: unknown,
  keyword: (typeof BOUNDS)[number],
  of: string,
): Decimal | undefined {
  if (value === undefined) return undefined;
  const at = `${of}/${keyword}`;
  if (typeof value !== 'number') {
    throw builder.refuse(at, 'must be a number (a boolean, as in old drafts, is not supported)');
  }
  const match = /^(-?)(\d+)(?:\.(\d+))?(?:e([+-]\d+))?$/.exec(String(value));
  if (match === null) throw builder.invalid(at, 'must be a finite number');
  const [, sign, head, fraction = '', exponent = '0'] = match;
  const shift = Number(exponent);
  const scale = Math.max(0, fraction.length - shift);
  const zeros = Math.max(0, shift - fraction.length);
  const size = head!.length + fraction.length + zeros;
  // A bound that no number as long as may be written reaches, as Zod gives every integer, is kept to.
  const upper = keyword === 'maximum' || keyword === 'exclusiveMaximum';
  const unreachable = scale === 0 && upper === (sign === '');
  if ((size > JSON_DIGITS_MAX && !unreachable) || scale > JSON_DIGITS_MAX - 1) {
    throw builder.refuse(at, `needs more than ${JSON_DIGITS_MAX} digits`);
  }
  const digits = BigInt(`${sign}${head}${fraction}${'0'.repeat(zeros)}`);
  return { digits, scale };
}

/** The numbers within [minimum, maximum, exclusiveMinimum, exclusiveMaximum], times 10^scale. */
function rangeOf(
  [minimum, maximum, above, below]: readonly (Decimal | undefined)[],
  scale: number,
): { low: bigint | undefined; high: bigint | undefined } {
  const scaled = (bound: Decimal | undefined, up: boolean): [bigint, boolean] | undefined => {
    if (bound === undefined) return undefined;
    if (bound.scale <= scale) return [bound.digits * 10n ** BigInt(scale - bound.scale), true];
    const unit = 10n ** BigInt(bound.scale - scale);
    const floor = bound.digits / unit - (bound.digits % unit < 0n ? 1n : 0n);
    const exact = bound.digits % unit === 0n;
    return [exact || !up ? floor : floor + 1n, exact];
  };
  const lows: bigint[] = [];
  const highs: bigint[] = [];
  const least = scaled(minimum, true);
  if (least !== undefined) lows.push(least[0]);
  const most = scaled(maximum, false);
  if (most !== undefined) highs.push(most[0]);
  const over = scaled(above, true);
  if (over !== undefined) lows.push(over[1] ? over[0] + 1n : over[0]);
  const under = scaled(below, false);
  if (under !== undefined) highs.push(under[1] ? under[0] - 1n : under[0]);
  const largest = (a: bigint, b: bigint) => (a > b ? a : b);
  return {
    low: lows.length === 0 ? undefined : lows.reduce(largest),
    high: highs.length === 0 ? undefined : highs.reduce((a, b) => (a < b ? a : b)),
  };
}
