import { afterEach, describe, expect, it } from 'vitest';
import { repeating } from '../../support/fake-engine.ts';
import { codes, EOS } from '../generation/support.ts';
import { type TestServer, type TestServerOptions, testServer } from './support.ts';

let server: TestServer;
afterEach(() => server.close());

const start = async (options: TestServerOptions = {}) => {
  server = await testServer(options);
  server.adapters.seed('sub', ['sub']);
};
const post = (body: object, url = '/v1/responses') =>
  server.app.inject({ method: 'POST', url, payload: { model: 'base', ...body } });
const promptOf = () => String.fromCharCode(...server.engine.submitted.at(-1)!.promptTokenIds);
const saying = (text: string) => ({ engine: { script: repeating([...codes(text), EOS]) } });

describe('a response', () => {
  it('has the message, the usage and the request as it was understood', async () => {
    await start();
    const response = await post({ input: 'Q' });
    expect(response.statusCode, response.body).toBe(200);
    const answer = response.json();
    const { id, created_at: begun, completed_at: ended, output, ...rest } = answer;
    expect(id).toMatch(/^resp_[0-9a-f]{32}$/);
    expect(response.headers['x-request-id']).toMatch(/./);
    expect(ended - begun).toBeGreaterThanOrEqual(0);
    expect(output).toEqual([
      {
        type: 'message',
        id: expect.stringMatching(/^msg_/),
        status: 'completed',
        role: 'assistant',
        content: [{ type: 'output_text', text: 'hello', annotations: [], logprobs: [] }],
      },
    ]);
    expect(rest).toEqual({
      ...{ object: 'response', status: 'completed', error: null, incomplete_details: null },
      ...{ model: 'base', instructions: null, max_output_tokens: null, metadata: {} },
      usage: {
        ...{ input_tokens: 19, output_tokens: 6, total_tokens: 25 },
        input_tokens_details: { cached_tokens: 0, cache_write_tokens: 0 },
        output_tokens_details: { reasoning_tokens: 0 },
      },
      ...{ parallel_tool_calls: true, prompt_cache_key: null, safety_identifier: null },
      ...{ temperature: 1, text: { format: { type: 'text' } }, tool_choice: 'auto', tools: [] },
      ...{ top_logprobs: 0, top_p: 1, user: null, background: false, store: false },
      ...{ previous_response_id: null, reasoning: null, service_tier: 'default' },
      truncation: 'disabled',
    });
  });

  it('repeats what was asked for', async () => {
    await start();
    const tool = { type: 'function', name: 'f', parameters: { type: 'object' } };
    const asked = {
      ...{ instructions: 'Be brief.', max_output_tokens: 3, metadata: { a: 'b' } },
      ...{ parallel_tool_calls: false, prompt_cache_key: 'k', safety_identifier: 's', user: 'u' },
      ...{ temperature: 0, top_p: 0.5, tool_choice: 'none', request_id: 'mine' },
    };
    const answer = (await post({ input: 'Q', ...asked, tools: [tool] })).json();
    const { request_id: id, ...repeated } = asked;
    expect(answer).toMatchObject(repeated);
    expect(answer.id).toBe(`resp_${id}`);
    expect(answer.tools).toEqual([{ ...tool, description: null, strict: false }]);
  });

  it('is incomplete where the tokens end', async () => {
    await start();
    const { status, incomplete_details, output, completed_at, usage } = (
      await post({ input: 'Q', max_output_tokens: 2 })
    ).json();
    expect({ status, incomplete_details, completed_at }).toEqual({
      ...{ status: 'incomplete', completed_at: null },
      incomplete_details: { reason: 'max_output_tokens' },
    });
    expect(output).toMatchObject([{ status: 'incomplete', content: [{ text: 'he' }] }]);
    expect(usage.output_tokens).toBe(2);
  });

  it('has an empty message where the model says nothing', async () => {
    await start(saying(''));
    const { output } = (await post({ input: 'Q' })).json();
    expect(output).toMatchObject([{ type: 'message', content: [{ text: '' }] }]);
  });

  it('names the adapters that answered', async () => {
    await start();
    const digest = server.adapters.get('sub')!.generation.digest;
    const one = (await post({ model: 'sub', input: 'Q' })).json();
    expect(one.adapter_generation).toBe(digest);
    const adapters = [{ name: 'sub' }, { name: 'sub', weight: 0.5 }];
    const several = (await post({ input: 'Q', adapters })).json();
    expect(several.adapter_generations).toMatchObject([{ weight: 1 }, { weight: 0.5 }]);
  });

  it('lists log-probabilities as a chat does', async () => {
    await start();
    const include = ['message.output_text.logprobs'];
    const { output, top_logprobs: top } = (
      await post({ input: 'Q', include, top_logprobs: 2 })
    ).json();
    const messages = [{ role: 'user', content: 'Q' }];
    const chat = (
      await post({ messages, logprobs: true, top_logprobs: 2 }, '/v1/chat/completions')
    ).json();
    expect(top).toBe(2);
    expect(output[0].content[0].logprobs).toEqual(chat.choices[0].logprobs.content);
    const none = (await post({ input: 'Q', include: ['reasoning.encrypted_content'] })).json();
    expect(none.output[0].content[0].logprobs).toEqual([]);
  });
});

