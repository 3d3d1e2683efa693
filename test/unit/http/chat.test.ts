import { afterEach, describe, expect, it } from 'vitest';
import { repeating } from '../../support/fake-engine.ts';
import { codes, EOS } from '../generation/support.ts';
import { parseSse, type TestServer, type TestServerOptions, testServer } from './support.ts';

let server: TestServer;
afterEach(() => server.close());

interface Choice {
  index: number;
  message: { content: string };
  stop_reason: unknown;
  delta: { content?: string };
  logprobs: { content: { token: string }[] } | null;
}
interface Chunk {
  choices: [Choice];
}

/** Says `text` and ends. */
const saying = (text: string) => ({ script: repeating([...codes(text), EOS]) });

const start = async (options?: TestServerOptions) => {
  server = await testServer(options);
};

const USER = { role: 'user', content: 'Q' };
const post = (body: object) =>
  server.app.inject({
    method: 'POST',
    url: '/v1/chat/completions',
    payload: { model: 'base', messages: [USER], ...body },
  });
const promptOf = (i = -1) => String.fromCharCode(...server.engine.submitted.at(i)!.promptTokenIds);
const errorOf = async (body: object) => {
  const { error } = (await post(body)).json();
  return [error.code, error.param];
};

describe('POST /v1/chat/completions', () => {
  it('answers in the shape of OpenAI', async () => {
    await start();
    const response = await post({});
    expect(response.statusCode, response.body).toBe(200);
    expect(response.json()).toEqual({
      id: expect.stringMatching(/^chatcmpl-[0-9a-f]{32}$/),
      object: 'chat.completion',
      created: expect.any(Number),
      model: 'base',
      system_fingerprint: 'loramux-0.0.0-test',
      choices: [
        {
          index: 0,
          message: { role: 'assistant', content: 'hello', refusal: null },
          logprobs: null,
          finish_reason: 'stop',
          stop_reason: EOS,
        },
      ],
      usage: {
        prompt_tokens: 19,
        completion_tokens: 6,
        total_tokens: 25,
        prompt_tokens_details: { cached_tokens: 0 },
      },
    });
    expect(promptOf()).toBe('user: Q\nassistant: ');
  });

  it('streams chunks that begin with the role and end with the reason', async () => {
    await start({ engine: saying('hi') });
    const response = await post({ model: 'sub', stream: true });
    expect(response.headers['content-type']).toBe('text/event-stream; charset=utf-8');
    const events = parseSse(response.body);
    expect(events.at(-1)).toBe('[DONE]');
    const chunks = events.slice(0, -1) as Record<string, unknown>[];
    for (const chunk of chunks) {
      expect(chunk).toMatchObject({
        id: chunks[0]!.id,
        object: 'chat.completion.chunk',
        model: 'sub',
        adapter_generation: server.adapters.resolve('sub').generation.digest,
      });
      expect(chunk).not.toHaveProperty('usage');
    }
    expect(chunks.flatMap(({ choices }) => choices)).toEqual([
      {
        index: 0,
        delta: { role: 'assistant', content: '', refusal: null },
        logprobs: null,
        finish_reason: null,
      },
      { index: 0, delta: { content: 'h' }, logprobs: null, finish_reason: null },
      { index: 0, delta: { content: 'i' }, logprobs: null, finish_reason: null },
      { index: 0, delta: {}, logprobs: null, finish_reason: 'stop', stop_reason: EOS },
    ]);
  });

  it('ends a stream with the usage when asked', async () => {
    await start({ engine: saying('hi') });
    const options = { stream: true, stream_options: { include_usage: true } };
    const chunks = parseSse((await post(options)).body).slice(0, -1) as Record<string, unknown>[];
    expect(chunks.at(-1)).toMatchObject({ choices: [], usage: { completion_tokens: 3 } });
    for (const chunk of chunks.slice(0, -1)) expect(chunk.usage).toBeNull();
  });

  it('renders every kind of message', async () => {
    const template =
      '{% for m in messages %}[{{ m | tojson }}]{% endfor %}{% if tools %}{% endif %}';
    await start({ template });
    await post({
      messages: [
        { role: 'developer', content: 'D', name: 'dev' },
        {
          role: 'user',
          content: [
            { type: 'text', text: 'a' },
            { type: 'text', text: 'b' },
          ],
        },
        {
          role: 'assistant',
          content: null,
          refusal: null,
          annotations: [],
          audio: null,
          function_call: null,
          parsed: null,
          tool_calls: [
            {
              id: 'c1',
              type: 'function',
              index: 0,
              function: { name: 'f', arguments: '{"x": [1]}', parsed_arguments: null },
            },
            { id: 'c2', type: 'function', function: { name: 'g', arguments: '' } },
          ],
        },
        { role: 'tool', tool_call_id: 'c1', content: 'T' },
        { role: 'assistant', refusal: 'No.' },
        {
          role: 'assistant',
          content: [
            { type: 'refusal', refusal: 'r' },
            { type: 'text', text: 't' },
          ],
          reasoning_content: 'think',
        },
      ],
    });
    const messages = JSON.parse(`[${promptOf().slice(1, -1).replaceAll('][', ',')}]`);
    expect(messages).toEqual([
      { role: 'system', content: 'D', name: 'dev' },
      { role: 'user', content: 'a\nb' },
      {
        role: 'assistant',
        content: '',
        tool_calls: [
          { id: 'c1', type: 'function', function: { name: 'f', arguments: { x: [1] } } },
          { id: 'c2', type: 'function', function: { name: 'g', arguments: {} } },
        ],
      },
      { role: 'tool', tool_call_id: 'c1', content: 'T' },
      { role: 'assistant', content: 'No.' },
      expect.objectContaining({ content: 'r\nt', reasoning_content: 'think' }),
    ]);
  });

  it('gives parts to templates that loop over them', async () => {
    const template =
      '{% for m in messages %}{{ m.role }}{% for p in m.content %}<{{ p.text }}>{% endfor %}' +
      '{% endfor %}';
    await start({ template });
    await post({
      messages: [
        {
          role: 'user',
          content: [
            { type: 'text', text: 'a' },
            { type: 'text', text: 'b' },
          ],
        },
        { role: 'assistant', content: 'c' },
        { role: 'developer', content: 'd' },
      ],
    });
    expect(promptOf()).toBe('user<a><b>assistant<c>system<d>');
    await start({ template: "{% for m in messages %}{{ m['role'] }}{% endfor %}{# developer #}" });
    await post({ messages: [{ role: 'developer', content: 'd' }] });
    expect(promptOf()).toBe('developer');
  });

  it('continues the last message, and echoes it when asked', async () => {
    await start();
    const messages = [USER, { role: 'assistant', content: 'So' }];
    const body = { messages, continue_final_message: true, echo: true };
    expect((await post(body)).json().choices[0].message.content).toBe('Sohello');
    expect(promptOf()).toBe('user: Q\nassistant: So');
    const chunks = parseSse((await post({ ...body, stream: true })).body).slice(0, -1);
    const text = chunks.map((c) => (c as unknown as Chunk).choices[0].delta.content ?? '').join('');
    expect(text).toBe('Sohello');
    await post({ messages, add_generation_prompt: false });
    expect(promptOf()).toBe('user: Q\nassistant: So\n');
    // The last message is not the assistant's.
    expect((await post({ echo: true })).json().choices[0].message.content).toBe('hello');
  });

  it('answers as long as the context is, without a limit', async () => {
    await start({ engine: { script: repeating(codes('a')), maxModelLen: 50 } });
    const response = (await post({})).json();
    expect(response.choices[0]).toMatchObject({ finish_reason: 'length', stop_reason: null });
    expect(response.usage).toMatchObject({ prompt_tokens: 19, completion_tokens: 31 });
    for (const field of ['max_tokens', 'max_completion_tokens']) {
      expect((await post({ [field]: 3 })).json().usage.completion_tokens).toBe(3);
    }
    expect((await post({ max_tokens: 2, max_completion_tokens: 2 })).statusCode).toBe(200);
    expect(await errorOf({ max_tokens: 2, max_completion_tokens: 3 })).toEqual([
      'invalid_request',
      'max_tokens',
    ]);
    const content = 'x'.repeat(60);
    expect(await errorOf({ messages: [{ role: 'user', content }] })).toEqual([
      'context_length_exceeded',
      'messages',
    ]);
  });

  it('gives log-probabilities in the shape of chats', async () => {
    await start({ engine: saying('h') });
    const { choices } = (await post({ logprobs: true, top_logprobs: 2 })).json();
    expect(choices[0].logprobs.content[0]).toEqual({
      token: 'h',
      logprob: -0.5,
      bytes: [104],
      top_logprobs: [
        { token: 'h', logprob: -0.5, bytes: [104] },
        { token: 'i', logprob: -1, bytes: [105] },
      ],
    });
    expect(choices[0].logprobs.content).toHaveLength(2);
    const plain = (await post({ logprobs: true })).json();
    expect(plain.choices[0].logprobs.content[0].top_logprobs).toEqual([]);
    const chunks = parseSse((await post({ logprobs: true, stream: true })).body).slice(0, -1);
    const tokens = chunks.flatMap(
      (c) => (c as unknown as Chunk).choices[0].logprobs?.content ?? [],
    );
    expect(tokens.map(({ token }) => token)).toEqual(['h', '<eos>']);
    expect(await errorOf({ top_logprobs: 2 })).toEqual(['invalid_request', 'top_logprobs']);
  });

  it('numbers choices and passes sampling fields on', async () => {
    await start();
    const body = { n: 2, temperature: 0.5, top_k: 3, seed: 7, stop: ['ll'], min_tokens: 1 };
    const { choices } = (await post(body)).json();
    expect(choices.map((c: Choice) => [c.index, c.message.content, c.stop_reason])).toEqual([
      [0, 'he', 'll'],
      [1, 'he', 'll'],
    ]);
    const { sampling, n } = server.engine.submitted[0]!;
    expect(n).toBe(2);
    expect(sampling).toMatchObject({ temperature: 0.5, topK: 3, seed: 7n, minTokens: 1 });
  });

  it('takes templates and their variables from requests where it may', async () => {
    await start({ trustRequestTemplates: true });
    await post({
      chat_template: '{{ mood }}{{ documents[0].text }}{{ messages[0].content }}',
      chat_template_kwargs: { mood: 'glad' },
      documents: [{ text: 'doc' }],
    });
    expect(promptOf()).toBe('gladdocQ');
    expect(await errorOf({ chat_template_kwargs: { mood: 'glad' } })).toEqual([
      'unsupported_field',
      'chat_template_kwargs.mood',
    ]);
    expect(await errorOf({ documents: [{ text: 'doc' }] })).toEqual([
      'unsupported_field',
      'documents',
    ]);
    expect(await errorOf({ chat_template: '{% if %}' })).toEqual(['chat_template_invalid', null]);
    await start();
    expect(await errorOf({ chat_template: 'x' })).toEqual(['unsupported_field', 'chat_template']);
  });

  it('answers others while a template goes on and on', async () => {
    await start({ trustRequestTemplates: true });
    const turns = '{% for i in range(99999) %}';
    const endless = `${turns}${turns}{% endfor %}{% endfor %}`;
    const answered: unknown[] = [];
    const hostile = errorOf({ chat_template: endless }).then((error) => answered.push(error));
    const other = post({}).then(({ statusCode }) => answered.push(statusCode));
    await Promise.all([hostile, other]);
    expect(answered).toEqual([200, ['chat_template_failed', 'messages']]);
  });

  it.each([
    [{ messages: [] }, 'messages'],
    [{ messages: 'Q' }, 'messages'],
    [{ messages: [{ role: 'user' }] }, 'messages.0.content'],
    [{ messages: [{ role: 'king', content: 'Q' }] }, 'messages.0.role'],
    [{ messages: [{ content: 'Q' }] }, 'messages.0.role'],
    [{ messages: [{ role: 'user', content: 5 }] }, 'messages.0.content'],
    [{ messages: [{ role: 'user', content: [] }] }, 'messages.0.content'],
    [{ messages: [{ role: 'user', content: [{ type: 'text' }] }] }, 'messages.0.content'],
    [{ messages: [{ role: 'assistant' }] }, 'messages.0.content'],
    [{ messages: [{ role: 'tool', content: 'Q' }] }, 'messages.0.tool_call_id'],
    [
      {
        messages: [
          {
            role: 'assistant',
            tool_calls: [{ id: 'c', type: 'function', function: { name: 'f', arguments: '{' } }],
          },
        ],
      },
      'messages.0.tool_calls.0.function.arguments',
    ],
    [{ continue_final_message: true, add_generation_prompt: true }, 'continue_final_message'],
    [{ n: 0 }, 'n'],
    [{ top_logprobs: 21, logprobs: true }, 'top_logprobs'],
    [{ stream_options: {} }, 'stream_options'],
    [{ tool_choice: 'required' }, 'tool_choice'],
  ])('refuses %j as malformed', async (body, param) => {
    await start();
    const response = await post(body);
    expect(response.statusCode).toBe(400);
    expect(response.json().error).toMatchObject({ code: 'invalid_request', param });
  });

  it.each([
    [{ colour: 1 }, 'colour'],
    [{ prompt: 'Q' }, 'prompt'],
    [{ messages: [{ ...USER, mood: 1 }] }, 'messages.0.mood'],
  ])('does not know %j', async (body, param) => {
    await start();
    expect(await errorOf(body)).toEqual(['unknown_field', param]);
  });

  it('answers an error before the first token with its status', async () => {
    await start();
    for (const stream of [true, false]) {
      const response = await post({ model: 'nobody', stream });
      expect(response.statusCode).toBe(404);
      expect(response.json().error).toMatchObject({ code: 'model_not_found', param: 'model' });
    }
  });
});
