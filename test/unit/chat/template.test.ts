import { describe, expect, it } from 'vitest';
import { TRUSTED } from '../../../src/chat/rendering.ts';
import { compileTemplate } from '../../../src/chat/template.ts';
import type { ChatInput } from '../../../src/chat/types.ts';

const CHATML =
  "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}" +
  "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
const CONTEXT = {
  specialTokens: { bos_token: '<s>', eos_token: '</s>' },
  now: new Date(2024, 6, 4, 9, 5, 7),
  limits: TRUSTED,
};
const input = (part: Partial<ChatInput> = {}): ChatInput => ({
  messages: [{ role: 'user', content: 'Hi' }],
  addGenerationPrompt: false,
  continueFinalMessage: false,
  kwargs: {},
  ...part,
});
const render = (source: string, part: Partial<ChatInput> = {}) =>
  compileTemplate(source).render(input(part), CONTEXT);
const codeOf = (run: () => unknown) => {
  try {
    run();
  } catch (error) {
    return error as { code: string; message: string };
  }
  throw new Error('nothing was thrown');
};

describe('a chat template', () => {
  it('sees the messages, the special tokens and its own variables', () => {
    expect(render(CHATML, { addGenerationPrompt: true })).toBe(
      '<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n',
    );
    const source = '{{ bos_token }}{{ date }}{% if tools is none %}-{% endif %}{{ pad_token }}';
    expect(render(source, { kwargs: { date: 'today' } })).toBe('<s>today-');
    expect(render('{{ bos_token }}', { kwargs: { bos_token: '<b>' } })).toBe('<b>');
  });

  it('sees no field that is null', () => {
    const messages = [{ role: 'assistant', content: null, tool_calls: null }];
    const source = "{{ 'content' in messages[0] }}{{ messages[0].tool_calls is defined }}";
    expect(render(source, { messages }).toLowerCase()).toBe('falsefalse');
  });

  it('leaves the last message open', () => {
    const messages = [
      { role: 'user', content: 'Count' },
      { role: 'assistant', content: 'One, two, ' },
    ];
    const open = { messages, continueFinalMessage: true };
    expect(render(CHATML, open)).toMatch(/assistant\nOne, two, $/);
    const trimming = CHATML.replace('m.content', 'm.content.strip()');
    expect(render(trimming, open)).toMatch(/assistant\nOne, two,$/);
    const parts = [{ role: 'assistant', content: [{ type: 'text', text: 'One' }] }];
    const ofParts = '{{ messages[0].content[0].text }}<end>';
    expect(render(ofParts, { ...open, messages: parts })).toBe('One');
    expect(codeOf(() => render('{{ 1 }}', open)).code).toBe('chat_template_failed');
    const empty = [{ role: 'assistant', tool_calls: [] }];
    expect(codeOf(() => render(CHATML, { ...open, messages: empty })).code).toBe(
      'chat_template_failed',
    );
  });

  it('refuses with its own words', () => {
    const thrown = codeOf(() => render("{{ raise_exception('Roles must alternate!') }}"));
    expect(thrown.code).toBe('chat_template_failed');
    expect(thrown.message).toContain('Roles must alternate!');
  });

  it('writes dates as Python does', () => {
    const source = "{{ strftime_now('%d %b %Y|%A %B %-d|%H:%M:%S %I %p|%j %y %e %a %F %T %%') }}";
    expect(render(source)).toBe(
      '04 Jul 2024|Thursday July 4|09:05:07 09 AM|186 24  4 Thu 2024-07-04 09:05:07 %',
    );
    expect(codeOf(() => render("{{ strftime_now('%Q') }}")).code).toBe('chat_template_failed');
  });

  it('keeps what a request must not set to the fields of the request', () => {
    expect(codeOf(() => render(CHATML, { kwargs: { messages: [] } })).code).toBe('invalid_request');
    expect(codeOf(() => render(CHATML, { messages: [] })).code).toBe('chat_template_failed');
  });

  it('is refused when it is not Jinja or too long', () => {
    expect(codeOf(() => compileTemplate('{% if %}')).code).toBe('chat_template_invalid');
    const long = 'x'.repeat(131_073);
    expect(codeOf(() => compileTemplate(long)).code).toBe('chat_template_invalid');
  });
});