describe('the input', () => {
  it.each([
    ['a text', { input: 'Q' }, 'user: Q\nassistant: '],
    [
      'instructions before it',
      { instructions: 'S', input: 'Q' },
      'system: S\nuser: Q\nassistant: ',
    ],
    [
      'messages, with a type or without',
      {
        input: [
          { role: 'developer', content: 'D' },
          { type: 'message', role: 'user', content: [{ type: 'input_text', text: 'Q' }] },
          {
            ...{ type: 'message', id: 'msg_1', role: 'assistant', status: 'completed' },
            content: [
              { type: 'output_text', text: 'A', annotations: [], logprobs: [], parsed: null },
              { type: 'refusal', refusal: 'B' },
            ],
          },
          { role: 'user', content: 'R' },
        ],
      },
      'system: D\nuser: Q\nassistant: A\nB\nuser: R\nassistant: ',
    ],
  ])('may be %s', async (_what, body, prompt) => {
    await start();
    const response = await post(body);
    expect(response.statusCode, response.body).toBe(200);
    expect(promptOf()).toBe(prompt);
  });

  const CALLS =
    '{% for m in messages %}{{ m.role }}:{{ m.content }}' +
    '{% for c in m.tool_calls or [] %}[{{ c.id }} {{ c.function.name }} ' +
    '{{ c.function.arguments.x }}]{% endfor %}{{ m.tool_call_id }};{% endfor %}';
  const call = (id: string, more: object = {}) => ({
    ...{ type: 'function_call', call_id: id, name: 'f', arguments: '{"x": 1}', ...more },
  });
  const output = (id: string) => ({ type: 'function_call_output', call_id: id, output: id });
  const said = (content: string) => ({ role: 'assistant', content });

  it.each([
    [
      'calls of one turn',
      [call('a'), call('b'), output('a'), output('b')],
      [...['assistant:[a f 1][b f 1];', 'tool:aa;tool:bb;']],
    ],
    [
      'turns with a call each',
      [call('a'), output('a'), call('b'), output('b')],
      [...['assistant:[a f 1];', 'tool:aa;', 'assistant:[b f 1];', 'tool:bb;']],
    ],
    [
      'a text with a call',
      [said('T'), call('a', { id: 'fc_1', status: 'completed' }), output('a')],
      [...['assistant:T[a f 1];', 'tool:aa;']],
    ],
    [
      'a text after a call',
      [said('T'), call('a'), said('U'), output('a')],
      [...['assistant:TU[a f 1];', 'tool:aa;']],
    ],
    ['two texts', [said('T'), said('U')], ['assistant:T;', 'assistant:U;']],
    [
      'a call without arguments',
      [call('a', { arguments: '' }), output('a')],
      [...['assistant:[a f ];', 'tool:aa;']],
    ],
  ])('may have %s', async (_what, input, prompt) => {
    await start({ template: CALLS });
    const response = await post({ input: [{ role: 'user', content: 'Q' }, ...input] });
    expect(response.statusCode, response.body).toBe(200);
    expect(promptOf()).toBe(`user:Q;${prompt.join('')}`);
  });

  it("takes back what a response was, and what OpenAI's libraries add", async () => {
    await start({ template: CALLS });
    const added = { parsed_arguments: { x: 1 }, caller: null, phase: undefined };
    const { output: items } = (await post({ input: 'Q' })).json();
    const response = await post({ input: [...items, call('a', added), output('a')] });
    expect(response.statusCode, response.body).toBe(200);
    expect(promptOf()).toBe('assistant:hello[a f 1];tool:aa;');
  });

  it.each([
    ['a call of nothing before it', { input: [output('a')] }, 'input.0.call_id'],
    ['arguments that are no JSON', { input: [call('a', { arguments: '{' })] }, 'input.0.arguments'],
    ['an empty list', { input: [] }, 'input'],
    ['no input', {}, 'input'],
    ['no text', { input: 7 }, 'input'],
    ['no item', { input: ['Q'] }, 'input.0'],
    ['no role', { input: [{ content: 'Q' }] }, 'input.0.role'],
    ['another role', { input: [{ role: 'tool', content: 'Q' }] }, 'input.0.role'],
    ['another type', { input: [{ type: 'thought' }] }, 'input.0.type'],
    ['no content', { input: [{ role: 'user' }] }, 'input.0.content'],
    [
      'a part of another kind',
      { input: [{ role: 'user', content: [{ type: 'text' }] }] },
      'input.0.content',
    ],
    ['a field that is not known', { input: [{ ...said('A'), mood: 1 }] }, 'input.0.mood'],
    ['no call id', { input: [{ ...call('a'), call_id: undefined }] }, 'input.0.call_id'],
    ['a status that is none', { input: [call('a', { status: 'late' })] }, 'input.0.status'],
  ])('is refused: %s', async (_what, body, param) => {
    await start();
    const response = await post(body);
    expect(response.statusCode, response.body).toBe(400);
    expect(response.json().error.param).toBe(param);
  });

  it('is what errors of the layers below are about', async () => {
    await start({ template: '{{ raise_exception("no") }}' });
    const failed = (await post({ input: 'Q' })).json().error;
    expect(failed).toMatchObject({ code: 'chat_template_failed', param: 'input' });
    const kwargs = (await post({ input: 'Q', chat_template_kwargs: { think: true } })).json().error;
    expect(kwargs).toMatchObject({
      ...{ code: 'unsupported_field', param: 'chat_template_kwargs.think' },
    });
  });
});

