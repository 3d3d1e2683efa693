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
/** Variables by name: as much of the library's Environment as it needs, which is slow to make. */
export class Scope {
  readonly variables = new Map<string, Value>();
  readonly parent: Scope | undefined;

  constructor(parent?: Scope) {
    this.parent = parent;
  }

  setVariable(name: string, value: Value): void {
    this.variables.set(name, value);
  }
}
export type TemplateFunction = (args: Value[], scope: Scope) => Value;
export interface FunctionValue extends Value {
  value: TemplateFunction;
}

type Make<Of, Made extends Value> = new (value: Of) => Made;
const probe = new Environment();

/**
 * Makes what the library's class of a sample makes, twenty times as fast: each of its constructors
 * defines the field `type` anew, which V8 does slowly. The library exports none of these classes.
 */
function makerOf<Of, Made extends Value>(sample: Value): Make<Of, Made> {
  const { type } = sample;
  function Made(this: { type: string; value: Of }, value: Of) {
    this.type = type;
    this.value = value;
  }
  Made.prototype = Object.getPrototypeOf(sample);
  return Made as unknown as Make<Of, Made>;
}
const sampleOf = (name: string, value: unknown) => probe.set(name, value) as Value;

export const Str = makerOf<string, StringValue>(sampleOf('string', ''));
export const Int = makerOf<number, NumberValue>(sampleOf('integer', 1));
export const Float = makerOf<number, NumberValue>(sampleOf('float', 0.5));
const Bool = makerOf<boolean, Value>(sampleOf('boolean', true));
export const List = makerOf<Value[], ListValue>(sampleOf('list', []));
export const Dict = makerOf<Map<string, Value>, DictValue>(sampleOf('dict', {}));
const Func = makerOf<TemplateFunction, FunctionValue>(sampleOf('function', () => null));
export const Tuple = makerOf<Value[], ListValue>(
  new Interpreter(probe).evaluate({ type: 'TupleLiteral', value: [] } as never, probe) as Value,
);

const Null = makerOf<null, Value>(sampleOf('none', null));
const Undefined = makerOf<undefined, Value>(sampleOf('undefined', undefined));
const [NONE, UNDEFINED, TRUE, FALSE] = [
  new Null(null),
  new Undefined(undefined),
  new Bool(true),
  new Bool(false),
];
export const none = () => NONE;
export const undef = () => UNDEFINED;
export const bool = (value: boolean) => (value ? TRUE : FALSE);
export const func = (value: TemplateFunction) => new Func(value);
/** The library's function that makes a namespace. */
export const namespace = probe.lookupVariable('namespace') as Value;

/** A value of JSON. */
export function fromJson(json: unknown): Value {
  switch (typeof json) {
    case 'string':
      return new Str(json);
    case 'boolean':
      return bool(json);
    case 'number':
      return Number.isInteger(json) ? new Int(json) : new Float(json);
    case 'undefined':
      return undef();
  }
  if (json === null) return none();
  if (Array.isArray(json)) return new List(json.map(fromJson));
  const held = new Map<string, Value>();
  for (const [key, value] of Object.entries(json as object)) held.set(key, fromJson(value));
  return new Dict(held);
}

/** `loop` in one turn of a `for`. */
export class Loop implements Value {
  readonly type = 'loop';
  readonly value: readonly Value[];
  readonly #at: number;

  constructor(items: readonly Value[], at: number) {
    this.value = items;
    this.#at = at;
  }

  get(field: string): Value {
    const { value: items } = this;
    const at = this.#at;
    switch (field) {
      case 'index':
        return new Int(at + 1);
      case 'index0':
        return new Int(at);
      case 'revindex':
        return new Int(items.length - at);
      case 'revindex0':
        return new Int(items.length - at - 1);
      case 'first':
        return bool(at === 0);
      case 'last':
        return bool(at === items.length - 1);
      case 'length':
        return new Int(items.length);
      case 'previtem':
        return items[at - 1] ?? undef();
      case 'nextitem':
        return items[at + 1] ?? undef();
      case 'cycle':
        return func((args) => args[at % args.length] ?? undef());
      default:
        return undef();
    }
  }
}

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
export function textOf(value: Value, within?: Budget): string {
  if (isStr(value)) return value.value;
  const budget = within ?? new Budget();
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

export function equals(a: Value, b: Value, within?: Budget): boolean {
  if (isStr(a) && isStr(b)) {
    meter(1);
    return a.value === b.value;
  }
  const budget = within ?? new Budget();
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
