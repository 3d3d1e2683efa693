/** OpenAI's own client for Node against the demo server: responses. */
import OpenAI, { APIError, APIUserAbortError, BadRequestError } from 'openai';
import { zodResponsesFunction, zodTextFormat } from 'openai/helpers/zod';
import type {
  FunctionTool,
  ResponseFunctionToolCall,
  ResponseInput,
  ResponseOutputItem,
} from 'openai/resources/responses/responses';
import { beforeAll, describe, expect, it } from 'vitest';
import { z } from 'zod';
import { expectOfForm, FORMS, MODELS, QUESTION, Sum } from '../support/client-forms.ts';
import { DEMO_NAME, demoQuestions, idle, useDemoServer } from '../support/demo-server.ts';

const demo = useDemoServer();
let client: OpenAI;

beforeAll(() => {
  client = new OpenAI({ baseURL: demo.baseURL, apiKey: 'none', maxRetries: 0 });
});

/** Items go back as they came; the client's types of the two differ in what this server never sends. */
const back = (items: ResponseOutputItem[]) => items as ResponseInput;

/** vLLM's fields, which OpenAI's types do not have. */
const more = (fields: object) => fields as Record<never, never>;

it('answers with the base and with each adapter, all at once', async () => {
  await Promise.all(
    (await demoQuestions()).map(async ({ model, prompt, answer }) => {
      const response = await client.responses.create({
        ...{ model, input: prompt, max_output_tokens: 2, temperature: 0 },
      });
      expect(response).toMatchObject({ object: 'response', model, status: 'completed' });
      expect(response.output_text, model).toBe(answer);
      expect(response.usage).toMatchObject({ input_tokens: 5, output_tokens: 2 });
    }),
  );
});

it('streams events that its helper puts together', async () => {
  for (const { model, prompt, answer } of await demoQuestions()) {
    const stream = client.responses.stream({
      ...{ model, input: prompt, max_output_tokens: 2, temperature: 0 },
    });
    const types: string[] = [];
    let text = '';
    stream.on('response.output_text.delta', ({ delta, snapshot }) => {
      text += delta;
      expect(snapshot).toBe(text);
    });
    for await (const { type } of stream) types.push(type);
    const response = await stream.finalResponse();
    expect(text, model).toBe(answer);
    expect(response.output_text).toBe(answer);
    expect(types.filter((type) => type !== 'response.output_text.delta')).toEqual([
      ...['response.created', 'response.in_progress', 'response.output_item.added'],
      ...['response.content_part.added', 'response.output_text.done'],
      ...['response.content_part.done', 'response.output_item.done', 'response.completed'],
    ]);
  }
});

it('goes on from what was said before', async () => {
  const input: ResponseInput = [{ role: 'user', content: QUESTION }];
  const body = { model: 'subtract', max_output_tokens: 2, temperature: 0 };
  const first = await client.responses.create({ ...body, input });
  input.push(...back(first.output), { role: 'user', content: QUESTION });
  const second = await client.responses.create({ ...body, input, instructions: 'Subtract.' });
  expect(second.usage!.input_tokens).toBeGreaterThan(first.usage!.input_tokens * 2);
  const stored = client.responses.create({ ...body, input, previous_response_id: first.id });
  await expect(stored).rejects.toBeInstanceOf(BadRequestError);
  await expect(client.responses.retrieve(first.id)).rejects.toMatchObject({ status: 404 });
});

it('lists log-probabilities with bytes', async () => {
  const { output } = await client.responses.create({
    ...{ model: 'subtract', input: QUESTION, max_output_tokens: 1, temperature: 0 },
    ...{ include: ['message.output_text.logprobs'], top_logprobs: 3 },
  });
  const [item] = output;
  if (item?.type !== 'message' || item.content[0]?.type !== 'output_text') throw new Error();
  const [entry] = item.content[0].logprobs!;
  expect(entry).toMatchObject({ token: ' 12', bytes: [32, 49, 50] });
  expect(entry!.top_logprobs).toHaveLength(3);
});

const tools = Object.entries(FORMS).map(
  ([name, schema]): FunctionTool => ({
    ...{ type: 'function', name, description: `Does ${name}.`, strict: false },
    parameters: z.toJSONSchema(schema),
  }),
);

const asked = (model: string) => ({
  ...{ model, input: QUESTION, max_output_tokens: 300, temperature: 1, ...more({ seed: 3 }) },
});

function expectCall(items: ResponseOutputItem[]): ResponseFunctionToolCall {
  expect(items).toHaveLength(1);
  const made = items[0] as ResponseFunctionToolCall;
  expect(made).toMatchObject({ type: 'function_call', status: 'completed' });
  expectOfForm(made.name, JSON.parse(made.arguments));
  return made;
}

