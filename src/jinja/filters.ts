/** Filters and tests of Jinja, as Python's computes them. */
import {
  type Args,
  arg,
  capitalize,
  dictItems,
  methodOf,
  replace,
  splitLines,
  strip,
} from './methods.ts';
import {
  bool,
  checkLength,
  compare,
  contains,
  equals,
  Float,
  Int,
  isBool,
  isDict,
  isFloat,
  isFunc,
  isInt,
  isList,
  isNull,
  isNumber,
  isStr,
  isTuple,
  isUndefined,
  itemsOf,
  jsonOf,
  List,
  lengthOf,
  Str,
  textOf,
  truthy,
  undef,
  type Value,
} from './values.ts';

type Filter = (value: Value, args: Args) => Value;
type Test = (value: Value, args: readonly Value[]) => boolean;

const whole = (value: Value | undefined): number | undefined => {
  if (value === undefined || isNull(value)) return undefined;
  if (isInt(value)) return value.value;
  throw new Error('a filter was given something other than a whole number');
};
const flag = (value: Value | undefined) => value !== undefined && truthy(value);
const string = (value: Value | undefined): string | undefined =>
  value === undefined || isNull(value) ? undefined : textOf(value);
const needed = (value: Value | undefined, what: string): Value => {
  if (value === undefined) throw new Error(`${what} is missing`);
  return value;
};

/** `a.b.0` of an item. */
function attributeOf(item: Value, name: Value): Value {
  let found: Value = item;
  for (const part of textOf(name).split('.')) {
    if (isDict(found)) found = found.value.get(part) ?? undef();
    else if (isList(found) && /^\d+$/.test(part)) found = found.value[Number(part)] ?? undef();
    else return undef();
  }
  return found;
}

const folded = (value: Value, caseSensitive: boolean): Value =>
  isStr(value) && !caseSensitive ? new Str(value.value.toLowerCase()) : value;

function sorted(value: Value, args: Args): Value {
  const reverse = flag(arg(args, 0, 'reverse'));
  const caseSensitive = flag(arg(args, 1, 'case_sensitive'));
  const by = arg(args, 2, 'attribute');
  const key = (item: Value) =>
    folded(by === undefined || isNull(by) ? item : attributeOf(item, by), caseSensitive);
  const items = itemsOf(value).map((item) => ({ item, key: key(item) }));
  items.sort((a, b) => (reverse ? compare(b.key, a.key) : compare(a.key, b.key)));
  return new List(items.map(({ item }) => item));
}

function dictSorted(value: Value, args: Args): Value {
  if (!isDict(value)) throw new Error('dictsort needs a dict');
  const caseSensitive = flag(arg(args, 0, 'case_sensitive'));
  const at = string(arg(args, 1, 'by')) === 'value' ? 1 : 0;
  const reverse = flag(arg(args, 2, 'reverse'));
  const key = (pair: Value) => folded((pair.value as Value[])[at]!, caseSensitive);
  const order = (a: Value, b: Value) => compare(key(a), key(b));
  const pairs = [...dictItems(value).value];
  return new List(pairs.sort((a, b) => (reverse ? order(b, a) : order(a, b))));
}

function indented(value: Value, args: Args): Value {
  const width = arg(args, 0, 'width') ?? new Int(4);
  const size = isStr(width) ? 0 : (whole(width) ?? 0);
  checkLength(size);
  const margin = isStr(width) ? width.value : ' '.repeat(Math.max(0, size));
  const [first, blank] = [flag(arg(args, 1, 'first')), flag(arg(args, 2, 'blank'))];
  // Jinja appends a newline so that a last, empty line counts.
  const lines = splitLines(`${textOf(value)}\n`);
  checkLength(textOf(value).length + lines.length * margin.length);
  const body = lines.map((line, i) => {
    if (i === 0) return (first ? margin : '') + line;
    return blank || line !== '' ? margin + line : line;
  });
  return new Str(body.join('\n'));
}

function toInt(value: Value, args: Args): Value {
  const otherwise = arg(args, 0, 'default') ?? new Int(0);
  if (isNumber(value)) return new Int(Math.trunc(Number(value.value)));
  const text = isStr(value) ? strip(value.value, undefined, 'both') : '';
  if (!/^[+-]?\d+(\.\d*)?(e[+-]?\d+)?$/i.test(text)) return otherwise;
  return new Int(Math.trunc(Number(text)));
}

