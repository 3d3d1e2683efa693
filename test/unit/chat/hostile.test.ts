/** Templates that would keep the event loop busy or fill the memory. */
import { describe, expect, it } from 'vitest';
import { messagesFor } from '../../../src/chat/messages.ts';
import { compileTemplate } from '../../../src/chat/template.ts';

const HOSTILE: Record<string, string> = {
  'a long range': '{% for i in range(1000000000) %}x{% endfor %}',
  'nested loops':
    '{% set r = range(100000) %}{% for i in r %}{% for j in r %}{% endfor %}{% endfor %}',
  'a text that doubles':
    "{% set n = namespace(s='xx') %}{% for i in range(99) %}{% set n.s = n.s + n.s %}{% endfor %}",
  'a list that doubles':
    '{% set n = namespace(s=[1]) %}{% for i in range(99) %}{% set n.s = n.s + n.s %}{% endfor %}',
  'lists of themselves':
    '{% set n = namespace(x=[]) %}{% for i in range(99) %}{% set n.x = [n.x, n.x] %}{% endfor %}' +
    '{{ n.x }}',
  'lists of themselves as JSON':
    '{% set n = namespace(x=[]) %}{% for i in range(99) %}{% set n.x = [n.x, n.x] %}{% endfor %}' +
    '{{ n.x | tojson }}',
  'comparing them':
    '{% set n = namespace(x=[], y=[]) %}{% for i in range(99) %}{% set n.x = [n.x, n.x] %}' +
    '{% set n.y = [n.y, n.y] %}{% endfor %}{{ n.x == n.y }}',
  'endless recursion': '{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}',
  'exponential recursion':
    '{% macro m(x) %}{% if x > 0 %}{{ m(x - 1) }}{{ m(x - 1) }}{% endif %}{% endmacro %}{{ m(99) }}',
  'a text repeated': "{{ 'x' * 999999999999 }}",
  'a text replaced by a long one': "{% set s = 'x' * 100000 %}{{ s | replace('x', s) }}",
  'joining with a long text': "{{ range(100000) | join('x' * 100000) }}",
  'a wide margin': "{{ ('\\n' * 1000) | indent(100000000) }}",
  'JSON with a wide margin': '{{ [[1]] | tojson(indent=1000000000) }}',
  'searching a list for each item of a list':
    "{% set s = range(100000) | list %}{{ s | select('in', s[::-1]) | list | length }}",
  'searching long texts':
    "{% for i in range(999) %}{{ ('a' * 500000 + 'b') in 'a' * 1000000 }}{% endfor %}",
  'a long format of dates': "{{ strftime_now('%Y' * 1000) }}",
};

describe('a hostile template', () => {
  it.each(Object.entries(HOSTILE))('comes to an end: %s', (_name, source) => {
    const template = compileTemplate(source);
    // Not the time: what ends them is counted.
    const limits = { workMax: 100_000, timeoutMs: Number.POSITIVE_INFINITY };
    const context = { specialTokens: {}, now: new Date(), limits };
    const input = { addGenerationPrompt: false, continueFinalMessage: false, kwargs: {} };
    const messages = [{ role: 'user', content: '' }];
    expect(() => template.render({ ...input, messages }, context)).toThrow(
      /does not come to an end|is longer than|nested too deeply|at most/,
    );
  });

  it('is refused before it is read: white space, length, what is not supported', () => {
    const sources = [
      `${' '.repeat(100_000)}x`,
      'x'.repeat(131_073),
      '{{ 1e5 }}',
      "{{ 'x' | shout }}",
    ];
    for (const source of sources) {
      expect(() => compileTemplate(source)).toThrow(
        expect.objectContaining({ code: 'chat_template_invalid' }),
      );
    }
    expect(() => compileTemplate('{{ x is shouted }}')).toThrow(/"shouted"/);
    expect(() => compileTemplate(`{{ ${'('.repeat(60_000)} }}`)).toThrow(/cannot be used/);
  });

  it('is looked through once, from each place a little: what it does with contents', () => {
    const messages = [{ role: 'user', content: 'Hi' }];
    for (const part of ['in x[', 'in x', "content'] is ", 'in ']) {
      const source = `{# ${part.repeat(130_000 / part.length)} #}`;
      expect(messagesFor(messages, source)).toEqual(messages);
    }
  });
});
