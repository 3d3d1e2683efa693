import { describe, expect, it } from 'vitest';
import { FORMATS } from '../../../../src/chat/tools/index.ts';
import type { ToolEvent, ToolFormatName } from '../../../../src/chat/tools/types.ts';
import { Random } from '../../../support/random.ts';

const SEED = Number(process.env.LORAMUX_FUZZ_SEED ?? 20_261_122);

/** The answer as a client sees it: its text, and its calls with their arguments. */
interface Answer {
  text: string;
  calls: [string, string][];
}

function answerOf(events: readonly ToolEvent[]): Answer {
  const answer: Answer = { text: '', calls: [] };
  for (const event of events) {
    if (event.type === 'text') answer.text += event.text;
    else if (event.type === 'call') answer.calls.push([event.name, '']);
    else answer.calls.at(-1)![1] += event.text;
  }
  return answer;
}

function read(format: ToolFormatName, pieces: readonly string[]): Answer {
  const parser = FORMATS[format].createParser();
  return answerOf([...pieces.flatMap((piece) => parser.push(piece)), ...parser.end()]);
}

const text = (value: string): Answer => ({ text: value, calls: [] });
const calls = (...list: [string, string][]): Answer => ({ text: '', calls: list });

const HERMES: [string, Answer][] = [
  ['', text('')],
  [' \n', text(' \n')],
  ['Hello <b>world</b>', text('Hello <b>world</b>')],
  ['<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>', calls(['f', '{"a": 1}'])],
  [
    'Let me see.\n<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>',
    { text: 'Let me see.\n', calls: [['f', '{}']] },
  ],
  [
    '\n<tool_call>{"name":"f","arguments":{"s":"}\\"</tool_call>{"}}</tool_call>\n' +
      '<tool_call>{"arguments": [1, "\u{1f600}"], "id": 7, "name": "g"}</tool_call>\n',
    calls(['f', '{"s":"}\\"</tool_call>{"}'], ['g', '[1, "\u{1f600}"]']),
  ],
  ['<tool_call>{"name": "f", "parameters": {"a": {}}}</tool_call>', calls(['f', '{"a": {}}'])],
  ['<tool_call>{"name": "f"}</tool_call>', calls(['f', '{}'])],
  ['<tool_call>{"name": "\\u0066\\"", "arguments": 5 }</tool_call>', calls(['f"', '5'])],
  // the closing marker was forgotten, or something follows
  [
    '<tool_call>{"name": "f", "arguments": {}}<tool_call>{"name": "g", "arguments": {}}',
    calls(['f', '{}'], ['g', '{}']),
  ],
  [
    '<tool_call>{"name": "f", "arguments": {}}</tool_call> Done.',
    { text: ' Done.', calls: [['f', '{}']] },
  ],
  ['<tool_call>{"name": "f", "arguments": {}}</tool', { text: '</tool', calls: [['f', '{}']] }],
  // cut short
  ['<tool_call>{"name": "f", "arguments": {"a": ', calls(['f', '{"a": '])],
  ['<tool_call>{"name": "f", "argum', text('<tool_call>{"name": "f", "argum')],
  ['so <tool_ca', text('so <tool_ca')],
  // no calls
  ['<tool_call>f(1)</tool_call>', text('<tool_call>f(1)</tool_call>')],
  ['<tool_call>{"name": 5, "arguments": {}}', text('<tool_call>{"name": 5, "arguments": {}}')],
  ['<tool_call>{"name": "f" "arguments": {}}', text('<tool_call>{"name": "f" "arguments": {}}')],
  ['<tool_call>{"arguments": {}}</tool_call>', text('<tool_call>{"arguments": {}}</tool_call>')],
  ['<tool_call>{"name": "", "arguments": {}}', text('<tool_call>{"name": "", "arguments": {}}')],
  [
    `<tool_call>{"name": "${'n'.repeat(300)}", "arguments": {}}`,
    text(`<tool_call>{"name": "${'n'.repeat(300)}", "arguments": {}}`),
  ],
  ['<tool_call>{"name": "f", "arguments": }', text('<tool_call>{"name": "f", "arguments": }')],
  ['<<tool_call>x', text('<<tool_call>x')],
  [
    '<tool_call>no<tool_call>{"name": "f", "arguments": {}}</tool_call>',
    { text: '<tool_call>no', calls: [['f', '{}']] },
  ],
];

