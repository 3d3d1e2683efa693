/** LangChain for Node against the demo server: tools and answers of a form, in chat and in responses. */
import { HumanMessage, ToolMessage } from '@langchain/core/messages';
import { tool } from '@langchain/core/tools';
import { ChatOpenAI } from '@langchain/openai';
import { describe, expect, it } from 'vitest';
import { expectOfForm, FORMS, IN_EACH_API, QUESTION, Sum } from '../support/client-forms.ts';
import { useDemoServer } from '../support/demo-server.ts';

const demo = useDemoServer();

const tools = Object.entries(FORMS).map(([name, schema]) =>
  tool(async () => '22', { name, description: `Does ${name}.`, schema }),
);

const APIS = {
  chat: { options: {}, any: 'any' },
  responses: {
    options: { useResponsesApi: true },
    // Here this client sends objects only: of "any" the server would hear nothing.
    any: {
      ...{ type: 'allowed_tools' as const, mode: 'required' as const },
      tools: tools.map(({ name }) => ({ type: 'function', name })),
    },
  },
};

type Calls = { name: string; args: unknown; id?: string | undefined }[] | undefined;

function expectRight(calls: Calls) {
  expect(calls).toHaveLength(1);
  const [call] = calls!;
  expectOfForm(call!.name, call!.args);
  return call!;
}

describe.each(IN_EACH_API)('%s of %s', (api, model) => {
  const { options, any } = APIS[api];
  const one = { tool_choice: any, parallel_tool_calls: false };
  const chatOf = () =>
    new ChatOpenAI({
      ...{ model, temperature: 1, maxTokens: 300, maxRetries: 0, apiKey: 'none' },
      ...{ modelKwargs: { seed: 3 }, ...options },
      configuration: { baseURL: demo.baseURL },
    });

  it('calls any tool, and reads what comes of it', async () => {
    const bound = chatOf().bindTools(tools, one);
    const message = await bound.invoke(QUESTION);
    const call = expectRight(message.tool_calls);
    const result = new ToolMessage({ content: '22', tool_call_id: call.id! });
    const following = await bound.invoke([new HumanMessage(QUESTION), message, result]);
    expectRight(following.tool_calls);
    const counts = [message, following].map(
      ({ usage_metadata: usage }) => (usage as unknown as { input_tokens: number }).input_tokens,
    );
    expect(counts[1]).toBeGreaterThan(counts[0]!);
  });

  it('calls a tool by name, or as it likes', async () => {
    const named = await chatOf().bindTools(tools, { tool_choice: 'colour' }).invoke(QUESTION);
    expect(expectRight(named.tool_calls).name).toBe('colour');
    const free = await chatOf().bindTools(tools).invoke(QUESTION);
    expect(free.text).toBeTypeOf('string');
    expect(typeof free.content).toBe(api === 'chat' ? 'string' : 'object');
  });

  it('calls in a stream', async () => {
    const bound = chatOf().bindTools(tools, one);
    const stream = await bound.stream(QUESTION);
    let whole: Awaited<ReturnType<typeof stream.next>>['value'];
    for await (const chunk of stream) whole = whole === undefined ? chunk : whole.concat(chunk);
    const { args } = expectRight((await bound.invoke(QUESTION)).tool_calls);
    expect(expectRight(whole.tool_calls).args).toEqual(args);
  });

  it.each(['jsonSchema', 'functionCalling'] as const)('answers by %s', async (method) => {
    for (const strict of [undefined, true]) {
      const form = { name: 'sum', method, ...(strict === undefined ? {} : { strict }) };
      const answer = await chatOf().withStructuredOutput(Sum, form).invoke(QUESTION);
      expect(Sum.parse(answer)).toEqual(answer);
    }
  });
});
