/**
 * Python `re` patterns as RE2 patterns. PEFT hands the patterns of a config to Python's
 * backtracking matcher; here they come from strangers and run in linear time, so each pattern is
 * parsed after Python's grammar (docs.python.org/3/library/re.html) and written anew for RE2.
 * What RE2 cannot express, and what is not surely understood, is refused.
 *
 * The translation holds for texts of printable ASCII without spaces, which module paths are: there
 * `$` is the end, `.` is any character, and Unicode classes equal the ASCII ones.
 */
import { RE2JS } from 're2js';
import { LoramuxError } from '../../errors.ts';

/** Characters of one pattern. Patterns that tools write for large models stay below 1,000. */
export const MAX_PATTERN_LENGTH = 4096;
/** Atoms of a pattern with its repetitions written out; bounds the time per character of text. */
export const MAX_PATTERN_SIZE = 5000;
/** Nested groups of one pattern. */
export const MAX_PATTERN_DEPTH = 50;
/** RE2's limit on one counted repetition. */
const MAX_REPEAT = 1000;

export interface PythonRegex {
  /** Atoms with repetitions written out: cost per character of text. */
  readonly size: number;
  /** `re.fullmatch(pattern, text)` finds a match. */
  fullMatch(text: string): boolean;
  /** `re.match(pattern, text)`: the named groups that took part, or undefined without a match. */
  match(text: string): ReadonlyMap<string, string> | undefined;
}

/** @throws LoramuxError adapter_regex_unsupported */
export function compilePythonRegex(pattern: string, where: string): PythonRegex {
  const parser = new Parser(pattern, where);
  const body = parser.parse();
  const flags = parser.ignoreCase ? RE2JS.CASE_INSENSITIVE : 0;
  const compile = (source: string): RE2JS => {
    try {
      return RE2JS.compile(source, flags);
    } catch (cause) {
      throw unsupported(pattern, where, 'it is too large or too complex', cause);
    }
  };
  const full = compile(`\\A(?:${body})\\z`);
  const prefix = compile(`\\A(?:${body})`);
  return {
    size: parser.size,
    fullMatch: (text) => full.test(text),
    match: (text) => {
      if (parser.groupNames.size === 0) return prefix.test(text) ? new Map() : undefined;
      const matcher = prefix.matcher(text);
      if (!matcher.lookingAt()) return undefined;
      const groups = new Map<string, string>();
      for (const name of parser.groupNames) {
        const value = matcher.group(name);
        if (value !== null) groups.set(name, value);
      }
      return groups;
    },
  };
}

interface Node {
  re2: string;
  /** Atoms with repetitions written out. */
  size: number;
  /** Python repeats neither assertions nor repetitions. */
  repeatable: boolean;
}

class Parser {
  ignoreCase = false;
  size = 0;
  readonly groupNames = new Set<string>();
  readonly #pattern: string;
  readonly #where: string;
  #at = 0;
  #depth = 0;

  constructor(pattern: string, where: string) {
    this.#pattern = pattern;
    this.#where = where;
    if (pattern.length > MAX_PATTERN_LENGTH) {
      throw unsupported(pattern, where, `it is longer than ${MAX_PATTERN_LENGTH} characters`);
    }
    for (let i = 0; i < pattern.length; i++) {
      const code = pattern.charCodeAt(i);
      if (code < 0x20 || code > 0x7e) this.#fail('it has a character that is not printable ASCII');
    }
  }

