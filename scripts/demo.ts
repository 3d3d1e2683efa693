/**
 * `npm run demo`: asks the real server, over HTTP and with many requests in flight, every question
 * of every adapter's task and of the base's, interleaved, and counts the right answers. Exits 0
 * only if every adapter (and the base) is right. `--json` ends with one JSON object.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { Pool } from 'undici';
import {
  answerOf,
  DEMO_ADAPTERS_DIR,
  DEMO_MODEL_DIR,
  type DemoTask,
  loadTasks,
  promptOf,
} from '../examples/modular-arithmetic/tasks.ts';
import { readMetric } from './metrics.ts';
import { buildNative, startServer } from './process.ts';

/** Share of right answers that counts as right; the adapters were trained to at least this. */
const ACCURACY_MIN = 0.99;
/** As shells report SIGINT. */
const INTERRUPTED_EXIT_CODE = 130;
/** Requests in flight. */
const CONCURRENCY = 64;

interface Question {
  readonly task: DemoTask;
  readonly prompt: string;
  readonly answer: string;
}

interface Score {
  right: number;
  asked: number;
}

/** All questions, task by task in turn, so that neighbours in time name different adapters. */
function interleavedQuestions(tasks: readonly DemoTask[], modulus: number): Question[] {
  const questions: Question[] = [];
  for (let a = 0; a < modulus; a++) {
    for (let b = 0; b < modulus; b++) {
      for (const task of tasks) {
        const prompt = promptOf(a, b);
        questions.push({ task, prompt, answer: String(answerOf(task, a, b, modulus)) });
      }
    }
  }
  return questions;
}

async function ask(pool: Pool, baseName: string, question: Question): Promise<[string, number]> {
  const response = await pool.request({
    path: '/v1/completions',
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({
      model: question.task.adapter ?? baseName,
      prompt: question.prompt,
      max_tokens: 2,
      temperature: 0,
    }),
  });
  const body = (await response.body.json()) as {
    choices?: { text: string }[];
    usage?: { completion_tokens: number };
    error?: { code: string; message: string };
  };
  if (response.statusCode !== 200) {
    throw new Error(`HTTP ${response.statusCode}: ${body.error?.code} ${body.error?.message}`);
  }
  return [body.choices?.[0]?.text.trim() ?? '', body.usage?.completion_tokens ?? 0];
}

async function askAll(url: string, baseName: string, questions: readonly Question[]) {
  const scores = new Map<string, Score>();
  for (const { task } of questions) scores.set(task.name, { right: 0, asked: 0 });
  const pool = new Pool(url, { connections: CONCURRENCY });
  let next = 0;
  let tokens = 0;
  const started = performance.now();
  const worker = async () => {
    for (let question = questions[next++]; question !== undefined; question = questions[next++]) {
      const [text, generated] = await ask(pool, baseName, question);
      const score = scores.get(question.task.name)!;
      score.asked += 1;
      if (text === question.answer) score.right += 1;
      tokens += generated;
    }
  };
  await Promise.all(Array.from({ length: CONCURRENCY }, worker));
  const seconds = (performance.now() - started) / 1000;
  await pool.close();
  return { scores, tokensPerSecond: tokens / seconds, seconds };
}

const { values } = parseArgs({
  options: { json: { type: 'boolean', default: false } },
  strict: true,
});
await buildNative();
const { modulus, tasks } = await loadTasks();
const dataDir = await mkdtemp(path.join(tmpdir(), 'loramux-demo-'));
const adapters = tasks.flatMap((task) => (task.adapter === null ? [] : [task.adapter]));
const server = await startServer(
  [
    '--model',
    DEMO_MODEL_DIR,
    '--port',
    '0',
    '--data-dir',
    dataDir,
    ...adapters.flatMap((name) => ['--adapter', `${name}=${path.join(DEMO_ADAPTERS_DIR, name)}`]),
  ],
  {
    onSpawn: (child) => {
      for (const signal of ['SIGINT', 'SIGTERM'] as const) {
        process.once(signal, () => {
          child.kill(signal);
          process.exit(INTERRUPTED_EXIT_CODE);
        });
      }
    },
  },
);

let failed = true;
try {
  const models = (await (await fetch(`${server.url}/v1/models`)).json()) as {
    data: { id: string; parent: string | null }[];
  };
  const baseName = models.data.find((model) => model.parent === null)!.id;
  const questions = interleavedQuestions(tasks, modulus);
  console.error(
    `asking ${questions.length} questions of ${tasks.length} tasks, ${CONCURRENCY} in flight ...`,
  );
  const result = await askAll(server.url, baseName, questions);
  const metrics = await (await fetch(`${server.url}/metrics`)).text();
  const steps = readMetric(metrics, 'loramux_engine_steps_total');
  const meanBatchSize = readMetric(metrics, 'loramux_engine_step_sequences_total') / steps;
  const meanAdapters = readMetric(metrics, 'loramux_engine_step_adapters_total') / steps;
  const maxAdaptersInOneStep = readMetric(metrics, 'loramux_engine_step_adapters_max');

  const rows = tasks.map((task) => {
    const { right, asked } = result.scores.get(task.name)!;
    return { task, right, asked, accuracy: right / asked };
  });
  failed = rows.some((row) => row.accuracy < ACCURACY_MIN);
  const line = (cells: readonly string[]) =>
    `${cells[0]!.padEnd(20)}${cells[1]!.padEnd(20)}${cells[2]!.padStart(10)}${cells[3]!.padStart(14)}`;
  console.log(line(['task', 'adapter', 'accuracy', 'right/asked']));
  for (const { task, right, asked, accuracy } of rows) {
    const cells = [task.name, task.adapter ?? '(base)', accuracy.toFixed(4), `${right}/${asked}`];
    console.log(line(cells));
  }
  console.log(
    `${result.tokensPerSecond.toFixed(0)} tokens/s, mean batch ${meanBatchSize.toFixed(1)} ` +
      `sequences, ${meanAdapters.toFixed(1)} adapters per batch (at most ` +
      `${maxAdaptersInOneStep}), ${result.seconds.toFixed(1)} s`,
  );
  console.log(failed ? 'FAILED: a task is below 0.99' : 'every adapter is right');
  if (values.json) {
    console.log(
      JSON.stringify({
        adapters: rows
          .filter((row) => row.task.adapter !== null)
          .map((row) => ({ name: row.task.adapter, accuracy: row.accuracy })),
        baseAccuracy: rows.find((row) => row.task.adapter === null)?.accuracy ?? null,
        tokensPerSecond: result.tokensPerSecond,
        meanBatchSize,
        meanAdaptersPerBatch: meanAdapters,
        maxAdaptersInOneStep,
      }),
    );
  }
} finally {
  await server.stop();
  await rm(dataDir, { recursive: true, force: true });
}
process.exitCode = failed ? 1 : 0;
