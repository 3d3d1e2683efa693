/**
 * One rendering. The library's interpreter runs the tree; what it does otherwise than Jinja in Python
 * is done here: scopes of loops and macros, operators, methods, filters, what values print. And it
 * counts, so that every rendering comes to an end.
 */
import { Interpreter } from '@huggingface/jinja';
import { asFilter, filterOf, testOf } from './filters.ts';
import { type Args, methodOf } from './methods.ts';
import { type Node, TEST_PREFIX } from './program.ts';
import {
  bool,
  checkLength,
  compare,
  contains,
  equals,
  Float,
  func,
  Int,
  isDict,
  isFloat,
  isFunc,
  isInt,
  isList,
  isNumber,
  isStr,
  isTuple,
  isUndefined,
  itemsOf,
  List,
  Loop,
  metered,
  none,
  Scope,
  Str,
  Tuple,
  textOf,
  truthy,
  undef,
  type Value,
} from './values.ts';

/** What one rendering may take. */
export interface RenderLimits {
  /** Nodes evaluated; 64 characters or 4 items looked at or made count as one each. */
  readonly workMax: number;
  readonly timeoutMs: number;
}

/** The limits of a rendering are reached. */
export class OutOfWork extends Error {
  constructor() {
    super('it does not come to an end in time');
  }
}

/** So often the time is looked at. */
const WORK_PER_LOOK = 1024;
/** Nested evaluations: recursive macros end here, not at the end of the stack. */
const DEPTH_MAX = 600;
const CHARS_PER_WORK = 64;
const ITEMS_PER_WORK = 4;

/** The library's interpreter, as far as it is used: its types are not exported. */
type Base = new (
  scope: Scope,
) => {
  evaluate(node: Node | undefined, scope: Scope): Value;
};

/** How a block ended. */
type Ending = 'end' | 'break' | 'continue';

function divide(a: number, b: number): number {
  if (b === 0) throw new Error('division by zero');
  return a / b;
}

function arithmetic(operator: string, a: number, b: number): number | undefined {
  switch (operator) {
    case '+':
      return a + b;
    case '-':
      return a - b;
    case '*':
      return a * b;
    case '/':
      return divide(a, b);
    case '//':
      return Math.floor(divide(a, b));
    case '%':
      return a - b * Math.floor(divide(a, b));
    case '**':
      return a ** b;
    default:
      return undefined;
  }
}

export class TemplateRun extends (Interpreter as unknown as Base) {
  #work = 0;
  #lookAt = WORK_PER_LOOK;
  #depth = 0;
  readonly #workMax: number;
  readonly #endMs: number;

  constructor(scope: Scope, { workMax, timeoutMs }: RenderLimits) {
    super(scope);
    this.#workMax = workMax;
    this.#endMs = performance.now() + timeoutMs;
  }

  #count(work: number): void {
    this.#work += work;
    if (this.#work < this.#lookAt) return;
    this.#lookAt = this.#work + WORK_PER_LOOK;
    if (this.#work > this.#workMax || performance.now() > this.#endMs) {
      throw new OutOfWork();
    }
  }

