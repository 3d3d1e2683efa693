/** OpenAI's own client for Node against the demo server: tools and answers of a form. */
import OpenAI from 'openai';
import { zodFunction, zodResponseFormat } from 'openai/helpers/zod';
import type {
  ChatCompletionFunctionTool,
  ChatCompletionMessageFunctionToolCall,
  ChatCompletionMessageParam,
} from 'openai/resources/chat/completions';
import { beforeAll, describe, expect, it } from 'vitest';
import { z } from 'zod';
import { expectOfForm, FORMS, MODELS, QUESTION, Sum } from '../support/client-forms.ts';
import { DEMO_NAME, idle, useDemoServer } from '../support/demo-server.ts';

const demo = useDemoServer();
let client: OpenAI;

beforeAll(() => {
  client = new OpenAI({ baseURL: demo.baseURL, apiKey: 'none', maxRetries: 0 });
});

const tools = Object.entries(FORMS).map(
  ([name, schema]): ChatCompletionFunctionTool => ({
    type: 'function',
    function: { name, description: `Does ${name}.`, parameters: z.toJSONSchema(schema) },
  }),
);

const question: ChatCompletionMessageParam = { role: 'user', content: QUESTION };
const asked = (model: string) => ({
  ...{ model, messages: [question], max_completion_tokens: 200, temperature: 1, seed: 3 },
});

function expectRight(call: object | undefined): ChatCompletionMessageFunctionToolCall {
  const made = call as ChatCompletionMessageFunctionToolCall;
  expect(made).toMatchObject({ type: 'function', id: expect.stringMatching(/./) });
  const { name, arguments: given } = made.function;
  expectOfForm(name, JSON.parse(given));
  return made;
}

describe.each(MODELS)('tools of %s', (model) => {
  it('are called when a call is required', async () => {
    const { choices } = await client.chat.completions.create({
      ...{ ...asked(model), tools, tool_choice: 'required', parallel_tool_calls: false, n: 4 },
    });
    expect(choices).toHaveLength(4);
    for (const { message, finish_reason: reason } of choices) {
      expect(reason).toBe('tool_calls');
      expect(message.content).toBeNull();
      expect(message.tool_calls).toHaveLength(1);
      expectRight(message.tool_calls![0]);
    }
  });

  it('are called by name', async () => {
    for (const name of Object.keys(FORMS)) {
      const { choices } = await client.chat.completions.create({
        ...{ ...asked(model), tools, tool_choice: { type: 'function', function: { name } } },
      });
      expect(choices[0]!.message.tool_calls).toHaveLength(1);
      expect(expectRight(choices[0]!.message.tool_calls![0]).function.name).toBe(name);
    }
  });

  it('may be called, or not', async () => {
    for (const choice of ['auto', 'none'] as const) {
      const { choices } = await client.chat.completions.create({
        ...{ ...asked(model), tools, tool_choice: choice, max_completion_tokens: 20 },
      });
      const { content, tool_calls: calls } = choices[0]!.message;
      expect(typeof content === 'string' || calls?.length).toBeTruthy();
      if (choice === 'none') expect(calls ?? []).toEqual([]);
    }
  });

  it('are told of in the next turn', async () => {
    const first = await client.chat.completions.create({
      ...{ ...asked(model), tools, tool_choice: 'required', parallel_tool_calls: false },
    });
    const { message } = first.choices[0]!;
    const call = expectRight(message.tool_calls![0]);
    const result: ChatCompletionMessageParam = {
      ...{ role: 'tool', tool_call_id: call.id, content: '22' },
    };
    const second = await client.chat.completions.create({
      ...{ ...asked(model), tools, tool_choice: 'none', max_completion_tokens: 4 },
      messages: [question, message, result],
    });
    expect(typeof second.choices[0]!.message.content).toBe('string');
    const withoutTurn = await client.chat.completions.create({
      ...{ ...asked(model), tools, tool_choice: 'none', max_completion_tokens: 4 },
    });
    const told = second.usage!.prompt_tokens - withoutTurn.usage!.prompt_tokens;
    expect(told).toBeGreaterThan(0);
  });

  it('are called in a stream that the helper puts together', async () => {
    const body = { ...asked(model), tools, tool_choice: 'required', parallel_tool_calls: false };
    const required = { ...body, tool_choice: 'required' } as const;
    const stream = client.chat.completions.stream(required);
    let text = '';
    stream.on('tool_calls.function.arguments.delta', ({ arguments_delta: delta }) => {
      text += delta;
    });
    const streamed = await stream.finalChatCompletion();
    expect(streamed.choices[0]!.finish_reason).toBe('tool_calls');
    const call = expectRight(streamed.choices[0]!.message.tool_calls![0]);
    expect(text).toBe(call.function.arguments);
    const whole = await client.chat.completions.create(required);
    const { function: made } = expectRight(whole.choices[0]!.message.tool_calls![0]);
    expect({ name: call.function.name, arguments: text }).toMatchObject({ ...made });
  });

  it('are parsed by the helper, which declares them strict', async () => {
    const { choices } = await client.chat.completions.parse({
      ...{ ...asked(model), tool_choice: 'required', parallel_tool_calls: false },
      tools: [zodFunction({ name: 'colour', parameters: FORMS.colour })],
    });
    const [call] = choices[0]!.message.tool_calls!;
    expect(FORMS.colour.parse(call!.function.parsed_arguments)).toEqual(
      JSON.parse(expectRight(call).function.arguments),
    );
  });

  it('are run by the helper', async () => {
    const given: unknown[] = [];
    const runner = client.chat.completions.runTools({
      ...{ ...asked(model), max_completion_tokens: 120 },
      tool_choice: { type: 'function', function: { name: 'colour' } },
      tools: [
        {
          type: 'function',
          function: {
            ...{
              name: 'colour',
              description: 'Mixes one.',
              parameters: z.toJSONSchema(FORMS.colour),
            },
            parse: (text: string) => FORMS.colour.parse(JSON.parse(text)),
            function: (colour: z.infer<typeof FORMS.colour>) => {
              given.push(colour);
              return 'mixed';
            },
          },
        },
      ] as never,
    });
    await runner.done();
    expect(given).toHaveLength(1);
    expect(runner.messages.map(({ role }) => role).slice(0, 3)).toEqual([
      ...['user', 'assistant', 'tool'],
    ]);
  });
});

