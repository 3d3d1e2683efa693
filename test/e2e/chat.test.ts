/** Chats and the fields of completions on a real server, with the model of the examples. */
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Json, startTestServer, type TestServer } from '../support/server.ts';

const EXAMPLE = path.resolve(import.meta.dirname, '../../examples/modular-arithmetic');
const QUESTION = '17 @ 5 =';

let server: TestServer;
beforeAll(async () => {
  server = await startTestServer([
    '--model',
    path.join(EXAMPLE, 'model'),
    '--served-model-name',
    'demo',
  ]);
});
afterAll(async () => {
  expect(await server?.end()).toBe(0);
});

const send = async (route: string, body: object): Promise<Json> => {
  const answer = await server.call('POST', route, { model: 'demo', temperature: 0, ...body });
  expect(answer.status, JSON.stringify(answer.body)).toBe(200);
  return answer.body;
};
const chat = (body: object) =>
  send('/v1/chat/completions', { messages: [{ role: 'user', content: QUESTION }], ...body });
const complete = (body: object) => send('/v1/completions', { prompt: QUESTION, ...body });

describe('a chat', () => {
  it('is answered as the prompt that its template writes', async () => {
    const answer = await chat({ max_tokens: 4, return_token_ids: true });
    const [choice] = answer.choices;
    const completion = await complete({ prompt: answer.prompt_token_ids, max_tokens: 4 });
    expect(choice.message.content).toBe(completion.choices[0].text);
    expect(choice.token_ids).toHaveLength(answer.usage.completion_tokens);
    expect(answer.usage.prompt_tokens).toBe(answer.prompt_token_ids.length);
  });

  it('is streamed as it is answered whole', async () => {
    const body = { model: 'demo', temperature: 0, max_tokens: 6, stream: true };
    const response = await fetch(`${server.url}/v1/chat/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', 'x-request-id': 'e2e' },
      body: JSON.stringify({ ...body, messages: [{ role: 'user', content: QUESTION }] }),
    });
    expect(response.headers.get('x-request-id')).toBe('e2e');
    const lines = (await response.text()).split('\n\n').filter((line) => line !== '');
    expect(lines.at(-1)).toBe('data: [DONE]');
    const deltas = lines.slice(0, -1).map((line) => JSON.parse(line.slice(6)).choices[0].delta);
    const { message } = (await chat({ max_tokens: 6 })).choices[0];
    expect(deltas.map(({ content }) => content ?? '').join('')).toBe(message.content);
  });
});

describe('fields of completions', () => {
  it('scores a prompt as its echo does', async () => {
    const body = { max_tokens: 1, echo: true, logprobs: 0, prompt_logprobs: 2 };
    const [choice] = (await complete({ ...body, return_token_ids: true })).choices;
    expect(choice.prompt_logprobs).toHaveLength(choice.prompt_token_ids.length);
    for (const [i, id] of choice.prompt_token_ids.entries()) {
      const entry = choice.prompt_logprobs[i];
      expect(entry?.[id].logprob ?? null).toBe(choice.logprobs.token_logprobs[i]);
      if (entry === null) continue;
      const ranks = Object.values(entry as Record<string, { rank: number }>).map((e) => e.rank);
      expect(ranks).toEqual(expect.arrayContaining([1, 2]));
    }
  });

  it('answers with the likeliest of several choices', async () => {
    const body = { temperature: 1, seed: 7, max_tokens: 6, logprobs: 0, ignore_eos: true };
    const sum = (choice: Json) =>
      (choice.logprobs.token_logprobs as number[]).reduce((total, one) => total + one, 0);
    const all = (await complete({ ...body, n: 6 })).choices;
    const best = (await complete({ ...body, n: 2, best_of: 6 })).choices;
    const texts = [...all].sort((a: Json, b: Json) => sum(b) - sum(a)).map(({ text }) => text);
    expect(best.map(({ text }: Json) => text)).toEqual(texts.slice(0, 2));
  });

  it('generates only what is allowed, and no bad words', async () => {
    const ids = { return_token_ids: true, ignore_eos: true, max_tokens: 12, temperature: 1 };
    const free = (await complete({ ...ids, seed: 1 })).choices[0].token_ids;
    const allowed = free.slice(0, 3);
    const bound = (await complete({ ...ids, seed: 1, allowed_token_ids: allowed })).choices[0];
    expect(bound.token_ids).toHaveLength(12);
    for (const id of bound.token_ids) expect(allowed).toContain(id);
    const greedy = (await complete({ max_tokens: 12, ignore_eos: true })).choices[0].text;
    const word = greedy.trim().slice(0, 2);
    const without = await complete({ max_tokens: 12, ignore_eos: true, bad_words: [word] });
    expect(word).not.toBe('');
    expect(without.choices[0].text.startsWith(greedy.slice(0, greedy.indexOf(word) + 2))).toBe(
      false,
    );
  });

  it('cuts prompts', async () => {
    const whole = (await complete({ max_tokens: 1, return_token_ids: true })).choices[0];
    const cut = await complete({
      max_tokens: 1,
      return_token_ids: true,
      truncate_prompt_tokens: 2,
    });
    expect(cut.choices[0].prompt_token_ids).toEqual(whole.prompt_token_ids.slice(-2));
  });
});

describe('tools', () => {
  const tool = (name: string, properties: object) => ({
    type: 'function',
    function: {
      name,
      parameters: {
        type: 'object',
        properties,
        required: Object.keys(properties),
        additionalProperties: false,
      },
    },
  });
  const tools = [
    tool('add', { a: { type: 'integer', minimum: 0, maximum: 99 }, b: { enum: [1, 2] } }),
    tool('colour', { name: { enum: ['red', 'green'] } }),
  ];

  function expectRight(call: Json): void {
    const given = JSON.parse(call.function.arguments);
    if (call.function.name === 'colour') {
      expect(Object.keys(given)).toEqual(['name']);
      expect(['red', 'green']).toContain(given.name);
    } else {
      expect(call.function.name).toBe('add');
      expect(Object.keys(given).sort()).toEqual(['a', 'b']);
      expect(given.a).toBe(Math.trunc(given.a));
      expect([1, 2]).toContain(given.b);
    }
  }

  it('are called rightly by a model that knows nothing of them', async () => {
    const body = { tools, tool_choice: 'required', temperature: 1, parallel_tool_calls: false };
    const { choices } = await chat({ ...body, n: 4, seed: 3 });
    for (const { message, finish_reason: reason } of choices) {
      expect(reason).toBe('tool_calls');
      expect(message.content).toBeNull();
      expect(message.tool_calls).toHaveLength(1);
      expectRight(message.tool_calls[0]);
    }
    const named = { type: 'function', function: { name: 'colour' } };
    const [choice] = (await chat({ tools, tool_choice: named })).choices;
    expect(choice.message.tool_calls[0].function.name).toBe('colour');
    expectRight(choice.message.tool_calls[0]);
  });
});