  /** Counts what is looked at or was made, so that large values cost what they take. */
  #weigh<Of extends Value>(value: Of): Of {
    if (isStr(value)) {
      checkLength(value.value.length);
      this.#count(Math.floor(value.value.length / CHARS_PER_WORK));
    } else if (isList(value)) this.#count(Math.floor(value.value.length / ITEMS_PER_WORK));
    return value;
  }

  /** Renders a whole template. */
  render(program: Node, scope: Scope): string {
    return metered(
      (work) => this.#count(work),
      () => textOf(this.evaluateBlock(program.body ?? [], scope)),
    );
  }

  /** @param node absent for the parts of a slice that are left out */
  override evaluate(node: Node | undefined, scope: Scope): Value {
    if (node === undefined) return undef();
    this.#count(1);
    if (++this.#depth > DEPTH_MAX) throw new Error('it is nested too deeply');
    try {
      const value = this.#evaluate(node, scope);
      return isReference(node) ? value : this.#weigh(value);
    } finally {
      this.#depth--;
    }
  }

  /** Also called by the library, for bodies of macros and `set` blocks. */
  evaluateBlock(statements: Node[], scope: Scope): Value {
    const out: string[] = [];
    this.#block(statements, scope, out);
    return this.#weigh(new Str(out.join('')));
  }

  #block(statements: readonly Node[], scope: Scope, out: string[]): Ending {
    for (const node of statements) {
      let ending: Ending = 'end';
      switch (node.type) {
        case 'StringLiteral':
          this.#count(1);
          out.push(node.value as string);
          break;
        case 'If': {
          const holds = truthy(this.evaluate(node.test!, scope));
          ending = this.#block((holds ? node.body : node.alternate) ?? [], scope, out);
          break;
        }
        case 'For':
          this.#loop(node, scope, out);
          break;
        case 'Break':
          return 'break';
        case 'Continue':
          return 'continue';
        case 'Set':
        case 'Macro':
        case 'Comment':
          this.evaluate(node, scope);
          break;
        default:
          out.push(textOf(this.evaluate(node, scope)));
      }
      if (ending !== 'end') return ending;
    }
    return 'end';
  }

  #loop(node: Node, scope: Scope, out: string[]): void {
    const { iterable, loopvar, body = [], defaultBlock = [] } = node;
    const selects = iterable!.type === 'SelectExpression';
    const all = itemsOf(this.evaluate(selects ? iterable!.lhs! : iterable!, scope));
    this.#count(all.length);
    const scopeOf = (item: Value) => {
      const inner = new Scope(scope);
      this.#assign(loopvar!, item, inner);
      return inner;
    };
    const items = selects
      ? all.filter((item) => truthy(this.evaluate(iterable!.test!, scopeOf(item))))
      : all;
    let turned = false;
    for (const [i, item] of items.entries()) {
      const inner = scopeOf(item);
      inner.setVariable('loop', new Loop(items, i));
      this.#count(1);
      const ending = this.#block(body, inner, out);
      if (ending === 'break') break;
      // As in Jinja: a turn that ends with `continue` was none.
      if (ending === 'end') turned = true;
    }
    if (!turned) this.#block(defaultBlock, new Scope(scope), out);
  }

  #assign(target: Node, value: Value, scope: Scope): void {
    if (target.type === 'Identifier') {
      scope.setVariable(target.value as string, value);
      return;
    }
    const targets = target.value as Node[];
    const values = itemsOf(value);
    if (values.length !== targets.length) {
      throw new Error(`${values.length} values cannot be given to ${targets.length} names`);
    }
    for (const [i, one] of targets.entries()) this.#assign(one, values[i]!, scope);
  }

  #evaluate(node: Node, scope: Scope): Value {
    switch (node.type) {
      case 'Identifier':
        return lookUp(node.value as string, scope);
      case 'StringLiteral':
        return new Str(node.value as string);
      case 'IntegerLiteral':
        return new Int(node.value as number);
      case 'If':
      case 'For':
      case 'Program':
        return this.evaluateBlock(node.type === 'Program' ? node.body! : [node], scope);
      case 'BinaryExpression':
        return this.#binary(node, scope);
      case 'UnaryExpression':
        if (node.operator!.value !== 'not') return super.evaluate(node, scope);
        return bool(!truthy(this.evaluate(node.argument!, scope)));
      case 'FilterExpression':
        return this.#filter(node.filter!, this.evaluate(node.operand!, scope), scope);
      case 'FilterStatement':
        return this.#filter(node.filter!, this.evaluateBlock(node.body!, scope), scope);
      case 'TestExpression': {
        const holds = testOf(node.test!.value as string)(this.evaluate(node.operand!, scope), []);
        return bool(holds !== node.negate);
      }
      case 'CallExpression':
        return this.#call(node, scope) ?? super.evaluate(node, scope);
      case 'MemberExpression':
        return this.#member(node, scope);
      case 'Macro':
        return this.#macro(node, scope);
      default:
        return super.evaluate(node, scope);
    }
  }

  #arguments(nodes: readonly Node[], scope: Scope): Args {
    const list: Value[] = [];
    const named = new Map<string, Value>();
    for (const node of nodes) {
      if (node.type === 'KeywordArgumentExpression') {
        named.set(node.key!.value as string, this.evaluate(node.value as Node, scope));
      } else if (node.type === 'SpreadExpression') {
        list.push(...itemsOf(this.evaluate(node.argument!, scope)));
      } else if (node.type === 'KeywordSpreadExpression') {
        const spread = this.evaluate(node.argument!, scope);
        if (!isDict(spread)) throw new Error('what follows ** is no dict');
        for (const [name, value] of spread.value) named.set(name, value);
      } else list.push(this.evaluate(node, scope));
    }
    return { list, named };
  }

  #filter(filter: Node, operand: Value, scope: Scope): Value {
    const name = (filter.callee ?? filter).value as string;
    const args = this.#arguments(filter.args ?? [], scope);
    if (isStr(operand)) this.#weigh(operand);
    if (!name.startsWith(TEST_PREFIX)) return filterOf(name)(operand, args);
    const negate = name.startsWith(`${TEST_PREFIX}not `);
    return asFilter(name.slice(TEST_PREFIX.length + (negate ? 4 : 0)), negate)(operand, args);
  }

  /** A method of a value; undefined for other calls, which are the library's. */
  #call(node: Node, scope: Scope): Value | undefined {
    const { callee, args = [] } = node;
    if (callee!.type !== 'MemberExpression' || callee!.computed === true) return undefined;
    const of = this.evaluate(callee!.object!, scope);
    const name = callee!.property!.value as string;
    const method = methodOf(of, name);
    if (isStr(of)) this.#weigh(of);
    if (method !== undefined) return method(this.#arguments(args, scope));
    const found = this.#memberOf(of, new Str(name), false);
    if (!isFunc(found)) throw new Error(`a ${of.type} has no method ${name}`);
    const { list, named } = this.#arguments(args, scope);
    if (named.size > 0) throw new Error(`${name} takes no named arguments`);
    return found.value([...list], scope);
  }

  #member(node: Node, scope: Scope): Value {
    const { object, property, computed } = node;
    const slices = computed === true && property!.type === 'SliceExpression';
    if (slices) return super.evaluate(node, scope);
    const of = this.evaluate(object!, scope);
    if (computed === true) return this.#memberOf(of, this.evaluate(property!, scope), true);
    const isIndex = property!.type === 'IntegerLiteral';
    const name = isIndex ? new Int(property!.value as number) : new Str(property!.value as string);
    return this.#memberOf(of, name, false);
  }

  #memberOf(of: Value, name: Value, computed: boolean): Value {
    if (isUndefined(of)) throw new Error(`${JSON.stringify(name.value)} of an undefined value`);
    if (isInt(name)) {
      if (isList(of)) return of.value.at(name.value) ?? undef();
      if (isStr(of)) {
        this.#weigh(of);
        const char = Array.from(of.value).at(name.value);
        return char === undefined ? undef() : new Str(char);
      }
      return undef();
    }
    if (!isStr(name)) return undef();
    if (of instanceof Loop) return of.get(name.value);
    // `x.items` is Python's method even where the dict has such a key; `x['items']` is the key.
    const method = methodOf(of, name.value);
    const asFunction = () => func((args) => method!({ list: args, named: new Map() }));
    if (method !== undefined && !computed) return asFunction();
    const held =
      of.value instanceof Map ? (of.value as Map<string, Value>).get(name.value) : undefined;
    return held ?? (method === undefined ? undef() : asFunction());
  }

  /** Macros see the scope they were written in, not that of who calls them. */
  #macro(node: Node, scope: Scope): Value {
    super.evaluate(node, scope);
    const name = node.name!.value as string;
    const macro = scope.variables.get(name);
    if (isFunc(macro)) {
      const run = macro.value;
      macro.value = (args, callers) => {
        const inner = new Scope(scope);
        const caller = callers.variables.get('caller');
        if (caller !== undefined) inner.setVariable('caller', caller);
        return run(args, inner);
      };
    }
    return none();
  }

  #binary(node: Node, scope: Scope): Value {
    const operator = node.operator!.value;
    const a = this.evaluate(node.left!, scope);
    if (operator === 'and') return truthy(a) ? this.evaluate(node.right!, scope) : a;
    if (operator === 'or') return truthy(a) ? a : this.evaluate(node.right!, scope);
    const b = this.evaluate(node.right!, scope);
    switch (operator) {
      case '==':
        return bool(equals(a, b));
      case '!=':
        return bool(!equals(a, b));
      case 'in':
        return bool(contains(b, a));
      case 'not in':
        return bool(!contains(b, a));
      case '<':
        return bool(compare(a, b) < 0);
      case '>':
        return bool(compare(a, b) > 0);
      case '<=':
        return bool(compare(a, b) <= 0);
      case '>=':
        return bool(compare(a, b) >= 0);
      case '~':
        return new Str(textOf(a) + textOf(b));
      default:
        return this.#calculate(operator, a, b);
    }
  }

  #calculate(operator: string, a: Value, b: Value): Value {
    if (operator === '+') {
      if (isStr(a) && isStr(b)) return new Str(a.value + b.value);
      if (isList(a) && isList(b) && isTuple(a) === isTuple(b)) {
        const items = [...a.value, ...b.value];
        return isTuple(a) ? new Tuple(items) : new List(items);
      }
    }
    if (operator === '*' && isStr(a) && isInt(b)) {
      checkLength(a.value.length * b.value);
      return new Str(a.value.repeat(Math.max(0, b.value)));
    }
    const result =
      isNumber(a) && isNumber(b)
        ? arithmetic(operator, Number(a.value), Number(b.value))
        : undefined;
    if (result === undefined) {
      throw new Error(`${a.type} and ${b.type} cannot be combined by ${operator}`);
    }
    const whole = operator !== '/' && !isFloat(a) && !isFloat(b) && Number.isInteger(result);
    return whole ? new Int(result) : new Float(result);
  }
}

function lookUp(name: string, scope: Scope): Value {
  for (let at: Scope | undefined = scope; at !== undefined; at = at.parent) {
    const value = at.variables.get(name);
    if (value !== undefined) return value;
  }
  return undef();
}

/** What is there already, and only named. */
function isReference({ type, property }: Node): boolean {
  return (
    type === 'Identifier' || (type === 'MemberExpression' && property!.type !== 'SliceExpression')
  );
}
