/** Vercel's AI SDK against the demo server: tools and answers of a form, in chat and in responses. */
import { createOpenAI } from '@ai-sdk/openai';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import {
  generateObject,
  generateText,
  Output,
  stepCountIs,
  streamObject,
  streamText,
  tool,
} from 'ai';
import { describe, expect, it } from 'vitest';
import {
  expectOfForm,
  FORMS,
  IN_EACH_API,
  MODELS,
  QUESTION,
  Sum,
} from '../support/client-forms.ts';
import { useDemoServer } from '../support/demo-server.ts';

const demo = useDemoServer();

const APIS = {
  chat: (model: string) => {
    const options = {
      ...{ name: 'loramux', baseURL: demo.baseURL },
      // Else the SDK asks for any object and puts the schema into the prompt.
      supportsStructuredOutputs: true,
    };
    return {
      ...{ model: createOpenAICompatible(options).chatModel(model), seed: 3 },
      providerOptions: { loramux: { parallel_tool_calls: false } },
    };
  },
  responses: (model: string) => ({
    model: createOpenAI({ baseURL: demo.baseURL, apiKey: 'none' })(model),
    providerOptions: { openai: { parallelToolCalls: false } },
  }),
};

const asked = (api: keyof typeof APIS, model: string) => ({
  ...{ ...APIS[api](model), prompt: QUESTION, maxRetries: 0 },
  ...{ maxOutputTokens: 300, temperature: 1 },
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
  expectOfForm(call!.toolName, call!.input);
}

describe.each(IN_EACH_API)('in %s, tools of %s', (api, model) => {
  it('are called when a call is required', async () => {
    const given: unknown[] = [];
    const result = await generateText({
      ...{ ...asked(api, model), tools: toolsOf(given), toolChoice: 'required' },
    });
    expect(result.finishReason).toBe('tool-calls');
    expect(result.toolCalls).toHaveLength(1);
    expectRight(result.toolCalls[0]);
    expect(given).toEqual([result.toolCalls[0]!.input]);
    expect(result.text).toBe('');
  });

  it('are called by name, and may be called or not', async () => {
    const named = { type: 'tool', toolName: 'colour' } as const;
    const result = await generateText({
      ...{ ...asked(api, model), tools: toolsOf([]), toolChoice: named },
    });
    expect(result.toolCalls.map(({ toolName }) => toolName)).toEqual(['colour']);
    expectRight(result.toolCalls[0]);
    const free = await generateText({
      ...{ ...asked(api, model), tools: toolsOf([]), maxOutputTokens: 20 },
    });
    expect(free.text).toBeTypeOf('string');
  });

  it('are called in a stream', async () => {
    const given: unknown[] = [];
    const result = streamText({
      ...{ ...asked(api, model), tools: toolsOf(given), toolChoice: 'required' },
    });
    const pieces: string[] = [];
    const kinds = new Set<string>();
    for await (const part of result.fullStream) {
      if (part.type === 'error') throw part.error;
      if (part.type === 'tool-input-delta') pieces.push(part.delta);
      kinds.add(part.type);
    }
    expect([...kinds]).toEqual(expect.arrayContaining(['tool-input-delta', 'tool-result']));
    const [call, ...others] = await result.toolCalls;
    expect(others).toEqual([]);
    expectRight(call);
    expect(JSON.parse(pieces.join(''))).toEqual(call!.input);
    expect(await result.finishReason).toBe('tool-calls');
    expect(given).toEqual([call!.input]);
  });

  it('are called in several steps, each told of the last one', async () => {
    const result = await generateText({
      ...{ ...asked(api, model), tools: toolsOf([]), toolChoice: 'required' },
      stopWhen: stepCountIs(3),
    });
    expect(result.steps).toHaveLength(3);
    for (const { toolCalls, toolResults } of result.steps) {
      expectRight(toolCalls[0]);
      expect(toolResults).toHaveLength(1);
    }
    const [first, second] = result.steps.map(({ usage }) => usage.inputTokens!);
    expect(second).toBeGreaterThan(first!);
  });
});

describe.each(IN_EACH_API)('in %s, answers of %s', (api, model) => {
  it('are of a schema, whole and in a stream', async () => {
    const output = Output.object({ schema: Sum });
    const whole = await generateText({ ...asked(api, model), output });
    expect(Sum.parse(whole.output)).toEqual(whole.output);
    const stream = streamText({ ...asked(api, model), output });
    expect(Sum.parse(await stream.output)).toEqual(await stream.output);
  });
});

describe.each(MODELS)('objects of %s', (model) => {
  it('are of a schema, whole and in a stream', async () => {
    const body = { ...asked('chat', model), schema: Sum, schemaName: 'sum' };
    const { object, finishReason, warnings } = await generateObject(body);
    expect(finishReason).toBe('stop');
    expect(warnings).toEqual([]);
    expect(Sum.parse(object)).toEqual(object);
    const streamed = streamObject(body);
    let last: unknown;
    for await (const part of streamed.partialObjectStream) last = part;
    expect(last).toEqual(object);
    expect(await streamed.object).toEqual(object);
  });

  it('are lists and choices', async () => {
    const list = await generateObject({
      ...asked('chat', model),
      output: 'array',
      schema: FORMS.colour,
      maxOutputTokens: 2000,
    });
    for (const element of list.object) FORMS.colour.parse(element);
    const choice = await generateObject({
      ...asked('chat', model),
      output: 'enum',
      enum: ['red', 'blue'],
    });
    expect(['red', 'blue']).toContain(choice.object);
  });
});