describe.each(MODELS)('tools of %s', (model) => {
  const one = { tools, tool_choice: 'required', parallel_tool_calls: false } as const;

  it('are called, and told of what came of it', async () => {
    const input: ResponseInput = [{ role: 'user', content: QUESTION }];
    const first = await client.responses.create({ ...asked(model), ...one, input });
    const { call_id } = expectCall(first.output);
    input.push(...back(first.output), { type: 'function_call_output', call_id, output: '22' });
    const second = await client.responses.create({
      ...{ ...asked(model), tools, tool_choice: 'none', input, max_output_tokens: 4 },
    });
    expect(second.output_text).toBeTypeOf('string');
    expect(second.output.map(({ type }) => type)).toEqual(['message']);
  });

  it('are called by name, or as the model likes', async () => {
    for (const name of Object.keys(FORMS)) {
      const { output } = await client.responses.create({
        ...{ ...asked(model), tools, tool_choice: { type: 'function', name } },
      });
      expect(expectCall(output).name).toBe(name);
    }
    const allowed = await client.responses.create({
      ...{ ...asked(model), tools, parallel_tool_calls: false },
      tool_choice: {
        ...{ type: 'allowed_tools', mode: 'required', tools: [{ type: 'function', name: 'add' }] },
      },
    });
    expect(expectCall(allowed.output).name).toBe('add');
    const free = await client.responses.create({ ...asked(model), tools, max_output_tokens: 20 });
    expect(free.output.length).toBeGreaterThan(0);
  });

  it('are called in a stream that the helper puts together', async () => {
    const stream = client.responses.stream({ ...asked(model), ...one });
    let text = '';
    stream.on('response.function_call_arguments.delta', ({ delta }) => {
      text += delta;
    });
    const call = expectCall((await stream.finalResponse()).output);
    expect(text).toBe(call.arguments);
    const whole = await client.responses.create({ ...asked(model), ...one });
    expect(expectCall(whole.output)).toMatchObject({ name: call.name, arguments: text });
  });

  it('are parsed by the helper, which declares them strict', async () => {
    const { output } = await client.responses.parse({
      ...{ ...asked(model), ...one },
      tools: [zodResponsesFunction({ name: 'colour', parameters: FORMS.colour })],
    });
    const call = expectCall(output) as { parsed_arguments?: unknown; arguments: string };
    expect(FORMS.colour.parse(call.parsed_arguments)).toEqual(JSON.parse(call.arguments));
    // What was parsed goes back with the item.
    const following = await client.responses.create({
      ...{
        model,
        input: [{ role: 'user', content: QUESTION }, ...back(output)],
        max_output_tokens: 4,
      },
    });
    expect(following.usage!.input_tokens).toBeGreaterThan(5);
  });
});

describe.each(MODELS)('answers of %s', (model) => {
  it('are of a schema, parsed by the helper, whole and in a stream', async () => {
    const body = { ...asked(model), text: { format: zodTextFormat(Sum, 'sum') } };
    const { output_parsed: parsed, output_text: text } = await client.responses.parse(body);
    expect(parsed).toEqual(Sum.parse(JSON.parse(text)));
    const streamed = await client.responses.stream(body).finalResponse();
    expect(streamed.output_parsed).toEqual(parsed);
  });

  it('are objects, for a mode that knows no schema', async () => {
    const { status, output_text: text } = await client.responses.create({
      ...{ ...asked(model), max_output_tokens: 3000, text: { format: { type: 'json_object' } } },
    });
    expect(status).toBe('completed');
    expect(JSON.parse(text)).toBeTypeOf('object');
  });
});

it('refuses by name what it does not honour', async () => {
  for (const [field, value] of Object.entries({
    ...{ store: true, background: true, conversation: 'conv_1', reasoning: { effort: 'high' } },
  })) {
    const error = await client.responses
      .create({ model: DEMO_NAME, input: QUESTION, [field]: value })
      .catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(BadRequestError);
    expect(error).toMatchObject({ code: 'unsupported_field', param: field });
  }
  const nobody = client.responses.stream({ model: 'nobody', input: QUESTION }).finalResponse();
  await expect(nobody).rejects.toBeInstanceOf(APIError);
});

it('frees what an aborted stream held', async () => {
  const stream = client.responses.stream({
    ...{ model: 'cubic', input: '1 @ 1 =', max_output_tokens: 4000 },
    ...more({ ignore_eos: true }),
  });
  const read = async () => {
    for await (const { type } of stream) if (type === 'response.output_text.delta') stream.abort();
  };
  await expect(read()).rejects.toBeInstanceOf(APIUserAbortError);
  await idle(demo.server);
});
