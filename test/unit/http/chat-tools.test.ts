import { afterEach, describe, expect, it } from 'vitest';
import { repeating } from '../../support/fake-engine.ts';
import { codes, EOS } from '../generation/support.ts';
import { parseSse, type TestServer, type TestServerOptions, testServer } from './support.ts';

let server: TestServer;
afterEach(() => server.close());

const TEMPLATE =
  '{% for t in tools or [] %}{{ t.function.name }};{% endfor %}{{ messages[0].content }}';
const TOOLS = ['add', 'get_time'].map((name) => ({
  type: 'function',
  function: {
    name,
    description: null,
    parameters: { type: 'object', properties: { x: { type: 'integer' } } },
  },
}));

/** Says `text` and ends. */
const start = async (text: string, options: TestServerOptions = {}) => {
  const script = repeating([...codes(text), EOS]);
  server = await testServer({ template: TEMPLATE, ...options, engine: { script } });
};
const post = (body: object) =>
  server.app.inject({
    method: 'POST',
    url: '/v1/chat/completions',
    payload: { model: 'base', messages: [{ role: 'user', content: 'Q' }], ...body },
  });
const promptOf = () => String.fromCharCode(...server.engine.submitted.at(-1)!.promptTokenIds);

const CALL = '<tool_call>\n{"name": "add", "arguments": {"x": 1}}\n</tool_call>';
const CALLS = `Well.\n${CALL}\n${CALL.replace('add', 'get_time')}`;
const called = (name: string, id: unknown = expect.stringMatching(/^call_[0-9a-f]{24}$/)) => ({
  id,
  type: 'function',
  function: { name, arguments: '{"x": 1}' },
});

interface Delta {
  content?: string;
  tool_calls?: { index: number; id?: string; function: { name?: string; arguments?: string } }[];
}