  parse(): string {
    const global = /^\(\?([aiLmsux]+)\)/.exec(this.#pattern);
    if (global !== null) {
      this.#flags(global[1]!);
      if (global[1]!.includes('i')) this.ignoreCase = true;
      this.#at = global[0].length;
    }
    const node = this.#alternation();
    if (this.#at < this.#pattern.length) this.#fail('it closes a group that was not opened');
    this.size = node.size;
    return node.re2;
  }

  #alternation(): Node {
    const branches: string[] = [];
    let size = 0;
    for (;;) {
      const branch = this.#sequence();
      branches.push(branch.re2);
      size += branch.size;
      if (this.#peek() !== '|') break;
      this.#at++;
    }
    return { re2: branches.join('|'), size, repeatable: true };
  }

  #sequence(): Node {
    let re2 = '';
    let size = 0;
    for (;;) {
      const next = this.#peek();
      if (next === undefined || next === '|' || next === ')') break;
      const node = this.#repeated(this.#atom());
      re2 += node.re2;
      size += node.size;
      if (size > MAX_PATTERN_SIZE) {
        this.#fail(`it takes more than ${MAX_PATTERN_SIZE} steps with its repetitions written out`);
      }
    }
    return { re2, size: Math.max(size, 1), repeatable: true };
  }

  /** The atom with the quantifier that may follow it. */
  #repeated(atom: Node): Node {
    const quantifier = this.#quantifier();
    if (quantifier === undefined) return atom;
    if (!atom.repeatable) this.#fail('it repeats something that cannot be repeated');
    const { re2, copies } = quantifier;
    const lazy = this.#peek() === '?';
    if (lazy) this.#at++;
    else if (this.#peek() === '+') this.#fail('possessive repetition is not supported');
    if (this.#quantifier() !== undefined) this.#fail('it has a repetition of a repetition');
    const size = Math.max(1, atom.size * copies);
    return { re2: atom.re2 + re2 + (lazy ? '?' : ''), size, repeatable: false };
  }

  #quantifier(): { re2: string; copies: number } | undefined {
    const next = this.#peek();
    if (next === '*' || next === '+' || next === '?') {
      this.#at++;
      return { re2: next, copies: 1 };
    }
    if (next !== '{') return undefined;
    const counted = /^\{(\d*)(,?)(\d*)\}/.exec(this.#pattern.slice(this.#at));
    // Python takes "{" as itself unless a count follows; "{}" is no count, "{,}" is "*".
    if (counted === null || counted[0] === '{}') return undefined;
    this.#at += counted[0].length;
    const low = counted[1] === '' ? 0 : Number(counted[1]);
    const high = counted[2] === '' ? low : counted[3] === '' ? undefined : Number(counted[3]);
    if (low > MAX_REPEAT || (high ?? 0) > MAX_REPEAT) {
      this.#fail(`it repeats something more than ${MAX_REPEAT} times`);
    }
    if (high === undefined) return { re2: `{${low},}`, copies: low + 1 };
    if (high < low) this.#fail('a repetition has its limits in the wrong order');
    return { re2: `{${low},${high}}`, copies: high };
  }

  #atom(): Node {
    const next = this.#pattern[this.#at]!;
    switch (next) {
      case '(':
        return this.#group();
      case '[':
        return this.#set();
      case '\\':
        return this.#escape();
      case '.':
        this.#at++;
        return atom('.');
      case '^':
        this.#at++;
        return assertion('\\A');
      case '$':
        this.#at++;
        return assertion('\\z');
      case '*':
      case '+':
      case '?':
        return this.#fail(`it has ${next} with nothing before it to repeat`);
      default:
        this.#at++;
        return atom(literal(next));
    }
  }

  #group(): Node {
    if (++this.#depth > MAX_PATTERN_DEPTH) {
      this.#fail(`its groups are nested deeper than ${MAX_PATTERN_DEPTH}`);
    }
    const open = this.#openGroup();
    if (open === undefined) {
      this.#depth--;
      return { re2: '', size: 0, repeatable: false };
    }
    const body = this.#alternation();
    if (this.#peek() !== ')') this.#fail('it has a group that is not closed');
    this.#at++;
    this.#depth--;
    return { re2: `${open}${body.re2})`, size: body.size, repeatable: true };
  }

  /** RE2's opening of the group at hand, or undefined for a comment (which is skipped). */
  #openGroup(): string | undefined {
    const rest = this.#pattern.slice(this.#at);
    if (!rest.startsWith('(?')) {
      this.#at++;
      // Groups without a name are never read: back references are refused.
      return '(?:';
    }
    const named = /^\(\?P<([A-Za-z_][A-Za-z0-9_]*)>/.exec(rest);
    if (named !== null) {
      const name = named[1]!;
      if (this.groupNames.has(name)) this.#fail(`it names two groups ${name}`);
      this.groupNames.add(name);
      this.#at += named[0].length;
      return `(?P<${name}>`;
    }
    const comment = /^\(\?#[^)]*\)/.exec(rest);
    if (comment !== null) {
      this.#at += comment[0].length;
      return undefined;
    }
    const flagged = /^\(\?([aiLmsux]*)(-[imsx]+)?:/.exec(rest);
    if (flagged !== null) {
      const [whole, on = '', off = ''] = flagged;
      this.#flags(on);
      this.#at += whole.length;
      if (on.includes('i')) return '(?i:';
      return off.includes('i') ? '(?-i:' : '(?:';
    }
    if (/^\(\?<?[=!]/.test(rest)) this.#fail('look-around is not supported');
    if (rest.startsWith('(?>')) this.#fail('atomic groups are not supported');
    if (rest.startsWith('(?P=')) this.#fail('back references are not supported');
    if (rest.startsWith('(?(')) this.#fail('conditional groups are not supported');
    if (/^\(\?[aiLmsux]+\)/.test(rest)) this.#fail('it sets flags in its middle');
    return this.#fail('it has a group of an unknown kind');
  }

  /** Flags that change nothing for ASCII text without line ends are dropped. */
  #flags(letters: string): void {
    if (letters.includes('x')) this.#fail('the verbose flag is not supported');
    if (letters.includes('L')) this.#fail('the locale flag is not supported');
    if (letters.includes('a') && letters.includes('u'))
      this.#fail('flags a and u exclude each other');
  }

  #escape(): Node {
    const next = this.#pattern[this.#at + 1];
    if (next === undefined) this.#fail('it ends with a backslash');
    if (next === 'b' || next === 'B') return this.#take(2, assertion(`\\${next}`));
    if (next === 'A') return this.#take(2, assertion('\\A'));
    if (next === 'Z' || next === 'z') return this.#take(2, assertion('\\z'));
    if (/[dDwWsS]/.test(next)) return this.#take(2, atom(`\\${next}`));
    return atom(literal(this.#escapedCharacter()));
  }

  #take(length: number, node: Node): Node {
    this.#at += length;
    return node;
  }

  /** The one character that the escape at hand stands for, inside and outside of sets. */
  #escapedCharacter(): string {
    const next = this.#pattern[this.#at + 1];
    if (next === undefined) this.#fail('it ends with a backslash');
    const hex = /^\\x([0-9a-fA-F]{2})/.exec(this.#pattern.slice(this.#at, this.#at + 4));
    if (hex !== null) {
      this.#at += 4;
      return String.fromCharCode(Number.parseInt(hex[1]!, 16));
    }
    if (/[0-9]/.test(next)) this.#fail('back references and octal escapes are not supported');
    const control = CONTROL_ESCAPES[next];
    if (control === undefined && /[A-Za-z]/.test(next)) {
      this.#fail(`the escape \\${next} is not supported`);
    }
    this.#at += 2;
    return control ?? next;
  }

  #set(): Node {
    this.#at++;
    const negated = this.#peek() === '^';
    if (negated) this.#at++;
    let items = '';
    for (let first = true; ; first = false) {
      const next = this.#peek();
      if (next === undefined) this.#fail('it has a character set that is not closed');
      if (next === ']' && !first) break;
      items += this.#setItem();
    }
    this.#at++;
    return atom(`[${negated ? '^' : ''}${items}]`);
  }

  /** One character, range or class of a set. */
  #setItem(): string {
    const low = this.#setCharacter();
    if (this.#peek() !== '-' || this.#pattern[this.#at + 1] === ']') return low.re2;
    this.#at++;
    if (this.#peek() === undefined) this.#fail('it has a character set that is not closed');
    const high = this.#setCharacter();
    if (low.code === undefined || high.code === undefined || low.code > high.code) {
      this.#fail('it has a character range that makes no sense');
    }
    return `${low.re2}-${high.re2}`;
  }

  #setCharacter(): { re2: string; code: number | undefined } {
    const next = this.#pattern[this.#at]!;
    if (next === '\\') {
      const kind = this.#pattern[this.#at + 1];
      if (kind !== undefined && /[dDwWsS]/.test(kind)) {
        this.#at += 2;
        return { re2: `\\${kind}`, code: undefined };
      }
      const character = this.#escapedCharacter();
      return { re2: literal(character), code: character.charCodeAt(0) };
    }
    this.#at++;
    return { re2: literal(next), code: next.charCodeAt(0) };
  }

  #peek(): string | undefined {
    return this.#pattern[this.#at];
  }

  #fail(reason: string): never {
    throw unsupported(this.#pattern, this.#where, `${reason} (at character ${this.#at + 1})`);
  }
}

const CONTROL_ESCAPES: Readonly<Record<string, string>> = {
  a: '\x07',
  f: '\f',
  n: '\n',
  r: '\r',
  t: '\t',
  v: '\v',
};

const atom = (re2: string): Node => ({ re2, size: 1, repeatable: true });
const assertion = (re2: string): Node => ({ re2, size: 1, repeatable: false });

/** The character itself, whatever it means to RE2. */
function literal(character: string): string {
  if (/[A-Za-z0-9_]/.test(character)) return character;
  return `\\x{${character.charCodeAt(0).toString(16)}}`;
}

function unsupported(
  pattern: string,
  where: string,
  reason: string,
  cause?: unknown,
): LoramuxError {
  const shown = pattern.length > 200 ? `${pattern.slice(0, 200)}...` : pattern;
  return new LoramuxError(
    'adapter_regex_unsupported',
    `${where}: the regular expression ${JSON.stringify(shown)} cannot be used: ${reason}. ` +
      'List the module names instead.',
    cause === undefined ? {} : { cause },
  );
}
