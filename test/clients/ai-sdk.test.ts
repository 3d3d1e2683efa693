/** Vercel's AI SDK against the demo server. */
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { APICallError, generateText, streamText } from 'ai';
import { beforeAll, expect, it } from 'vitest';
import { demoQuestions, idle, useDemoServer } from '../support/demo-server.ts';

const demo = useDemoServer();
let provider: ReturnType<typeof createOpenAICompatible>;

beforeAll(() => {
  const { baseURL } = demo;
  provider = createOpenAICompatible({ name: 'loramux', baseURL, includeUsage: true });
});

const exact = { maxOutputTokens: 2, temperature: 0, maxRetries: 0 };

it('generates text in chats', async () => {
  for (const { model, prompt, answer } of await demoQuestions()) {
    const chat = provider.chatModel(model);
    const { text, finishReason, usage } = await generateText({ model: chat, prompt, ...exact });
    expect(text, model).toBe(answer);
    expect(finishReason).toBe('stop');
    expect(usage).toMatchObject({ inputTokens: 5, outputTokens: 2, totalTokens: 7 });
  }
});

it('generates text in completions, around which it writes a conversation of its own', async () => {
  const result = await generateText({
    ...{ model: provider.completionModel('subtract'), prompt: '17 @ 5 =', ...exact },
  });
  expect(result.text).toMatch(/./);
  expect(result.usage.inputTokens).toBeGreaterThan(5);
});

it('streams text', async () => {
  for (const { model, prompt, answer } of await demoQuestions()) {
    const result = streamText({ model: provider.chatModel(model), prompt, ...exact });
    let text = '';
    for await (const piece of result.textStream) text += piece;
    expect(text, model).toBe(answer);
    expect(await result.finishReason).toBe('stop');
    expect(await result.usage).toMatchObject({ inputTokens: 5, outputTokens: 2 });
  }
});

it('throws APICallError', async () => {
  const prompt = '1 @ 1 =';
  const error = await generateText({ model: provider.chatModel('nobody'), prompt, ...exact }).catch(
    (thrown: unknown) => thrown,
  );
  expect(APICallError.isInstance(error)).toBe(true);
  expect(error).toMatchObject({ statusCode: 404, isRetryable: false });
});

it('frees what an aborted stream held', async () => {
  const abort = new AbortController();
  const result = streamText({
    model: provider.chatModel('cubic'),
    ...{ prompt: '1 @ 1 =', maxOutputTokens: 4000, abortSignal: abort.signal },
    providerOptions: { loramux: { ignore_eos: true } },
  });
  for await (const _ of result.textStream) abort.abort();
  await idle(demo.server);
});
