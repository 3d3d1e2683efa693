/** LangChain for Node against the demo server: responses. */
import { AIMessage, HumanMessage, ToolMessage } from '@langchain/core/messages';
import { tool } from '@langchain/core/tools';
import { ChatOpenAI } from '@langchain/openai';
import { describe, expect, it } from 'vitest';
import { FORMS, MODELS, QUESTION, Sum } from '../support/client-forms.ts';
import { demoQuestions, useDemoServer } from '../support/demo-server.ts';

const demo = useDemoServer();

const chatOf = (model: string, options: object = {}) =>
  new ChatOpenAI({
    ...{ model, temperature: 1, maxTokens: 300, maxRetries: 0, apiKey: 'none' },
    ...{ useResponsesApi: true, modelKwargs: { seed: 3 } },
    configuration: { baseURL: demo.baseURL },
    ...options,
  });
const exactChatOf = (model: string) => chatOf(model, { temperature: 0, maxTokens: 2 });

it('answers, whole and in a stream', async () => {
  for (const { model, prompt, answer } of await demoQuestions()) {
    const message = await exactChatOf(model).invoke(prompt);
    expect(message.text, model).toBe(answer);
    expect(message.usage_metadata).toMatchObject({ input_tokens: 5, output_tokens: 2 });
    let text = '';
    for await (const chunk of await exactChatOf(model).stream(prompt)) text += chunk.text;
    expect(text, model).toBe(answer);
  }
});

it('goes on from what was said before', async () => {
  const chat = exactChatOf('subtract');
  const first = await chat.invoke(QUESTION);
  const turns = [new HumanMessage(QUESTION), first, new HumanMessage(QUESTION)];
  const second = await chat.invoke(turns);
  const made = await chat.invoke([turns[0]!, new AIMessage(' 12'), turns[2]!]);
  const [asked, ...longer] = [first, second, made].map(
    ({ usage_metadata: usage }) => (usage as unknown as { input_tokens: number }).input_tokens,
  );
  for (const count of longer) expect(count).toBeGreaterThan(asked! * 2);
});

const tools = Object.entries(FORMS).map(([name, schema]) =>
  tool(async () => '22', { name, description: `Does ${name}.`, schema }),
);

type Calls = { name: string; args: unknown; id?: string | undefined }[] | undefined;

function expectRight(calls: Calls) {
  expect(calls).toHaveLength(1);
  const [call] = calls!;
  FORMS[call!.name as keyof typeof FORMS].parse(call!.args);
  return call!;
}

describe.each(MODELS)('%s', (model) => {
  // In responses this client sends objects only: of "any" the server would hear nothing.
  const all = tools.map(({ name }) => ({ type: 'function', name }));
  const one = {
    tool_choice: { type: 'allowed_tools' as const, mode: 'required' as const, tools: all },
    parallel_tool_calls: false,
  };

  it('calls any tool, and reads what comes of it', async () => {
    const bound = chatOf(model).bindTools(tools, one);
    const message = await bound.invoke(QUESTION);
    const call = expectRight(message.tool_calls);
    const result = new ToolMessage({ content: '22', tool_call_id: call.id! });
    const following = await bound.invoke([new HumanMessage(QUESTION), message, result]);
    expectRight(following.tool_calls);
  });

  it('calls a tool by name, or as it likes', async () => {
    const named = await chatOf(model).bindTools(tools, { tool_choice: 'colour' }).invoke(QUESTION);
    expect(expectRight(named.tool_calls).name).toBe('colour');
    const free = await chatOf(model).bindTools(tools).invoke(QUESTION);
    expect(free.text).toBeTypeOf('string');
  });

  it('calls in a stream', async () => {
    const bound = chatOf(model).bindTools(tools, one);
    const stream = await bound.stream(QUESTION);
    let whole: Awaited<ReturnType<typeof stream.next>>['value'];
    for await (const chunk of stream) whole = whole === undefined ? chunk : whole.concat(chunk);
    const { args } = expectRight((await bound.invoke(QUESTION)).tool_calls);
    expect(expectRight(whole.tool_calls).args).toEqual(args);
  });

  it.each(['jsonSchema', 'functionCalling'] as const)('answers by %s', async (method) => {
    const options = { name: 'sum', method };
    const answer = await chatOf(model).withStructuredOutput(Sum, options).invoke(QUESTION);
    expect(Sum.parse(answer)).toEqual(answer);
  });
});
