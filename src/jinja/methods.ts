/** Methods of Python's strings, dicts and lists that templates call. */
import {
  bool,
  checkLength,
  Dict,
  type DictValue,
  equals,
  Int,
  isDict,
  isInt,
  isList,
  isNull,
  isStr,
  itemsOf,
  List,
  type ListValue,
  none,
  Str,
  type StringValue,
  spendSearch,
  Tuple,
  type Value,
} from './values.ts';

/** Arguments of a call: by place and by name. */
export interface Args {
  readonly list: readonly Value[];
  readonly named: ReadonlyMap<string, Value>;
}

/** One argument, wherever it stands; undefined when it is left out. */
export const arg = ({ list, named }: Args, index: number, name: string): Value | undefined =>
  list[index] ?? named.get(name);

const text = (value: Value | undefined, what: string): string => {
  if (isStr(value)) return value.value;
  throw new Error(`${what} must be a text`);
};
const whole = (value: Value | undefined, otherwise: number): number => {
  if (value === undefined) return otherwise;
  if (isInt(value)) return value.value;
  throw new Error('a count must be a whole number');
};

const SPACE =
  '\\t-\\r\\x1c-\\x1f \\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000';
const SPACES = new RegExp(`[${SPACE}]+`, 'u');
const SPACE_CODES = new Set(
  Array.from({ length: 0x3001 }, (_, code) => code).filter((code) =>
    SPACES.test(String.fromCharCode(code)),
  ),
);

/** Python's `strip`: white space, or any of the given characters. */
export function strip(value: string, chars: Value | undefined, side: 'both' | 'left' | 'right') {
  const given = chars === undefined || isNull(chars) ? undefined : text(chars, 'strip()');
  if (given === undefined) return stripCodes(value, SPACE_CODES, side);
  const set = new Set(Array.from(given));
  // Without characters beyond the first 65,536, units are characters.
  if (given.length === set.size) {
    return stripCodes(value, new Set([...set].map((char) => char.charCodeAt(0))), side);
  }
  const points = Array.from(value);
  let [start, end] = [0, points.length];
  if (side !== 'right') while (start < end && set.has(points[start]!)) start++;
  if (side !== 'left') while (end > start && set.has(points[end - 1]!)) end--;
  return points.slice(start, end).join('');
}

function stripCodes(value: string, codes: ReadonlySet<number>, side: 'both' | 'left' | 'right') {
  let [start, end] = [0, value.length];
  if (side !== 'right') while (start < end && codes.has(value.charCodeAt(start))) start++;
  if (side !== 'left') while (end > start && codes.has(value.charCodeAt(end - 1))) end--;
  return value.slice(start, end);
}

export function replace(value: string, from: string, to: string, countMax: number): string {
  if (countMax === 0) return value;
  spendSearch(value, from);
  const pieces = from === '' ? ['', ...Array.from(value), ''] : value.split(from);
  const cuts = countMax < 0 ? pieces.length - 1 : Math.min(countMax, pieces.length - 1);
  checkLength(value.length + cuts * to.length);
  return pieces.slice(0, cuts + 1).join(to) + rest(pieces.slice(cuts + 1), from);
}
const rest = (pieces: string[], from: string) => pieces.map((piece) => from + piece).join('');

function split(value: string, args: Args): string[] {
  const separator = arg(args, 0, 'sep');
  const most = whole(arg(args, 1, 'maxsplit'), -1);
  if (separator === undefined || isNull(separator)) {
    const trimmed = strip(value, undefined, most < 0 ? 'both' : 'left');
    if (trimmed === '') return [];
    if (most < 0) return trimmed.split(SPACES);
    const found: string[] = [];
    let left = trimmed;
    while (found.length < most) {
      const match = SPACES.exec(left);
      if (match === null) break;
      found.push(left.slice(0, match.index));
      left = left.slice(match.index + match[0].length);
      if (left === '') return found;
    }
    return [...found, left];
  }
  const by = text(separator, 'split()');
  if (by === '') throw new Error('split() has an empty separator');
  spendSearch(value, by);
  const parts = value.split(by);
  if (most < 0 || parts.length <= most + 1) return parts;
  return [...parts.slice(0, most), parts.slice(most).join(by)];
}

function rsplit(value: string, args: Args): string[] {
  const by = text(arg(args, 0, 'sep'), 'rsplit()');
  if (by === '') throw new Error('rsplit() has an empty separator');
  spendSearch(value, by);
  const most = whole(arg(args, 1, 'maxsplit'), -1);
  const parts = value.split(by);
  if (most < 0 || parts.length <= most + 1) return parts;
  const cut = parts.length - most;
  return [parts.slice(0, cut).join(by), ...parts.slice(cut)];
}

const LINE_END = '\\n-\\r\\x1c-\\x1e\\x85\\u2028\\u2029';
const LINE_ENDS = new RegExp(`\\r\\n|[${LINE_END}]`, 'u');
export function splitLines(value: string): string[] {
  const lines = value.split(LINE_ENDS);
  if (lines.at(-1) === '') lines.pop();
  return lines;
}

export const capitalize = (value: string): string => {
  const [first = '', ...others] = Array.from(value);
  return first.toUpperCase() + others.join('').toLowerCase();
};
/** `str.title`: every run of letters begins with a capital. */
const title = (value: string): string => value.replaceAll(/\p{L}+/gu, capitalize);

