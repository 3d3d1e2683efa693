/**
 * The values of templates as Python has them. The library keeps JavaScript's habits in places (what
 * `true` prints, what equals what); templates are written for Jinja in Python.
 */
import { Environment, Interpreter } from '@huggingface/jinja';

/** A value of the library's interpreter. */
export interface Value {
  readonly type: string;
  readonly value: unknown;
}
export interface StringValue extends Value {
  readonly value: string;
}
export interface NumberValue extends Value {
  readonly value: number;
}
export interface ListValue extends Value {
  readonly value: Value[];
}
export interface DictValue extends Value {
  readonly value: Map<string, Value>;
}
/** Scopes of the library's interpreter, as far as functions see them. */
export interface Scope {
  readonly variables: Map<string, Value>;
  setVariable(name: string, value: Value): void;
}
export type TemplateFunction = (args: Value[], scope: Scope) => Value;
export interface FunctionValue extends Value {
  value: TemplateFunction;
}

type Make<Of, Made extends Value> = new (value: Of) => Made;
const probe = new Environment();
const classOf = <Of, Made extends Value>(name: string, sample: unknown): Make<Of, Made> =>
  probe.set(name, sample).constructor as Make<Of, Made>;

// The library exports none of its classes.
export const Str = classOf<string, StringValue>('string', '');
export const Int = classOf<number, NumberValue>('integer', 1);
export const Float = classOf<number, NumberValue>('float', 0.5);
const Bool = classOf<boolean, Value>('boolean', true);
export const List = classOf<Value[], ListValue>('list', []);
export const Dict = classOf<Map<string, Value>, DictValue>('dict', {});
const Func = classOf<TemplateFunction, FunctionValue>('function', () => null);
export const Tuple = new Interpreter(probe).evaluate(
  { type: 'TupleLiteral', value: [] } as never,
  probe,
).constructor as Make<Value[], ListValue>;

const Null = classOf<null, Value>('none', null);
const Undefined = classOf<undefined, Value>('undefined', undefined);
export const none = () => new Null(null);
export const undef = () => new Undefined(undefined);
export const bool = (value: boolean) => new Bool(value);
export const func = (value: TemplateFunction) => new Func(value);
/** A value of JSON. */
export const fromJson = (json: unknown): Value => new Environment().set('value', json) as Value;

export const isStr = (value: Value | undefined): value is StringValue => value instanceof Str;
export const isList = (value: Value | undefined): value is ListValue => value instanceof List;
export const isTuple = (value: Value | undefined): value is ListValue => value instanceof Tuple;
export const isDict = (value: Value | undefined): value is DictValue => value instanceof Dict;
export const isFunc = (value: Value | undefined): value is FunctionValue => value instanceof Func;
export const isBool = (value: Value | undefined): boolean => value instanceof Bool;
export const isNull = (value: Value | undefined): boolean => value instanceof Null;
export const isUndefined = (value: Value | undefined): boolean => value instanceof Undefined;
export const isInt = (value: Value | undefined): value is NumberValue => value instanceof Int;
export const isFloat = (value: Value | undefined): value is NumberValue => value instanceof Float;
/** Numbers; in Python a bool is one too. */
export const isNumber = (value: Value): boolean => isInt(value) || isFloat(value) || isBool(value);

export function truthy(value: Value): boolean {
  if (isList(value)) return value.value.length > 0;
  if (value.value instanceof Map) return isDict(value) ? value.value.size > 0 : true;
  return Boolean(value.value);
}

/** The shortest text that reads back as the number, with Python's exponents. */
function floatText(value: number): string {
  if (Number.isNaN(value)) return 'nan';
  if (!Number.isFinite(value)) return value > 0 ? 'inf' : '-inf';
  if (Object.is(value, -0)) return '-0.0';
  const size = Math.abs(value);
  if (size !== 0 && (size >= 1e16 || size < 1e-4)) {
    const [mantissa, exponent] = value.toExponential().split('e') as [string, string];
    return `${mantissa}e${exponent[0]}${exponent.slice(1).padStart(2, '0')}`;
  }
  return Number.isInteger(value) ? `${value}.0` : String(value);
}