describe('what is not honoured', () => {
  it.each([
    ['store', { store: true }, /keeps no responses; leave it out, or send false/],
    ['previous_response_id', { previous_response_id: 'resp_1' }, /send the items of earlier/],
    ['conversation', { conversation: 'conv_1' }, /send the items of earlier/],
    ['background', { background: true }, /keeps no responses/],
    ['reasoning', { reasoning: { effort: 'low' } }, /leave it out/],
    ['truncation', { truncation: 'auto' }, /leave it out/],
    ['text.verbosity', { text: { verbosity: 'low' } }, /leave it out/],
    ['include.file_search_call.results', { include: ['file_search_call.results'] }, /leave it/],
    [
      'stream_options.include_obfuscation',
      {
        ...{ stream: true, stream_options: { include_obfuscation: true } },
      },
      /leave it out/,
    ],
    ['tools.0.web_search', { tools: [{ type: 'web_search' }] }, /leave it out/],
    [
      'tools.0.defer_loading',
      { tools: [{ type: 'function', name: 'f', defer_loading: true }] },
      /./,
    ],
    ['tool_choice.mcp', { tool_choice: { type: 'mcp', server_label: 's' } }, /leave it out/],
    ['input.0.reasoning', { input: [{ type: 'reasoning', id: 'r', summary: [] }] }, /leave it out/],
    [
      'input.0.item_reference',
      { input: [{ type: 'item_reference', id: 'msg_1' }] },
      /send the items/,
    ],
    [
      'input.0.content.0.input_image',
      {
        input: [{ role: 'user', content: [{ type: 'input_image', image_url: 'x' }] }],
      },
      /leave it out/,
    ],
    ['input.0.phase', { input: [{ role: 'assistant', content: 'A', phase: 'commentary' }] }, /./],
  ])('%s is refused by name', async (param, body, message) => {
    await start();
    const { error } = (await post({ input: 'Q', ...body })).json();
    expect(error).toMatchObject({ code: 'unsupported_field', param });
    expect(error.message).toMatch(message);
  });

  it.each([
    ['top_logprobs', { top_logprobs: 2 }],
    ['stream_options', { stream_options: { include_obfuscation: false } }],
    ['include.0', { include: ['everything'] }],
    ['max_output_tokens', { max_output_tokens: 0 }],
    ['min_tokens', { max_output_tokens: 1, min_tokens: 2 }],
    ['tool_choice', { tool_choice: 'required' }],
  ])('%s is refused where it has no meaning', async (param, body) => {
    await start();
    const { error } = (await post({ input: 'Q', ...body })).json();
    expect(error).toMatchObject({ code: 'invalid_request', param });
  });

  it('may be there with a value that asks for nothing', async () => {
    await start();
    const response = await post({
      ...{ input: 'Q', store: false, background: false, truncation: 'disabled', n: 1 },
      ...{ reasoning: { effort: null, summary: null }, service_tier: 'auto', include: [] },
      ...{ text: { verbosity: 'medium' }, tools: [], metadata: null, previous_response_id: null },
    });
    expect(response.statusCode, response.body).toBe(200);
  });
});

describe('the form of the answer', () => {
  const schema = { type: 'object', properties: { a: { type: 'integer' } }, required: ['a'] };
  it.each([
    [{ type: 'json_object' }, { kind: 'json_object', field: 'text.format' }],
    [
      { type: 'json_schema', name: 'n', strict: true, schema },
      {
        ...{ kind: 'json_schema', schema, field: 'text.format.schema' },
      },
    ],
  ])('is %j', async (format, constraint) => {
    await start(saying('{"a": 1}'));
    const response = await post({ input: 'Q', text: { format } });
    expect(response.statusCode, response.body).toBe(200);
    expect(response.json().text.format).toEqual(format);
    expect(server.grammars.asked.at(-1)).toMatchObject(constraint);
  });

  it('is said once', async () => {
    await start();
    const text = { format: { type: 'json_object' } };
    const { error } = (await post({ input: 'Q', text, guided_regex: 'a' })).json();
    expect(error).toMatchObject({ code: 'invalid_request', param: 'guided_regex' });
    const missing = await post({
      input: 'Q',
      text: { format: { type: 'json_schema', name: 'n' } },
    });
    expect(missing.json().error.param).toBe('text.format.schema');
  });

  it('is of a kind that there is', async () => {
    await start();
    const response = await post({ input: 'Q', text: { format: { type: 'foo' } } });
    expect(response.json().error).toMatchObject({
      ...{ code: 'invalid_request', param: 'text.format.type' },
      message: 'text.format.type must be text, json_object or json_schema',
    });
  });
});