describe.each(MODELS)('answers of %s', (model) => {
  it('are of a schema', async () => {
    const schema = z.toJSONSchema(Sum);
    const { choices } = await client.chat.completions.create({
      ...{ ...asked(model), n: 3 },
      response_format: { type: 'json_schema', json_schema: { name: 'sum', schema, strict: true } },
    });
    expect(choices).toHaveLength(3);
    for (const { message, finish_reason: reason } of choices) {
      expect(reason).toBe('stop');
      Sum.parse(JSON.parse(message.content!));
    }
  });

  it('are parsed by the helper, whole and in a stream', async () => {
    const body = { ...asked(model), response_format: zodResponseFormat(Sum, 'sum') };
    const { choices } = await client.chat.completions.parse(body);
    const { parsed, content } = choices[0]!.message;
    expect(parsed).toEqual(Sum.parse(JSON.parse(content!)));
    const streamed = await client.chat.completions.stream(body).finalChatCompletion();
    expect(streamed.choices[0]!.message.parsed).toEqual(parsed);
  });

  it('are objects, for a mode that knows no schema', async () => {
    const { choices } = await client.chat.completions.create({
      ...{ ...asked(model), max_completion_tokens: 3000 },
      response_format: { type: 'json_object' },
    });
    const { message, finish_reason: reason } = choices[0]!;
    expect(reason).toBe('stop');
    expect(JSON.parse(message.content!)).toBeTypeOf('object');
  });

  it('are of a schema, or a call', async () => {
    const { choices } = await client.chat.completions.create({
      ...{ ...asked(model), tools, n: 4, response_format: zodResponseFormat(Sum, 'sum') },
    });
    for (const { message } of choices) {
      if (message.content === null) expectRight(message.tool_calls![0]);
      else Sum.parse(JSON.parse(message.content));
    }
  });
});

it('refuses by place a schema that it cannot keep to', async () => {
  const schema = { type: 'object', properties: { a: { type: 'number', multipleOf: 0.5 } } };
  const asking = client.chat.completions.create({
    ...asked(DEMO_NAME),
    response_format: { type: 'json_schema', json_schema: { name: 'half', schema } },
  });
  await expect(asking).rejects.toMatchObject({ status: 400, code: 'grammar_unsupported' });
  await idle(demo.server);
});