function toFloat(value: Value, args: Args): Value {
  const otherwise = arg(args, 0, 'default') ?? new Float(0);
  if (isNumber(value)) return new Float(Number(value.value));
  const text = isStr(value) ? strip(value.value, undefined, 'both') : '';
  return /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(text) ? new Float(Number(text)) : otherwise;
}

function tojson(value: Value, args: Args): Value {
  const separators = arg(args, 2, 'separators');
  const indent = whole(arg(args, 1, 'indent'));
  if (indent !== undefined) checkLength(indent);
  return new Str(
    jsonOf(value, {
      ensureAscii: flag(arg(args, 0, 'ensure_ascii')),
      indent,
      separators: isList(separators)
        ? (separators.value.map((item) => textOf(item)) as [string, string])
        : undefined,
      sortKeys: flag(arg(args, 3, 'sort_keys')),
    }),
  );
}

function joined(value: Value, args: Args): Value {
  const by = arg(args, 1, 'attribute');
  const parts = itemsOf(value).map((item) =>
    textOf(by === undefined ? item : attributeOf(item, by)),
  );
  const separator = string(arg(args, 0, 'd')) ?? '';
  checkLength(parts.reduce((sum, part) => sum + part.length + separator.length, 0));
  return new Str(parts.join(separator));
}

function mapped(value: Value, args: Args): Value {
  const attribute = args.named.get('attribute');
  if (attribute !== undefined) {
    const otherwise = args.named.get('default');
    return new List(
      itemsOf(value).map((item) => {
        const found = attributeOf(item, attribute);
        return isUndefined(found) && otherwise !== undefined ? otherwise : found;
      }),
    );
  }
  const name = textOf(needed(args.list[0], 'the filter of map()'));
  const rest = { list: args.list.slice(1), named: args.named };
  return new List(itemsOf(value).map((item) => filterOf(name)(item, rest)));
}

/** `select`, `reject` and, with an attribute first, `selectattr`, `rejectattr`. */
function selecting(keeps: boolean, hasAttribute: boolean): Filter {
  return (value, { list }) => {
    const attribute = hasAttribute ? needed(list[0], 'the attribute') : undefined;
    const [name, ...args] = hasAttribute ? list.slice(1) : list;
    const test: Test = name === undefined ? truthy : testOf(textOf(name));
    const passes = (item: Value) =>
      test(attribute === undefined ? item : attributeOf(item, attribute), args) === keeps;
    return new List(itemsOf(value).filter(passes));
  };
}

function unique(value: Value): Value {
  const kept: Value[] = [];
  const seen = new Set<string>();
  for (const item of itemsOf(value)) {
    const key = `${item.type} ${textOf(folded(item, false))}`;
    if (!seen.has(key)) kept.push(item);
    seen.add(key);
  }
  return new List(kept);
}

function absolute(value: Value): Value {
  if (!isNumber(value)) throw new Error('abs needs a number');
  const size = Math.abs(Number(value.value));
  return isFloat(value) ? new Float(size) : new Int(size);
}

const reversed = (value: Value): Value =>
  isStr(value)
    ? new Str(Array.from(value.value).reverse().join(''))
    : new List([...itemsOf(value)].reverse());

