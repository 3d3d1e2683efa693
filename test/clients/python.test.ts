/** OpenAI's and LangChain's clients for Python against the demo server: test/clients/python. */
import { expect, it } from 'vitest';
import { demoQuestions, idle, useDemoServer } from '../support/demo-server.ts';
import { runPython } from '../support/python-clients.ts';

const demo = useDemoServer();

const FILES = [
  ...['openai', 'langchain', 'openai_tools', 'langchain_tools'],
  ...['openai_responses', 'langchain_responses'],
];

it.each(FILES.map((name) => `test_${name}.py`))('%s', async (file) => {
  const { stdout } = await runPython(
    ['-m', 'pytest', '-q', '-p', 'no:cacheprovider', `test/clients/python/${file}`],
    { LORAMUX_URL: demo.server.url, LORAMUX_QUESTIONS: JSON.stringify(await demoQuestions()) },
  );
  expect(stdout).toMatch(/\b[1-9]\d* passed in /);
  expect(stdout).not.toMatch(/skipped|failed/);
  await idle(demo.server);
});
