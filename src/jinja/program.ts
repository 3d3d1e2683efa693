/**
 * A template's source as the library parses it, with what its parser does not know written in terms
 * of what it knows: tests with arguments become filters, `{% filter %}` blocks become expressions.
 */
import { parse, tokenize } from '@huggingface/jinja';
import { filterOf, testOf } from './filters.ts';

/** A node of the library's tree; `type` says which fields it has. */
export interface Node {
  readonly type: string;
  readonly body?: Node[];
  readonly alternate?: Node[];
  readonly defaultBlock?: Node[];
  readonly value?: unknown;
  readonly object?: Node;
  readonly property?: Node;
  readonly computed?: boolean;
  readonly callee?: Node;
  readonly args?: Node[];
  readonly key?: Node;
  readonly argument?: Node;
  readonly operand?: Node;
  readonly filter?: Node;
  readonly test?: Node;
  readonly negate?: boolean;
  readonly operator?: { readonly value: string };
  readonly left?: Node;
  readonly right?: Node;
  readonly lhs?: Node;
  readonly loopvar?: Node;
  readonly iterable?: Node;
  readonly name?: Node;
}

interface Token {
  readonly type: string;
  readonly value: string;
}

/** What follows a number that the library cuts short: 1e5, 1_000. */
const EXPONENT = /^(?:e\d|_\d)/i;
/** What a test with arguments is called among filters. */
export const TEST_PREFIX = 'is ';

/** `x is [not] name(args)` -> `x | is [not] name(args)`. */
function testsAsFilters(tokens: readonly Token[]): Token[] {
  const out: Token[] = [];
  for (let i = 0; i < tokens.length; i++) {
    const token = tokens[i]!;
    if (token.type === 'NumericLiteral' && EXPONENT.test(tokens[i + 1]?.value ?? '')) {
      // The library would read two numbers.
      throw new Error(`the number ${token.value}${tokens[i + 1]!.value} is not supported`);
    }
    const isTest =
      token.type === 'Identifier' && token.value === 'is' && out.at(-1)?.type !== 'Dot';
    const negated = tokens[i + 1]?.value === 'not';
    const at = negated ? i + 2 : i + 1;
    if (!isTest || tokens[at]?.type !== 'Identifier' || tokens[at + 1]?.type !== 'OpenParen') {
      out.push(token);
      continue;
    }
    const name = TEST_PREFIX + (negated ? 'not ' : '') + tokens[at]!.value;
    out.push({ type: 'Pipe', value: '|' }, { type: 'Identifier', value: name });
    i = at;
  }
  return out;
}

/** Refuses at once the filters and tests that rendering would stumble over. */
function check(node: unknown): void {
  if (Array.isArray(node)) for (const item of node) check(item);
  else if (node instanceof Map) check([...node.keys(), ...node.values()]);
  else if (typeof node === 'object' && node !== null) {
    const { type, filter, test } = node as Partial<Node>;
    if (type === 'FilterExpression' || type === 'FilterStatement') {
      const name = String((filter?.callee ?? filter)?.value);
      if (name.startsWith(TEST_PREFIX)) testOf(name.replace(/^is (not )?/, ''));
      else filterOf(name);
    }
    if (type === 'TestExpression') testOf(String(test?.value));
    check(Object.values(node));
  }
}

/** Longest source; the longest of published models is about 20,000. */
export const TEMPLATE_LENGTH_MAX = 131_072;
/** Longest run of white space: the library looks at each again from all its places. */
const SPACE_RUN_MAX = 1024;
const SPACE_RUN = new RegExp(`\\s{${SPACE_RUN_MAX + 1}}`);

/** @throws Error where the source is too long, not Jinja, or uses a filter or test that is not known */
export function parseTemplate(source: string): Node {
  if (source.length > TEMPLATE_LENGTH_MAX) {
    throw new Error(`it has ${source.length} characters; the limit is ${TEMPLATE_LENGTH_MAX}`);
  }
  if (SPACE_RUN.test(source)) {
    throw new Error(`it has more than ${SPACE_RUN_MAX} characters of white space in a row`);
  }
  // Jinja reads all line ends as newlines.
  const text = source.replaceAll(/\r\n?/g, '\n');
  const tokens = tokenize(text, { lstrip_blocks: true, trim_blocks: true }) as Token[];
  const program = parse(testsAsFilters(tokens) as never) as unknown as Node;
  check(program.body);
  return program;
}
