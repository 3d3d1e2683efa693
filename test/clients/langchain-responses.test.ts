/** LangChain for Node against the demo server: responses. */
import { AIMessage, HumanMessage } from '@langchain/core/messages';
import { ChatOpenAI } from '@langchain/openai';
import { expect, it } from 'vitest';
import { QUESTION } from '../support/client-forms.ts';
import { demoQuestions, useDemoServer } from '../support/demo-server.ts';

const demo = useDemoServer();

const chatOf = (model: string) =>
  new ChatOpenAI({
    ...{ model, temperature: 0, maxTokens: 2, maxRetries: 0, apiKey: 'none' },
    useResponsesApi: true,
    configuration: { baseURL: demo.baseURL },
  });

it('answers, whole and in a stream', async () => {
  for (const { model, prompt, answer } of await demoQuestions()) {
    const message = await chatOf(model).invoke(prompt);
    expect(message.text, model).toBe(answer);
    expect(message.usage_metadata).toMatchObject({ input_tokens: 5, output_tokens: 2 });
    let text = '';
    for await (const chunk of await chatOf(model).stream(prompt)) text += chunk.text;
    expect(text, model).toBe(answer);
  }
});

it('goes on from what was said before', async () => {
  const chat = chatOf('subtract');
  const first = await chat.invoke(QUESTION);
  const turns = [new HumanMessage(QUESTION), first, new HumanMessage(QUESTION)];
  const second = await chat.invoke(turns);
  const made = await chat.invoke([turns[0]!, new AIMessage(' 12'), turns[2]!]);
  const [asked, ...longer] = [first, second, made].map(
    ({ usage_metadata: usage }) => (usage as unknown as { input_tokens: number }).input_tokens,
  );
  for (const count of longer) expect(count).toBeGreaterThan(asked! * 2);
});