const LLAMA: [string, Answer][] = [
  ['', text('')],
  ['Hello {"name": "f", "parameters": {}}', text('Hello {"name": "f", "parameters": {}}')],
  ['{"name": "f", "parameters": {"a": "b"}}', calls(['f', '{"a": "b"}'])],
  ['\n<|python_tag|>{"name": "f", "arguments": {}}', calls(['f', '{}'])],
  [
    '{"name": "f", "parameters": {}}; {"name": "g", "parameters": {"x": [{}]}}',
    calls(['f', '{}'], ['g', '{"x": [{}]}']),
  ],
  ['{"name": "f", "parameters": {}} ;', calls(['f', '{}'])],
  ['{"name": "f", "parameters": {}}; and', { text: '; and', calls: [['f', '{}']] }],
  ['{"name": "Bob", "age": 5}', text('{"name": "Bob", "age": 5}')],
  ['{"answer": 5}\nSo: {}', text('{"answer": 5}\nSo: {}')],
  ['<|python_tag|>print(1)', text('<|python_tag|>print(1)')],
  ['<|python', text('<|python')],
  ['{"name": "f"', text('{"name": "f"')],
  ['{"name": "f", "parameters": {"a', calls(['f', '{"a'])],
];

const MISTRAL: [string, Answer][] = [
  ['', text('')],
  ['Hello', text('Hello')],
  ['[1, 2]', text('[1, 2]')],
  [' [', text(' [')],
  ['[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}]', calls(['f', '{"a": 1}'])],
  [
    'Well. [TOOL_CALLS] [{"name": "f", "arguments": {}}, {"name": "g", "arguments": {"b": "]"}}]',
    {
      text: 'Well. ',
      calls: [
        ['f', '{}'],
        ['g', '{"b": "]"}'],
      ],
    },
  ],
  // what an answer that must be calls looks like
  ['[{"name": "f", "arguments": {}}]', calls(['f', '{}'])],
  ['[ {"name": "f", "arguments": {}}, {"name": "g"}]', calls(['f', '{}'], ['g', '{}'])],
  ['[TOOL_CALLS]{"name": "f", "arguments": {}}', calls(['f', '{}'])],
  [
    '[TOOL_CALLS]f{"a": {"b": "}"}}[TOOL_CALLS]g[ARGS]{}',
    calls(['f', '{"a": {"b": "}"}}'], ['g', '{}']),
  ],
  ['[TOOL_CALLS]f[CALL_ID]abc123[ARGS]{"a": 1}', calls(['f', '{"a": 1}'])],
  ['[{"a": 1}]', text('[{"a": 1}]')],
  ['[TOOL_CALLS][1]', text('[TOOL_CALLS][1]')],
  ['[TOOL_CALLS]two words{}', text('[TOOL_CALLS]two words{}')],
  ['[TOOL_CALLS]', text('[TOOL_CALLS]')],
  ['[TOOL_CA', text('[TOOL_CA')],
  ['[TOOL_CALLS][{"name": "f", "arguments": {"a"', calls(['f', '{"a"'])],
  ['[TOOL_CALLS][{"name": "f", "arguments": {}}, ', calls(['f', '{}'])],
  [`[TOOL_CALLS]${'n'.repeat(400)}`, text(`[TOOL_CALLS]${'n'.repeat(400)}`)],
];

const CASES: [ToolFormatName, string, Answer][] = [
  ...HERMES.map(([raw, answer]): [ToolFormatName, string, Answer] => ['hermes', raw, answer]),
  ...LLAMA.map(([raw, answer]): [ToolFormatName, string, Answer] => ['llama3_json', raw, answer]),
  ...MISTRAL.map(([raw, answer]): [ToolFormatName, string, Answer] => ['mistral', raw, answer]),
];

describe('parsers of tool calls', () => {
  it.each(CASES)('%s: %j', (format, raw, answer) => {
    expect(read(format, [raw])).toEqual(answer);
  });

  it.each(CASES)('%s does not depend on how it was split: %j', (format, raw, answer) => {
    expect(read(format, [...raw])).toEqual(answer);
    for (let at = 1; at < Math.min(raw.length, 200); at++) {
      expect(read(format, [raw.slice(0, at), raw.slice(at)])).toEqual(answer);
    }
  });

  it('reads texts put together at random the same way however they are split', () => {
    const random = new Random(SEED);
    const parts = [
      ...['<tool_call>', '</tool_call>', '[TOOL_CALLS]', '[ARGS]', '<|python_tag|>', '[', ']'],
      ...['{"name": "f", "arguments": {"a": [1, "x}"]}}', '{"name": "g"}', '{', '}', ',', ';'],
      ...['"name": ', '"parameters": ', '"h"', '{}', ' ', '\n', 'text', '\u{1f600}', '\\', '1'],
    ];
    for (let run = 0; run < 3000; run++) {
      const raw = Array.from({ length: random.int(0, 8) }, () => random.pick(parts)).join('');
      const pieces: string[] = [];
      for (let at = 0; at < raw.length; ) {
        const next = at + 1 + random.int(0, 5);
        pieces.push(raw.slice(at, next));
        at = next;
      }
      for (const format of ['hermes', 'llama3_json', 'mistral'] as const) {
        const whole = read(format, [raw]);
        expect(read(format, pieces), JSON.stringify({ SEED, format, raw, pieces })).toEqual(whole);
        // Nothing is lost when there is no call.
        if (whole.calls.length === 0) expect(whole.text).toBe(raw);
      }
    }
  });
});
