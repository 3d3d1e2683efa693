/** Vercel's AI SDK against the demo server: tools and answers of a form. */
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
import { beforeAll, describe, expect, it } from 'vitest';
import { FORMS, MODELS, QUESTION, Sum } from '../support/client-forms.ts';
import { useDemoServer } from '../support/demo-server.ts';

const demo = useDemoServer();
let provider: ReturnType<typeof createOpenAICompatible>;

beforeAll(() => {
  const { baseURL } = demo;
  // Without the last, the SDK asks for any object and puts the schema into the prompt.
  const supportsStructuredOutputs = true;
  provider = createOpenAICompatible({ name: 'loramux', baseURL, supportsStructuredOutputs });
});

const asked = (model: string) => ({
  ...{ model: provider.chatModel(model), prompt: QUESTION, maxRetries: 0 },
  ...{ maxOutputTokens: 300, temperature: 1, seed: 3 },
  providerOptions: { loramux: { parallel_tool_calls: false } },
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
  expect(Object.keys(FORMS)).toContain(call?.toolName);
  FORMS[call!.toolName as keyof typeof FORMS].parse(call!.input);
}

describe.each(MODELS)('tools of %s', (model) => {
  it('are called when a call is required', async () => {
    const given: unknown[] = [];
    const result = await generateText({
      ...{ ...asked(model), tools: toolsOf(given), toolChoice: 'required' },
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
      ...{ ...asked(model), tools: toolsOf([]), toolChoice: named },
    });
    expect(result.toolCalls.map(({ toolName }) => toolName)).toEqual(['colour']);
    expectRight(result.toolCalls[0]);
    const free = await generateText({ ...asked(model), maxOutputTokens: 20, tools: toolsOf([]) });
    expect(free.text).toBeTypeOf('string');
  });

  it('are called in a stream', async () => {
    const given: unknown[] = [];
    const result = streamText({
      ...{ ...asked(model), tools: toolsOf(given), toolChoice: 'required' },
    });
    const pieces: string[] = [];
    for await (const part of result.fullStream) {
      if (part.type === 'error') throw part.error;
      if (part.type === 'tool-input-delta') pieces.push(part.delta);
    }
    const [call, ...others] = await result.toolCalls;
    expect(others).toEqual([]);
    expectRight(call);
    expect(JSON.parse(pieces.join(''))).toEqual(call!.input);
    expect(await result.finishReason).toBe('tool-calls');
    expect(given).toEqual([call!.input]);
  });

  it('are told of in the next step', async () => {
    const result = await generateText({
      ...{ ...asked(model), tools: toolsOf([]), toolChoice: 'required' },
      stopWhen: stepCountIs(2),
    });
    const [first, second] = result.steps;
    expect(first!.toolResults).toHaveLength(1);
    expectRight(second!.toolCalls[0]);
    expect(second!.usage.inputTokens).toBeGreaterThan(first!.usage.inputTokens!);
  });
});

describe.each(MODELS)('answers of %s', (model) => {
  it('are of a schema, whole and in a stream', async () => {
    const body = { ...asked(model), schema: Sum, schemaName: 'sum' };
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
      ...asked(model),
      output: 'array',
      schema: FORMS.colour,
      maxOutputTokens: 2000,
    });
    for (const element of list.object) FORMS.colour.parse(element);
    const choice = await generateObject({ ...asked(model), output: 'enum', enum: ['red', 'blue'] });
    expect(['red', 'blue']).toContain(choice.object);
  });

  it('are of a schema as texts of an output', async () => {
    const { output } = await generateText({
      ...{ ...asked(model), output: Output.object({ schema: Sum }) },
    });
    expect(Sum.parse(output)).toEqual(output);
  });
});
