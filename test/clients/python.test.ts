/** OpenAI's and LangChain's clients for Python against the demo server: test/clients/python. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { demoQuestions, idle, startDemoServer } from '../support/demo-server.ts';
import { runPython } from '../support/python-clients.ts';
import type { TestServer } from '../support/server.ts';

let server: TestServer;

beforeAll(async () => {
  server = await startDemoServer();
});
afterAll(async () => {
  expect(await server?.end()).toBe(0);
});

const FILES = [
  ...['openai', 'langchain', 'openai_tools', 'langchain_tools'],
  ...['openai_responses', 'langchain_responses'],
];

it.each(FILES.map((name) => `test_${name}.py`))('%s', async (file) => {
  const { stdout } = await runPython(
    ['-m', 'pytest', '-q', '-p', 'no:cacheprovider', `test/clients/python/${file}`],
    { LORAMUX_URL: server.url, LORAMUX_QUESTIONS: JSON.stringify(await demoQuestions()) },
  );
  expect(stdout).toMatch(/\b[1-9]\d* passed in /);
  expect(stdout).not.toMatch(/skipped|failed/);
  await idle(server);
});
