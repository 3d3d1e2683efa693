/** Vercel's AI SDK against the demo server: its provider for OpenAI, which speaks responses. */
import { createOpenAI } from '@ai-sdk/openai';
import { APICallError, generateText, type ModelMessage, streamText } from 'ai';
import { beforeAll, describe, expect, it } from 'vitest';
import { QUESTION } from '../support/client-forms.ts';
import { demoQuestions, idle, useDemoServer } from '../support/demo-server.ts';

const demo = useDemoServer();
let openai: ReturnType<typeof createOpenAI>;

beforeAll(() => {
  openai = createOpenAI({ baseURL: demo.baseURL, apiKey: 'none' });
});

const exact = { maxOutputTokens: 2, temperature: 0, maxRetries: 0 };

it('generates text', async () => {
  for (const { model, prompt, answer } of await demoQuestions()) {
    const result = await generateText({ model: openai(model), prompt, ...exact });
    expect(result.text, model).toBe(answer);
    expect(result.finishReason).toBe('stop');
    expect(result.usage).toMatchObject({ inputTokens: 5, outputTokens: 2, totalTokens: 7 });
    expect(result.warnings ?? []).toEqual([]);
  }
});

it('streams text', async () => {
  for (const { model, prompt, answer } of await demoQuestions()) {
    const result = streamText({ model: openai(model), prompt, ...exact });
    let text = '';
    for await (const piece of result.textStream) text += piece;
    expect(text, model).toBe(answer);
    expect(await result.finishReason).toBe('stop');
    expect(await result.usage).toMatchObject({ inputTokens: 5, outputTokens: 2 });
  }
});

describe('a conversation', () => {
  const question: ModelMessage = { role: 'user', content: QUESTION };

  it('goes on with store: false, which sends what was said', async () => {
    const providerOptions = { openai: { store: false } };
    const body = { model: openai('subtract'), ...exact, providerOptions };
    const first = await generateText({ ...body, messages: [question] });
    const messages = [question, ...first.response.messages, question];
    const second = await generateText({ ...body, messages });
    expect(second.usage.inputTokens).toBeGreaterThan(2 * first.usage.inputTokens!);
  });

  it('needs it: else the SDK refers to what the server would have stored', async () => {
    const body = { model: openai('subtract'), ...exact };
    const first = await generateText({ ...body, messages: [question] });
    const messages = [question, ...first.response.messages, question];
    await expect(generateText({ ...body, messages })).rejects.toMatchObject({
      ...{ statusCode: 400, message: expect.stringContaining('item_reference is not supported') },
    });
  });
});

it('throws APICallError', async () => {
  const error = await generateText({ model: openai('nobody'), prompt: '1 @ 1 =', ...exact }).catch(
    (thrown: unknown) => thrown,
  );
  expect(APICallError.isInstance(error)).toBe(true);
  expect(error).toMatchObject({ statusCode: 404, isRetryable: false });
});

it('frees what an aborted stream held', async () => {
  const abort = new AbortController();
  const result = streamText({
    ...{ model: openai('cubic'), prompt: '1 @ 1 =', maxOutputTokens: 4000, temperature: 1 },
    abortSignal: abort.signal,
  });
  for await (const _ of result.textStream) abort.abort();
  await idle(demo.server);
});
