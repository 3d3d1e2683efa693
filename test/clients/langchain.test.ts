/** LangChain for Node against the demo server. */
import { HumanMessage, SystemMessage } from '@langchain/core/messages';
import { ChatOpenAI, OpenAI } from '@langchain/openai';
import { expect, it } from 'vitest';
import { DEMO_NAME, demoQuestions, useDemoServer } from '../support/demo-server.ts';

const demo = useDemoServer();

const options = (model: string) => ({
  ...{ model, temperature: 0, maxTokens: 2, maxRetries: 0, apiKey: 'none' },
  configuration: { baseURL: demo.baseURL },
});

it('invokes chats and completions', async () => {
  for (const { model, prompt, answer } of await demoQuestions()) {
    const message = await new ChatOpenAI(options(model)).invoke([new HumanMessage(prompt)]);
    expect(message.content, model).toBe(answer);
    expect(message.response_metadata).toMatchObject({ finish_reason: 'stop' });
    expect(message.usage_metadata).toMatchObject({ input_tokens: 5, output_tokens: 2 });
    expect(await new OpenAI(options(model)).invoke(prompt), model).toBe(answer);
  }
});

it('streams', async () => {
  for (const { model, prompt, answer } of await demoQuestions()) {
    let text = '';
    for await (const chunk of await new ChatOpenAI(options(model)).stream(prompt)) {
      text += chunk.content;
    }
    expect(text, model).toBe(answer);
  }
});

it('asks in batches, with a system message', async () => {
  const chat = new ChatOpenAI(options(DEMO_NAME));
  const messages = [new SystemMessage('Calculate.'), new HumanMessage('1 @ 1 =')];
  const answers = await chat.batch([messages, messages]);
  expect(answers.map(({ content }) => typeof content)).toEqual(['string', 'string']);
});

it('passes errors on', async () => {
  const chat = new ChatOpenAI(options('nobody'));
  await expect(chat.invoke('1 @ 1 =')).rejects.toMatchObject({ status: 404 });
});
