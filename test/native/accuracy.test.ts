/** `loramux import --evaluate`, down to the kernels, on the demo and on a fixture model. */
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import {
  answerOf,
  DEMO_MODEL_DIR,
  loadTasks,
  promptOf,
} from '../../examples/modular-arithmetic/tasks.ts';
import {
  measureAccuracy,
  parseAccuracyFormats,
  readSequences,
  type TextSequence,
} from '../../src/importer/index.ts';
import { loadTokenizer } from '../../src/tokenizer/tokenizer.ts';
import { Random } from '../support/random.ts';

const QUESTIONS = path.join(DEMO_MODEL_DIR, '..', 'questions.jsonl');
const LLAMA3 = fileURLToPath(new URL('../fixtures/models/llama3', import.meta.url));

describe('accuracy of formats', () => {
  it('has every question of the demo on file', async () => {
    const { modulus, tasks } = await loadTasks();
    const base = tasks.find((task) => task.adapter === null)!;
    const lines = (await readFile(QUESTIONS, 'utf8')).trimEnd().split('\n');
    expect(lines.map((line) => JSON.parse(line))).toEqual(
      Array.from({ length: modulus ** 2 }, (_, i) => {
        const [a, b] = [Math.floor(i / modulus), i % modulus];
        return {
          prompt: promptOf(a, b),
          completion: ` ${answerOf(base, a, b, modulus)}</s>`,
        };
      }),
    );
  });

  it('measures the demo', async () => {
    const sequences = await readSequences(QUESTIONS, await loadTokenizer(DEMO_MODEL_DIR), {
      windowTokens: 64,
      maxPositions: 4096,
    });
    const done: string[] = [];
    const results = await measureAccuracy(DEMO_MODEL_DIR, {
      formats: parseAccuracyFormats('float32,kv-bf16,bf16,int8,int4'),
      sequences,
      onProgress: (at, total, label) => done.push(`${label} ${at}/${total}`),
    });
    const count = sequences.length;
    expect(done.at(-1)).toBe(`int4 ${5 * count}/${5 * count}`);
    const [same, kv, ...packed] = results;
    // An answer and an end for each question, right and sure in both.
    expect(same).toMatchObject({ positions: 2 * count, scored: 2 * count, topAgreement: 1 });
    expect([same!.klMean, same!.klMax]).toEqual([0, 0]);
    expect(same!.perplexity).toBe(same!.referencePerplexity);
    expect(kv!.klMax).toBeGreaterThan(0);
    expect(kv!.klMean).toBeLessThan(1e-4);
    expect(kv!.topAgreement).toBe(1);
    expect(kv!.perplexity).toBeLessThan(1.01);
    const bounds = { bf16: 1e-5, int8: 1e-4, int4: 5e-3 };
    expect(packed.map(({ name }) => name)).toEqual(Object.keys(bounds));
    for (const { name, klMean, topAgreement } of packed) {
      expect(klMean, name).toBeGreaterThan(0);
      expect(klMean, name).toBeLessThan(bounds[name as keyof typeof bounds]);
      expect(topAgreement, name).toBeGreaterThanOrEqual(0.99);
    }
  });

  it('takes sequences longer than a step, with context that is not compared', async () => {
    const random = new Random(5);
    const tokenIds = Int32Array.from({ length: 500 }, () => Math.floor(random.next() * 256));
    const whole: TextSequence = { tokenIds, compareFrom: 0, nextId: 7 };
    const tail: TextSequence = { tokenIds, compareFrom: 490, nextId: -1 };
    const formats = parseAccuracyFormats('kv-bf16');
    const measure = async (sequence: TextSequence) =>
      (await measureAccuracy(LLAMA3, { formats, sequences: [sequence] }))[0]!;
    const all = await measure(whole);
    expect(all).toMatchObject({ positions: 500, scored: 500 });
    expect(all.klMean).toBeGreaterThan(0);
    expect(all.klMax).toBeLessThan(1e-2);
    expect(await measure(tail)).toMatchObject({ positions: 10, scored: 9 });
  });

  it('refuses what the model cannot take', async () => {
    const formats = parseAccuracyFormats('kv-bf16');
    const sequence = (tokenIds: Int32Array) => [{ tokenIds, compareFrom: 0, nextId: -1 }];
    await expect(
      measureAccuracy(DEMO_MODEL_DIR, { formats, sequences: sequence(new Int32Array(4097)) }),
    ).rejects.toMatchObject({ code: 'config_invalid' });
    await expect(
      measureAccuracy(DEMO_MODEL_DIR, { formats, sequences: sequence(Int32Array.of(296)) }),
    ).rejects.toMatchObject({ code: 'tokenizer_invalid' });
    expect(() => parseAccuracyFormats('kv-f64')).toThrow(/kv-f64.*kv-bf16/);
  });
});
