/** OpenAI's own client for Node against the demo server: chat. */
import OpenAI, { APIUserAbortError, BadRequestError } from 'openai';
import { beforeAll, expect, it } from 'vitest';
import { DEMO_NAME, demoQuestions, idle, useDemoServer } from '../support/demo-server.ts';

const demo = useDemoServer();
let client: OpenAI;

beforeAll(() => {
  client = new OpenAI({ baseURL: demo.baseURL, apiKey: 'none', maxRetries: 0 });
});

const user = (content: string) => [{ role: 'user' as const, content }];

it('answers with the base and with each adapter, all at once', async () => {
  await Promise.all(
    (await demoQuestions()).map(async ({ model, prompt, answer }) => {
      const completion = await client.chat.completions.create({
        ...{ model, messages: user(prompt), max_completion_tokens: 2, temperature: 0 },
      });
      expect(completion).toMatchObject({ object: 'chat.completion', model });
      const [choice, ...others] = completion.choices;
      expect(others).toEqual([]);
      expect(choice!.message, model).toMatchObject({ role: 'assistant', content: answer });
      expect(choice!.finish_reason).toBe('stop');
      expect(completion.usage).toMatchObject({ prompt_tokens: 5, completion_tokens: 2 });
    }),
  );
});

it('streams pieces that its helper puts together', async () => {
  for (const { model, prompt, answer } of await demoQuestions()) {
    const stream = client.chat.completions.stream({
      ...{ model, messages: user(prompt), max_completion_tokens: 2, temperature: 0 },
      stream_options: { include_usage: true },
    });
    let text = '';
    stream.on('content', (delta) => {
      text += delta;
    });
    const completion = await stream.finalChatCompletion();
    expect(text, model).toBe(answer);
    expect(completion.choices[0]!.message.content).toBe(answer);
    expect(completion.choices[0]!.finish_reason).toBe('stop');
    expect(completion.usage).toMatchObject({ prompt_tokens: 5, completion_tokens: 2 });
  }
});

it('lists log-probabilities with bytes', async () => {
  const { choices } = await client.chat.completions.create({
    ...{ model: 'subtract', messages: user('17 @ 5 ='), max_completion_tokens: 1, temperature: 0 },
    logprobs: true,
    top_logprobs: 3,
  });
  const [entry] = choices[0]!.logprobs!.content!;
  expect(entry).toMatchObject({ token: ' 12', bytes: [32, 49, 50] });
  expect(entry!.top_logprobs).toHaveLength(3);
  expect(entry!.top_logprobs[0]).toMatchObject({ token: ' 12', logprob: entry!.logprob });
});

it('takes a conversation with system, parts, tool calls and their results', async () => {
  const completion = await client.chat.completions.create({
    model: DEMO_NAME,
    messages: [
      { role: 'developer', content: 'Calculate.' },
      { role: 'user', content: [{ type: 'text', text: '17 @ 5 =' }] },
      {
        role: 'assistant',
        content: null,
        tool_calls: [
          { id: 'call_1', type: 'function', function: { name: 'add', arguments: '{"a":17}' } },
        ],
      },
      { role: 'tool', tool_call_id: 'call_1', content: '22' },
    ],
    tools: [{ type: 'function', function: { name: 'add', parameters: { type: 'object' } } }],
    ...{ max_completion_tokens: 4, temperature: 0, n: 2, seed: 1 },
  });
  expect(completion.choices.map(({ index }) => index)).toEqual([0, 1]);
  expect(completion.usage!.prompt_tokens).toBeGreaterThan(100);
});

it('refuses by name what it does not honour', async () => {
  for (const [field, value] of Object.entries({
    audio: { format: 'wav', voice: 'ash' },
    store: true,
  })) {
    const error = await client.chat.completions
      .create({ model: DEMO_NAME, messages: user('1 @ 1 ='), [field]: value })
      .catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(BadRequestError);
    expect(error).toMatchObject({ code: 'unsupported_field', param: field });
  }
  const empty = client.chat.completions.create({ model: DEMO_NAME, messages: [] });
  await expect(empty).rejects.toMatchObject({ code: 'invalid_request', param: 'messages' });
});

it('frees what an aborted stream held', async () => {
  const stream = client.chat.completions.stream({
    ...{ model: 'cubic', messages: user('1 @ 1 ='), max_completion_tokens: 4000 },
    ...({ ignore_eos: true } as object),
  });
  const read = async () => {
    for await (const _ of stream) stream.abort();
  };
  await expect(read()).rejects.toBeInstanceOf(APIUserAbortError);
  await idle(demo.server);
});