describe('tools', () => {
  it('are told to the template, and calls become tool_calls', async () => {
    await start(CALLS);
    const { choices } = (await post({ tools: TOOLS })).json();
    expect(promptOf()).toBe('add;get_time;Q');
    expect(choices[0]).toMatchObject({ finish_reason: 'tool_calls', stop_reason: EOS });
    expect(choices[0].message).toEqual({
      role: 'assistant',
      content: 'Well.\n',
      refusal: null,
      tool_calls: [called('add'), called('get_time')],
    });
    const [one, two] = choices[0].message.tool_calls;
    expect(one.id).not.toBe(two.id);
  });

  it('stream a name first and its arguments in pieces', async () => {
    await start(CALLS);
    const chunks = parseSse((await post({ tools: TOOLS, stream: true })).body).slice(0, -1);
    const choices = chunks.map(
      (chunk) =>
        (chunk as { choices: { delta: Delta; finish_reason: string | null }[] }).choices[0]!,
    );
    const calls = choices.flatMap(({ delta }) => delta.tool_calls ?? []);
    const begun = calls.filter(({ id }) => id !== undefined);
    expect(begun).toMatchObject([
      { index: 0, type: 'function', function: { name: 'add', arguments: '' } },
      { index: 1, type: 'function', function: { name: 'get_time', arguments: '' } },
    ]);
    for (const index of [0, 1]) {
      const own = calls.filter((call) => call.index === index);
      expect(own.map((call) => call.function.arguments).join('')).toBe('{"x": 1}');
      expect(own.length).toBeGreaterThan(2);
    }
    expect(choices.map(({ delta }) => delta.content ?? '').join('')).toBe('Well.\n');
    expect(choices.at(-1)).toMatchObject({ delta: {}, finish_reason: 'tool_calls' });
  });

  it('are not called when none may be', async () => {
    await start(CALL);
    const { choices } = (await post({ tools: TOOLS, tool_choice: 'none' })).json();
    expect(choices[0]).toMatchObject({ message: { content: CALL }, finish_reason: 'stop' });
    expect(promptOf()).toBe('Q');
    for (const tool_choice of ['auto', 'none', null]) {
      expect((await post({ tool_choice })).json().choices[0].message.content).toBe(CALL);
    }
  });

  it('are called once where one call is allowed', async () => {
    await start(CALLS);
    const body = { tools: TOOLS, parallel_tool_calls: false };
    const { message } = (await post(body)).json().choices[0];
    expect(message.tool_calls).toEqual([called('add')]);
  });

  it('keep what looks like a call and is none', async () => {
    await start('<tool_call>add(1)</tool_call>');
    const { choices } = (await post({ tools: TOOLS })).json();
    expect(choices[0]).toMatchObject({
      message: { content: '<tool_call>add(1)</tool_call>' },
      finish_reason: 'stop',
    });
    expect(choices[0].message).not.toHaveProperty('tool_calls');
  });

  it('end as long answers do when a call is cut short', async () => {
    await start(CALL);
    const { choices } = (await post({ tools: TOOLS, max_tokens: 50 })).json();
    expect(choices[0]).toMatchObject({
      message: { content: null, tool_calls: [{ function: { arguments: '{"x": 1}' } }] },
      finish_reason: 'length',
    });
  });

  it.each([
    ['[TOOL_CALLS]', '[TOOL_CALLS][{"name": "add", "arguments": {"x": 1}}]', /^[0-9a-f]{9}$/],
    [
      '<|start_header_id|>{"name": .., "parameters": ..}',
      '{"name": "add", "parameters": {"x": 1}}',
      /^call_/,
    ],
  ])('are read as the template %s writes them', async (mark, text, id) => {
    await start(text, { template: `${TEMPLATE}{# ${mark} #}` });
    const { message } = (await post({ tools: TOOLS })).json().choices[0];
    expect(message.tool_calls).toEqual([called('add', expect.stringMatching(id))]);
  });

  it('are read as the setting says', async () => {
    const text = '{"name": "add", "parameters": {"x": 1}}';
    await start(text, { config: { toolCallParser: 'llama3_json' } });
    const { message } = (await post({ tools: TOOLS })).json().choices[0];
    expect(message.tool_calls).toEqual([called('add')]);
  });

  const named = (name: string) => ({ type: 'function', function: { name } });
  it.each([
    [{ tools: [] }, 'invalid_request', 'tools'],
    [{ tools: [TOOLS[0], TOOLS[0]] }, 'invalid_request', 'tools'],
    [{ tools: [{ type: 'custom', custom: {} }] }, 'unsupported_field', 'tools.0.custom'],
    [{ tools: TOOLS, tool_choice: named('sub') }, 'invalid_request', 'tool_choice'],
    [{ tool_choice: named('add') }, 'invalid_request', 'tool_choice'],
    [{ tool_choice: 'required' }, 'invalid_request', 'tool_choice'],
    [{ tools: TOOLS, tool_choice: 'any' }, 'invalid_request', 'tool_choice'],
    [{ functions: [{ name: 'f' }] }, 'unsupported_field', 'functions'],
    [{ function_call: { name: 'f' } }, 'unsupported_field', 'function_call'],
    [{ messages: [{ role: 'function', name: 'f' }] }, 'unsupported_field', 'messages.0.role'],
  ])('refuse %j', async (body, code, param) => {
    await start('x');
    const response = await post(body);
    expect(response.statusCode).toBe(400);
    expect(response.json().error).toMatchObject({ code, param });
  });

  /** The structural tag that the answer had to follow. */
  const formatAsked = () => {
    const [constraint] = server.grammars.asked;
    expect(constraint).toMatchObject({ kind: 'structural_tag', tag: { type: 'structural_tag' } });
    return (constraint as unknown as { tag: { format: Record<string, unknown> } }).tag.format;
  };

  it('must be called when calls are required', async () => {
    await start(CALLS);
    const response = await post({ tools: TOOLS, tool_choice: 'required' });
    expect(response.json().choices[0].finish_reason).toBe('tool_calls');
    expect(formatAsked()).toEqual({
      type: 'tags_with_separator',
      tags: TOOLS.map(({ function: { name, parameters } }) => ({
        type: 'tag',
        begin: `<tool_call>\n{"name": "${name}", "arguments": `,
        content: { type: 'json_schema', json_schema: parameters },
        end: '}\n</tool_call>',
      })),
      separator: '\n',
      at_least_one: true,
      stop_after_first: false,
    });
    expect(server.grammars.held).toBe(0);
  });

  it.each([
    [{ tool_choice: named('get_time') }, ['get_time']],
    [{ tool_choice: 'required', parallel_tool_calls: false }, ['add', 'get_time']],
    [
      {
        tool_choice: {
          type: 'allowed_tools',
          allowed_tools: { mode: 'required', tools: [named('add')] },
        },
        parallel_tool_calls: false,
      },
      ['add'],
    ],
  ])('are called once, one of those that are named, with %j', async (body, names) => {
    await start(CALL);
    await post({ tools: TOOLS, ...body });
    const format = formatAsked();
    const tags = format.type === 'or' ? (format.elements as { begin: string }[]) : [format];
    expect(tags.map(({ begin }) => /"name": "(\w+)"/.exec(begin as string)?.[1])).toEqual(names);
    // The prompt has all of them.
    expect(promptOf()).toBe('add;get_time;Q');
  });

  it('are called rightly where they are strict', async () => {
    await start('x');
    const strict = TOOLS.map((tool) => ({ ...tool, function: { ...tool.function, strict: true } }));
    await post({ tools: strict });
    expect(formatAsked()).toMatchObject({ type: 'triggered_tags', triggers: ['<tool_call>'] });
    expect(server.grammars.asked[0]).toMatchObject({ field: 'tools.0.function.strict' });
    await post({ tools: strict, tool_choice: 'none' });
    await post({ tools: TOOLS });
    expect(server.grammars.asked).toHaveLength(1);
    const { error } = (await post({ tools: strict, bad_words: ['x'] })).json();
    expect(error).toMatchObject({ code: 'unsupported_field', param: 'bad_words' });
    await server.close();
    await start('x', { template: `${TEMPLATE}{# [TOOL_CALLS] #}` });
    const refused = (await post({ tools: strict })).json().error;
    expect(refused).toMatchObject({ code: 'unsupported_field', param: 'tools.0.function.strict' });
  });

  it('stand beside an answer of a form', async () => {
    await start('{"a": 1}');
    const schema = { type: 'object', properties: { a: { type: 'integer' } } };
    const response_format = { type: 'json_schema', json_schema: { name: 'a', schema } };
    const body = { tools: TOOLS, response_format };
    expect((await post(body)).json().choices[0].message.content).toBe('{"a": 1}');
    expect(formatAsked()).toMatchObject({
      type: 'or',
      elements: [{ type: 'json_schema', json_schema: schema }, { type: 'or' }],
    });
    const { error } = (await post({ tools: TOOLS, guided_regex: 'a+' })).json();
    expect(error).toMatchObject({ code: 'unsupported_field', param: 'guided_regex' });
  });

  it('are refused where the template does not read them', async () => {
    await start('x', { template: '{{ messages[0].content }}' });
    const { error } = (await post({ tools: TOOLS })).json();
    expect(error).toMatchObject({ code: 'unsupported_field', param: 'tools' });
  });
});
