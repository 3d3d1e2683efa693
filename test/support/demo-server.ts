/** The demo model with all its adapters, served as `npm start` does, for other people's clients. */
import path from 'node:path';
import { afterAll, beforeAll, expect } from 'vitest';
import {
  answerOf,
  DEMO_ADAPTERS_DIR,
  DEMO_MODEL_DIR,
  type DemoTask,
  loadTasks,
  promptOf,
} from '../../examples/modular-arithmetic/tasks.ts';
import { startTestServer, type TestServer } from './server.ts';
import { until } from './until.ts';

export const DEMO_NAME = 'demo';

export interface Question {
  /** The base or the adapter that answers. */
  readonly model: string;
  readonly prompt: string;
  /** As the model writes it: a word with the space before it. */
  readonly answer: string;
}

export async function startDemoServer(args: readonly string[] = []): Promise<TestServer> {
  const { tasks } = await loadTasks();
  return startTestServer([
    ...['--model', DEMO_MODEL_DIR, '--served-model-name', DEMO_NAME],
    ...adaptersOf(tasks).flatMap((name) => [
      '--adapter',
      `${name}=${path.join(DEMO_ADAPTERS_DIR, name)}`,
    ]),
    ...args,
  ]);
}

/** The demo server of a test file: there once its `beforeAll` has run. */
export interface DemoServer {
  readonly server: TestServer;
  /** What clients of OpenAI's API are told. */
  readonly baseURL: string;
}

/**
 * Starts the demo server before the tests of this file and ends it after them, with exit code 0.
 * @param args asked for when the server starts
 */
export function useDemoServer(args: () => Promise<readonly string[]> = async () => []): DemoServer {
  let started: TestServer | undefined;
  beforeAll(async () => {
    started = await startDemoServer(await args());
  });
  afterAll(async () => {
    // What kept it from starting has failed the file already.
    if (started !== undefined) expect(await started.end()).toBe(0);
  });
  const server = () => {
    if (started === undefined) throw new Error('The demo server has not started yet.');
    return started;
  };
  return {
    get server() {
      return server();
    },
    get baseURL() {
      return `${server().url}/v1`;
    },
  };
}

export const adaptersOf = (tasks: readonly DemoTask[]): string[] =>
  tasks.flatMap(({ adapter }) => (adapter === null ? [] : [adapter]));

/** One question for the base and for each adapter, each another one. */
export async function demoQuestions(): Promise<Question[]> {
  const { modulus, tasks } = await loadTasks();
  return tasks.map((task, i) => {
    const [a, b] = [(7 + 5 * i) % modulus, (29 + 3 * i) % modulus];
    const answer = ` ${answerOf(task, a, b, modulus)}`;
    return { model: task.adapter ?? DEMO_NAME, prompt: promptOf(a, b), answer };
  });
}

/** Waits until nothing runs or waits and no adapter is held. */
export async function idle(server: TestServer): Promise<void> {
  const names = ['loramux_num_requests_running', 'loramux_num_requests_waiting'];
  const read = async () => Promise.all(names.map((name) => server.metric(name)));
  await until('the server is idle', read, (values) => values.every((value) => value === 0));
}
