/** Vercel's AI SDK against the demo server: its provider for OpenAI, which speaks responses. */
import { createOpenAI } from '@ai-sdk/openai';
import {
  APICallError,
  generateText,
  type ModelMessage,
  Output,
  stepCountIs,
  streamText,
  tool,
} from 'ai';
import { beforeAll, describe, expect, it } from 'vitest';
import { FORMS, MODELS, QUESTION, Sum } from '../support/client-forms.ts';
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

const asked = (model: string) => ({
  ...{ model: openai(model), prompt: QUESTION, maxRetries: 0 },
  ...{ maxOutputTokens: 300, temperature: 1 },
  providerOptions: { openai: { parallelToolCalls: false } },
});

function toolsOf(given: unknown[]) {
  const execute = async (input: unknown) => {
    given.push(input);
    return { mixed: true };
  };
  return {
    add: tool({ description: 'Adds.', inputSchema: FORMS.add, execute }),
    colour: tool({ description: 'Mixes a colour.', inputSchema: FORMS.colour, execute }),
  };
}

function expectRight(
  call: { toolName: string; input: unknown; invalid?: boolean | undefined } | undefined,
) {
  expect(call?.invalid ?? false).toBe(false);
  FORMS[call!.toolName as keyof typeof FORMS].parse(call!.input);
}

describe.each(MODELS)('tools of %s', (model) => {
  it('are called when a call is required, and by name', async () => {
    const given: unknown[] = [];
    const result = await generateText({
      ...{ ...asked(model), tools: toolsOf(given), toolChoice: 'required' },
    });
    expect(result.finishReason).toBe('tool-calls');
    expect(result.toolCalls).toHaveLength(1);
    expectRight(result.toolCalls[0]);
    expect(given).toEqual([result.toolCalls[0]!.input]);
    const toolChoice = { type: 'tool', toolName: 'colour' } as const;
    const named = await generateText({ ...asked(model), tools: toolsOf([]), toolChoice });
    expect(named.toolCalls.map(({ toolName }) => toolName)).toEqual(['colour']);
  });

  it('are called in a stream', async () => {
    const result = streamText({
      ...{ ...asked(model), tools: toolsOf([]), toolChoice: 'required' },
    });
    const kinds = new Set<string>();
    for await (const { type } of result.fullStream) kinds.add(type);
    expect([...kinds]).toEqual(expect.arrayContaining(['tool-input-delta', 'tool-result']));
    expect(kinds).not.toContain('error');
    expectRight((await result.toolCalls)[0]);
    expect(await result.finishReason).toBe('tool-calls');
  });

  it('are called in several steps, each told of the last one', async () => {
    const result = await generateText({
      ...{ ...asked(model), tools: toolsOf([]), toolChoice: 'required' },
      stopWhen: stepCountIs(3),
    });
    expect(result.steps).toHaveLength(3);
    for (const { toolCalls } of result.steps) expectRight(toolCalls[0]);
    const [first, second] = result.steps.map(({ usage }) => usage.inputTokens!);
    expect(second).toBeGreaterThan(first!);
  });
});

describe.each(MODELS)('answers of %s', (model) => {
  it('are of a schema, whole and in a stream', async () => {
    const output = Output.object({ schema: Sum });
    const whole = await generateText({ ...asked(model), output });
    expect(Sum.parse(whole.output)).toEqual(whole.output);
    const stream = streamText({ ...asked(model), output });
    expect(Sum.parse(await stream.output)).toEqual(await stream.output);
  });
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