const numberText = (value: Value): string =>
  isFloat(value)
    ? floatText(value.value)
    : // Integers of JSON lose digits above 2^53, but never get an exponent.
      BigInt(value.value as number).toString();

const ESCAPES: Readonly<Record<string, string>> = {
  '\\': '\\\\',
  '\n': '\\n',
  '\r': '\\r',
  '\t': '\\t',
};

/** A string as Python's `repr` writes it. */
function quoted(text: string): string {
  const quote = text.includes("'") && !text.includes('"') ? '"' : "'";
  const body = text.replaceAll(/[\\\n\r\t'"\p{Cc}]/gu, (char) => {
    if (char === "'" || char === '"') return char === quote ? `\\${char}` : char;
    return ESCAPES[char] ?? `\\x${char.codePointAt(0)!.toString(16).padStart(2, '0')}`;
  });
  return quote + body + quote;
}

/** Longest text that a template makes, in UTF-16 units. */
const TEXT_LENGTH_MAX = 2 * 2 ** 20;

/** @throws Error before a text becomes longer than the limit */
export function checkLength(length: number): void {
  if (length > TEXT_LENGTH_MAX) throw new Error(`a text is longer than ${TEXT_LENGTH_MAX}`);
}

let meter: (work: number) => void = () => {};

/** Counts work for whoever renders; throws when that was enough. */
export function spend(work: number): void {
  meter(work);
}

/** Runs a rendering, which never waits, so that all work until it ends is counted by `count`. */
export function metered<Result>(count: (work: number) => void, run: () => Result): Result {
  const before = meter;
  meter = count;
  try {
    return run();
  } finally {
    meter = before;
  }
}

/** Looking for one text in another may take the product of their lengths. */
export function spendSearch(text: string, wanted: string): void {
  meter(Math.floor((text.length / 2 ** 10) * (1 + wanted.length / 2 ** 6)));
}

/** Ends what goes through a value: lists that hold each other twice grow without taking memory. */
class Budget {
  #used = 0;