function affix(test: (value: string, part: string) => boolean) {
  return (value: string, args: Args): Value => {
    const [parts] = args.list;
    const list = isList(parts) ? parts.value : [parts];
    return bool(list.some((part) => test(value, text(part, 'startswith() and endswith()'))));
  };
}
const searched = (value: string, wanted: Value | undefined, what: string): string => {
  const part = text(wanted, what);
  spendSearch(value, part);
  return part;
};
const pointIndex = (value: string, units: number) =>
  units < 0 ? units : Array.from(value.slice(0, units)).length;
const strings = (parts: readonly string[]) => new List(parts.map((part) => new Str(part)));
const every = (pattern: RegExp) => (value: string) => bool(pattern.test(value));

const STRING_METHODS: Readonly<Record<string, (value: string, args: Args) => Value>> = {
  strip: (value, args) => new Str(strip(value, args.list[0], 'both')),
  lstrip: (value, args) => new Str(strip(value, args.list[0], 'left')),
  rstrip: (value, args) => new Str(strip(value, args.list[0], 'right')),
  split: (value, args) => strings(split(value, args)),
  rsplit: (value, args) => strings(rsplit(value, args)),
  splitlines: (value) => strings(splitLines(value)),
  upper: (value) => new Str(value.toUpperCase()),
  lower: (value) => new Str(value.toLowerCase()),
  capitalize: (value) => new Str(capitalize(value)),
  title: (value) => new Str(title(value)),
  startswith: affix((value, part) => value.startsWith(part)),
  endswith: affix((value, part) => value.endsWith(part)),
  removeprefix: (value, { list }) => {
    const part = text(list[0], 'removeprefix()');
    return new Str(value.startsWith(part) ? value.slice(part.length) : value);
  },
  removesuffix: (value, { list }) => {
    const part = text(list[0], 'removesuffix()');
    return new Str(part !== '' && value.endsWith(part) ? value.slice(0, -part.length) : value);
  },
  replace: (value, args) => {
    const from = text(arg(args, 0, 'old'), 'replace()');
    const to = text(arg(args, 1, 'new'), 'replace()');
    return new Str(replace(value, from, to, whole(arg(args, 2, 'count'), -1)));
  },
  find: (value, { list }) => {
    const part = searched(value, list[0], 'find()');
    return new Int(pointIndex(value, value.indexOf(part)));
  },
  rfind: (value, { list }) => {
    const part = searched(value, list[0], 'rfind()');
    return new Int(pointIndex(value, value.lastIndexOf(part)));
  },
  count: (value, { list }) => {
    const part = searched(value, list[0], 'count()');
    return new Int(part === '' ? Array.from(value).length + 1 : value.split(part).length - 1);
  },
  join: (value, { list }) => {
    const parts = itemsOf(list[0] ?? none()).map((item) => text(item, 'what join() joins'));
    checkLength(parts.reduce((sum, part) => sum + part.length + value.length, 0));
    return new Str(parts.join(value));
  },
  isdigit: every(/^\p{Nd}+$/u),
  isalpha: every(/^\p{L}+$/u),
  isalnum: every(/^[\p{L}\p{N}]+$/u),
  isspace: (value) => bool(value !== '' && strip(value, undefined, 'both') === ''),
  isupper: (value) => bool(value === value.toUpperCase() && value !== value.toLowerCase()),
  islower: (value) => bool(value === value.toLowerCase() && value !== value.toUpperCase()),
};

const pairs = ({ value }: DictValue) =>
  new List([...value].map(([key, item]) => new Tuple([new Str(key), item])));

const DICT_METHODS: Readonly<Record<string, (dict: DictValue, args: Args) => Value>> = {
  get: ({ value }, { list: [key, otherwise] }) =>
    (isStr(key) ? value.get(key.value) : undefined) ?? otherwise ?? none(),
  items: (dict) => pairs(dict),
  keys: (dict) => new List(itemsOf(dict)),
  values: ({ value }) => new List([...value.values()]),
  copy: ({ value }) => new Dict(new Map(value)),
};

const LIST_METHODS: Readonly<Record<string, (list: ListValue, args: Args) => Value>> = {
  index: ({ value }, { list: [wanted] }) => {
    const at = value.findIndex((item) => wanted !== undefined && equals(item, wanted));
    if (at === -1) throw new Error('index() finds no such item');
    return new Int(at);
  },
  count: ({ value }, { list: [wanted] }) =>
    new Int(value.filter((item) => wanted !== undefined && equals(item, wanted)).length),
  copy: ({ value }) => new List([...value]),
};

/** Pairs of a dict, as its `items` has them. */
export const dictItems = pairs;

/** The method of a value, ready to be called; undefined when it has none of this name. */
export function methodOf(of: Value, name: string): ((args: Args) => Value) | undefined {
  const own = <T>(table: Readonly<Record<string, T>>) =>
    Object.hasOwn(table, name) ? table[name] : undefined;
  if (isStr(of)) {
    const method = own(STRING_METHODS);
    return method && ((args) => method((of as StringValue).value, args));
  }
  if (isDict(of)) {
    const method = own(DICT_METHODS);
    return method && ((args) => method(of, args));
  }
  if (!isList(of)) return undefined;
  const method = own(LIST_METHODS);
  return method && ((args) => method(of, args));
}
