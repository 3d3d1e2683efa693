/**
 * lm-evaluation-harness over HTTP: the scores of the base and of two adapters are those that it
 * measures with transformers and PEFT in one process (test/fixtures/lm-eval).
 */
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { DEMO_MODEL_DIR } from '../../examples/modular-arithmetic/tasks.ts';
import { DEMO_NAME, idle, useDemoServer } from '../support/demo-server.ts';
import { maxAbsDifference } from '../support/native-generate.ts';
import { runPython } from '../support/python-clients.ts';

interface Scores {
  readonly acc: number;
  readonly exactMatch: number;
  /** [question][choice] */
  readonly logLikelihoods: number[][];
  readonly texts: string[];
}

const FOLDER = 'test/fixtures/lm-eval';
/** The bound of the server's goldens too: sums of logits differ in their last bits. */
const LOG_LIKELIHOOD_ERROR_MAX = 1e-4;

let cache: string;

beforeAll(async () => {
  cache = await mkdtemp(path.join(tmpdir(), 'loramux-lm-eval-'));
});
afterAll(async () => {
  await rm(cache, { recursive: true, force: true });
});
const demo = useDemoServer();

it('scores as with PEFT in one process', async () => {
  const reference = JSON.parse(await readFile(`${FOLDER}/reference.json`, 'utf8')) as Record<
    string,
    Scores
  >;
  const { stdout } = await runPython(
    [
      'test/clients/python/lm_eval_scores.py',
      ...[demo.server.url, DEMO_MODEL_DIR, FOLDER],
      ...Object.keys(reference).map((name) => `${name}=${name === 'add' ? DEMO_NAME : name}`),
    ],
    { HF_HUB_OFFLINE: '1', HF_DATASETS_OFFLINE: '1', HF_HOME: cache },
  );
  const scores = JSON.parse(stdout.trim().split('\n').at(-1)!) as Record<string, Scores>;
  expect(Object.keys(scores)).toEqual(['add', 'subtract', 'cubic']);
  for (const [name, want] of Object.entries(reference)) {
    const got = scores[name]!;
    expect([got.acc, got.exactMatch], name).toEqual([want.acc, want.exactMatch]);
    expect(got.texts, name).toEqual(want.texts);
    const [left, right] = [got.logLikelihoods.flat(), want.logLikelihoods.flat()];
    expect(left.length).toBe(31 * 31);
    const error = maxAbsDifference(Float32Array.from(left), Float32Array.from(right));
    expect(error, name).toBeLessThan(LOG_LIKELIHOOD_ERROR_MAX);
  }
  await idle(demo.server);
});