  spend(length: number): void {
    meter(1);
    this.#used += length + 1;
    checkLength(this.#used);
  }
}

function repr(value: Value, budget: Budget): string {
  const text = isStr(value) ? quoted(value.value) : isUndefined(value) ? 'Undefined' : undefined;
  if (text === undefined) return textOf(value, budget);
  budget.spend(text.length);
  return text;
}

/** What `{{ value }}` prints. */
export function textOf(value: Value, budget = new Budget()): string {
  if (isStr(value)) return value.value;
  budget.spend(0);
  if (isUndefined(value)) return '';
  if (isNull(value)) return 'None';
  if (isBool(value)) return value.value === true ? 'True' : 'False';
  if (isInt(value) || isFloat(value)) return numberText(value);
  if (isTuple(value)) {
    const items = value.value.map((item) => repr(item, budget));
    return items.length === 1 ? `(${items[0]},)` : `(${items.join(', ')})`;
  }
  if (isList(value)) return `[${value.value.map((item) => repr(item, budget)).join(', ')}]`;
  if (isDict(value)) {
    const parts = [...value.value].map(([key, item]) => `${quoted(key)}: ${repr(item, budget)}`);
    return `{${parts.join(', ')}}`;
  }
  throw new Error(`a ${value.type} cannot be printed`);
}

export interface JsonOptions {
  readonly ensureAscii: boolean;
  /** Spaces of a level; undefined writes one line. */
  readonly indent: number | undefined;
  readonly separators: readonly [item: string, key: string] | undefined;
  readonly sortKeys: boolean;
}

function jsonString(text: string, ensureAscii: boolean): string {
  const json = JSON.stringify(text);
  if (!ensureAscii) return json;
  return json.replaceAll(
    /[\u007f-\uffff]/g,
    (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}

/** Python's `json.dumps`. */
export function jsonOf(
  value: Value,
  options: JsonOptions,
  depth = 0,
  budget = new Budget(),
): string {
  budget.spend(isStr(value) ? value.value.length : 0);
  if (isStr(value)) return jsonString(value.value, options.ensureAscii);
  if (isNull(value)) return 'null';
  if (isBool(value)) return String(value.value);
  if (isInt(value) || isFloat(value)) return numberText(value);
  const { indent, separators } = options;
  const [comma, colon] = separators ?? [indent === undefined ? ', ' : ',', ': '];
  const wrap = (open: string, parts: string[], close: string): string => {
    if (indent === undefined || parts.length === 0) return open + parts.join(comma) + close;
    budget.spend(indent * (depth + 1) * (parts.length + 1));
    const margin = `\n${' '.repeat(indent * depth)}`;
    const inner = margin + ' '.repeat(indent);
    return open + inner + parts.join(comma + inner) + margin + close;
  };
  if (isList(value)) {
    const items = value.value.map((item) => jsonOf(item, options, depth + 1, budget));
    return wrap('[', items, ']');
  }
  if (isDict(value)) {
    const entries = [...value.value];
    if (options.sortKeys) entries.sort(([a], [b]) => compareText(a, b));
    const parts = entries.map(([key, item]) => {
      return (
        jsonString(key, options.ensureAscii) + colon + jsonOf(item, options, depth + 1, budget)
      );
    });
    return wrap('{', parts, '}');
  }
  throw new Error(`a ${value.type} cannot be written as JSON`);
}

/** By code points, as Python orders strings. */
export function compareText(a: string, b: string): number {
  const [x, y] = [Array.from(a), Array.from(b)];
  const at = x.findIndex((char, i) => char !== y[i]);
  if (at === -1) return x.length - y.length;
  return at >= y.length ? 1 : x[at]!.codePointAt(0)! - y[at]!.codePointAt(0)!;
}

export function equals(a: Value, b: Value, budget = new Budget()): boolean {
  budget.spend(0);
  if (isNumber(a) && isNumber(b)) return Number(a.value) === Number(b.value);
  if (isList(a) && isList(b)) {
    if (isTuple(a) !== isTuple(b) || a.value.length !== b.value.length) return false;
    return a.value.every((item, i) => equals(item, b.value[i]!, budget));
  }
  if (isDict(a) && isDict(b)) {
    if (a.value.size !== b.value.size) return false;
    return [...a.value].every(([key, item]) => {
      const other = b.value.get(key);
      return other !== undefined && equals(item, other, budget);
    });
  }
  return a.type === b.type && a.value === b.value;
}

/** @throws Error where Python has no order */
export function compare(a: Value, b: Value): number {
  meter(1);
  if (isNumber(a) && isNumber(b)) return Number(a.value) - Number(b.value);
  if (isStr(a) && isStr(b)) return compareText(a.value, b.value);
  throw new Error(`${a.type} and ${b.type} have no order`);
}

/** @throws Error where Python has no `in` */
export function contains(container: Value, item: Value): boolean {
  if (isUndefined(container)) return false;
  if (isList(container)) return container.value.some((other) => equals(item, other));
  if (isDict(container)) return isStr(item) && container.value.has(item.value);
  if (isStr(container) && isStr(item)) {
    spendSearch(container.value, item.value);
    return container.value.includes(item.value);
  }
  throw new Error(`a ${container.type} cannot contain a ${item.type}`);
}

/** What `for` and list filters go through; @throws Error for what is no sequence */
export function itemsOf(value: Value): Value[] {
  const { value: held } = value as { value: { length?: number; size?: number } | null | undefined };
  // A list of things not yet looked at costs a part of what looking at them will.
  meter(1 + Math.floor((held?.length ?? held?.size ?? 0) / 4));
  if (isList(value)) return value.value;
  if (isStr(value)) return Array.from(value.value, (char) => new Str(char));
  if (isDict(value)) return Array.from(value.value.keys(), (key) => new Str(key));
  if (isUndefined(value)) return [];
  throw new Error(`a ${value.type} cannot be gone through`);
}

/** Characters as Python counts them. */
function codePoints(text: string): number {
  meter(Math.floor(text.length / 64));
  let count = text.length;
  for (let i = 0; i < text.length; i++) {
    if ((text.charCodeAt(i) & 0xfc00) === 0xd800 && (text.charCodeAt(i + 1) & 0xfc00) === 0xdc00) {
      count--;
      i++;
    }
  }
  return count;
}

export function lengthOf(value: Value): number {
  if (isStr(value)) return codePoints(value.value);
  if (isDict(value)) return value.value.size;
  return isList(value) ? value.value.length : itemsOf(value).length;
}