const titled = (text: string) =>
  text
    .split(/([-\s({[<]+)/)
    .map(capitalize)
    .join('');

const onText =
  (change: (text: string, args: Args) => string): Filter =>
  (value, args) =>
    new Str(change(textOf(value), args));

const defaulted: Filter = (value, args) => {
  const replaced = isUndefined(value) || (flag(arg(args, 1, 'boolean')) && !truthy(value));
  return replaced ? (arg(args, 0, 'default_value') ?? new Str('')) : value;
};
const count: Filter = (value) => new Int(lengthOf(value));

const FILTERS: Readonly<Record<string, Filter>> = {
  abs: absolute,
  capitalize: onText(capitalize),
  count,
  d: defaulted,
  default: defaulted,
  dictsort: dictSorted,
  first: (value) => itemsOf(value)[0] ?? undef(),
  float: toFloat,
  indent: indented,
  int: toInt,
  items: (value) => {
    if (isUndefined(value)) return new List([]);
    if (!isDict(value)) throw new Error('items needs a dict');
    return dictItems(value);
  },
  join: joined,
  last: (value) => itemsOf(value).at(-1) ?? undef(),
  length: count,
  list: (value) => new List([...itemsOf(value)]),
  lower: onText((text) => text.toLowerCase()),
  map: mapped,
  reject: selecting(false, false),
  rejectattr: selecting(false, true),
  replace: onText((text, args) => {
    const [from, to] = [arg(args, 0, 'old'), arg(args, 1, 'new')];
    const most = whole(arg(args, 2, 'count')) ?? -1;
    return replace(text, textOf(needed(from, 'old')), textOf(needed(to, 'new')), most);
  }),
  reverse: reversed,
  safe: (value) => value,
  select: selecting(true, false),
  selectattr: selecting(true, true),
  sort: sorted,
  string: onText((text) => text),
  sum: (value) =>
    itemsOf(value).reduce<Value>((sum, item) => {
      if (!isNumber(item)) throw new Error('sum needs numbers');
      const total = Number(sum.value) + Number(item.value);
      return isFloat(sum) || isFloat(item) ? new Float(total) : new Int(total);
    }, new Int(0)),
  title: onText(titled),
  tojson,
  trim: onText((text, args) => strip(text, arg(args, 0, 'chars'), 'both')),
  unique,
  upper: onText((text) => text.toUpperCase()),
};

const isEqual: Test = (value, [other]) => equals(value, needed(other, 'what a test compares'));
const order =
  (holds: (sign: number) => boolean): Test =>
  (value, [other]) =>
    holds(compare(value, needed(other, 'what a test compares')));

const TESTS: Readonly<Record<string, Test>> = {
  boolean: isBool,
  callable: isFunc,
  defined: (value) => !isUndefined(value),
  divisibleby: (value, [by]) => Number(value.value) % Number(by?.value) === 0,
  eq: isEqual,
  equalto: isEqual,
  even: (value) => Number(value.value) % 2 === 0,
  false: (value) => isBool(value) && value.value === false,
  float: isFloat,
  ge: order((sign) => sign >= 0),
  gt: order((sign) => sign > 0),
  in: (value, [container]) => contains(needed(container, 'what a test looks in'), value),
  integer: isInt,
  iterable: (value) => isStr(value) || isList(value) || isDict(value) || isUndefined(value),
  le: order((sign) => sign <= 0),
  lower: (value) =>
    isStr(value) && truthy(methodOf(value, 'islower')!({ list: [], named: new Map() })),
  lt: order((sign) => sign < 0),
  mapping: isDict,
  ne: (value, args) => !isEqual(value, args),
  none: isNull,
  number: isNumber,
  odd: (value) => Math.abs(Number(value.value) % 2) === 1,
  sameas: (value, [other]) =>
    other !== undefined && value.type === other.type && equals(value, other),
  sequence: (value) =>
    isStr(value) || isList(value) || isTuple(value) || isDict(value) || isUndefined(value),
  string: isStr,
  true: (value) => isBool(value) && value.value === true,
  undefined: isUndefined,
  upper: (value) =>
    isStr(value) && truthy(methodOf(value, 'isupper')!({ list: [], named: new Map() })),
  '==': isEqual,
  '!=': (value, args) => !isEqual(value, args),
};

/** @throws Error for a filter that is not among those above */
export function filterOf(name: string): Filter {
  const filter = Object.hasOwn(FILTERS, name) ? FILTERS[name] : undefined;
  if (filter === undefined) throw new Error(`the filter "${name}" is not supported`);
  return filter;
}

/** @throws Error for a test that is not among those above */
export function testOf(name: string): Test {
  const test = Object.hasOwn(TESTS, name) ? TESTS[name] : undefined;
  if (test === undefined) throw new Error(`the test "${name}" is not supported`);
  return test;
}

/** A test as a filter: how tests with arguments are parsed. */
export const asFilter =
  (name: string, negate: boolean): Filter =>
  (value, { list }) =>
    bool(testOf(name)(value, list) !== negate);
