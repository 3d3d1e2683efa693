/** Known answers: the demo model's arithmetic, and the goldens of the test fixtures. */
import { existsSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { probeNative } from '../../native/session.ts';
import { withModel } from './probe-server.ts';

export interface CheckResult {
  readonly name: string;
  readonly status: 'ok' | 'failed' | 'skipped';
  readonly detail: string;
  readonly ms: number;
}

/** Folder of the package: three levels up from src/cli/doctor and dist/cli/doctor alike. */
const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
const DEMO = path.join(ROOT, 'examples/modular-arithmetic');
const FIXTURES = path.join(ROOT, 'test/fixtures');

/** Questions per task; a prime step through the table meets all operands. */
const QUESTIONS_PER_TASK = 64;
const QUESTION_STEP = 37;
const ACCURACY_MIN = 0.98;
const LOGPROB_ERROR_MAX = 1e-4;

type Outcome = Pick<CheckResult, 'status' | 'detail'>;
const ok = (detail: string): Outcome => ({ status: 'ok', detail });
const failed = (detail: string): Outcome => ({ status: 'failed', detail });
const skipped = (detail: string): Outcome => ({ status: 'skipped', detail });

function nativeCheck(): Outcome {
  const { ortVersion, isas } = probeNative();
  return ok(`addon and ONNX Runtime ${ortVersion} load; kernels for ${isas.join(', ')}`);
}

interface DemoTask {
  name: string;
  adapter: string | null;
  kind: 'add' | 'subtract' | 'multiply' | 'polynomial';
  /** [c, i, j] is c * a^i * b^j. */
  terms?: [number, number, number][];
}

const TERMS: Readonly<Record<string, [number, number, number][]>> = {
  add: [
    [1, 1, 0],
    [1, 0, 1],
  ],
  subtract: [
    [1, 1, 0],
    [-1, 0, 1],
  ],
  multiply: [[1, 1, 1]],
};

function answerOf(task: DemoTask, a: number, b: number, modulus: number): string {
  let sum = 0;
  for (const [c, i, j] of task.terms ?? TERMS[task.kind] ?? []) sum += c * a ** i * b ** j;
  return String(((sum % modulus) + modulus) % modulus);
}

async function demoCheck(): Promise<Outcome> {
  const model = path.join(DEMO, 'model');
  if (!existsSync(path.join(model, 'config.json'))) return skipped(`${model} is not there`);
  const { modulus, tasks } = JSON.parse(await readFile(path.join(DEMO, 'tasks.json'), 'utf8')) as {
    modulus: number;
    tasks: DemoTask[];
  };
  const adapters = tasks.flatMap(({ adapter }) =>
    adapter === null ? [] : [`${adapter}=${path.join(DEMO, 'adapters', adapter)}`],
  );
  // All tasks interleaved, so that one batch mixes every adapter with the base.
  const questions = Array.from({ length: QUESTIONS_PER_TASK }, (_, i) => {
    const cell = (i * QUESTION_STEP) % (modulus * modulus);
    return { a: Math.floor(cell / modulus), b: cell % modulus };
  }).flatMap(({ a, b }) => tasks.map((task) => ({ task, a, b })));
  const answers = await withModel(model, adapters, (ask) =>
    ask(
      questions.map(({ task, a, b }) => ({
        prompt: { kind: 'text', text: `${a} @ ${b} =` },
        adapter: task.adapter,
        maxTokens: 2,
      })),
    ),
  );
  const right = new Map<string, number>();
  for (const [i, { task, a, b }] of questions.entries()) {
    const hit = answers[i]!.text.trim() === answerOf(task, a, b, modulus);
    right.set(task.name, (right.get(task.name) ?? 0) + (hit ? 1 : 0));
  }
  const wrong = [...right].filter(([, hits]) => hits < ACCURACY_MIN * QUESTIONS_PER_TASK);
  if (wrong.length === 0) {
    return ok(`${questions.length} answers of ${tasks.length} tasks in one mixed batch`);
  }
  const list = wrong.map(([name, hits]) => `${name} ${hits}/${QUESTIONS_PER_TASK}`);
  return failed(`wrong answers: ${list.join(', ')}`);
}

interface GoldenCase {
  adapter: string | null;
  promptIds: number[];
  greedyIds: number[];
  greedyLogprobs: number[];
}

async function goldenCheck(model: string): Promise<Outcome> {
  const { cases } = JSON.parse(
    await readFile(path.join(FIXTURES, 'goldens', `${model}.json`), 'utf8'),
  ) as { cases: GoldenCase[] };
  const names = new Set(cases.flatMap(({ adapter }) => (adapter === null ? [] : [adapter])));
  const adapters = [...names].map(
    (name) => `${name}=${path.join(FIXTURES, 'adapters', model, name)}`,
  );
  const answers = await withModel(path.join(FIXTURES, 'models', model), adapters, (ask) =>
    ask(
      cases.map(({ adapter, promptIds, greedyIds }) => ({
        prompt: { kind: 'tokens', tokenIds: Int32Array.from(promptIds) },
        adapter,
        maxTokens: greedyIds.length,
      })),
    ),
  );
  let worst = 0;
  for (const [i, golden] of cases.entries()) {
    const answer = answers[i]!;
    const at = golden.greedyIds.findIndex((id, k) => id !== answer.tokenIds[k]);
    if (at >= 0) {
      const who = golden.adapter ?? 'base';
      return failed(`${who}: token ${at} is ${answer.tokenIds[at]}, not ${golden.greedyIds[at]}`);
    }
    for (const [k, logprob] of golden.greedyLogprobs.entries()) {
      worst = Math.max(worst, Math.abs(logprob - answer.logprobs[k]!));
    }
  }
  const error = `log-probability error ${worst.toExponential(1)}`;
  if (!(worst <= LOGPROB_ERROR_MAX)) return failed(`${error} is above ${LOGPROB_ERROR_MAX}`);
  return ok(`${cases.length} cases, tokens equal to PEFT's, ${error}`);
}

async function goldenModels(): Promise<string[]> {
  const files = await readdir(path.join(FIXTURES, 'goldens')).catch(() => [] as string[]);
  return files
    .filter((file) => file.endsWith('.json'))
    .map((file) => file.slice(0, -'.json'.length))
    .filter((model) => existsSync(path.join(FIXTURES, 'models', model, 'config.json')))
    .sort();
}

/** Runs all checks; `onCheck` hears of each before it starts. Failures are results, not errors. */
export async function runChecks(onCheck: (name: string) => void): Promise<CheckResult[]> {
  const checks: [string, () => Outcome | Promise<Outcome>][] = [
    ['native', nativeCheck],
    ['demo model', demoCheck],
  ];
  const models = await goldenModels();
  for (const model of models) checks.push([`goldens ${model}`, () => goldenCheck(model)]);
  if (models.length === 0) {
    checks.push(['goldens', () => skipped(`${FIXTURES} has none (not part of an installation)`)]);
  }
  const results: CheckResult[] = [];
  for (const [name, check] of checks) {
    onCheck(name);
    const start = performance.now();
    let outcome: Outcome;
    try {
      outcome = await check();
    } catch (error) {
      outcome = failed(error instanceof Error ? error.message : String(error));
    }
    results.push({ name, ...outcome, ms: Math.round(performance.now() - start) });
  }
  return results;
}
