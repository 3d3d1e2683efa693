/** The tasks of the demo model: what is asked and what the right answer is. */
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const FOLDER = fileURLToPath(new URL('.', import.meta.url));

export const DEMO_MODEL_DIR = path.join(FOLDER, 'model');
export const DEMO_ADAPTERS_DIR = path.join(FOLDER, 'adapters');

export interface DemoTask {
  readonly name: string;
  /** Adapter that was trained for it; null is the base model's own task. */
  readonly adapter: string | null;
  readonly formula: string;
  /** `polynomial` is the sum of c * a^i * b^j over `terms` [c, i, j]. */
  readonly kind: 'add' | 'subtract' | 'multiply' | 'polynomial';
  readonly terms?: readonly (readonly [number, number, number])[];
}

/** tasks.json, written by train.py beside the model. */
export async function loadTasks(): Promise<{ modulus: number; tasks: DemoTask[] }> {
  return JSON.parse(await readFile(path.join(FOLDER, 'tasks.json'), 'utf8'));
}

/** The operation is not named in the prompt: only the adapter says which task is meant. */
export function promptOf(a: number, b: number): string {
  return `${a} @ ${b} =`;
}

function power(base: number, exponent: number, modulus: number): number {
  let result = 1;
  for (let i = 0; i < exponent; i++) result = (result * base) % modulus;
  return result;
}

/** The right answer, 0 to modulus - 1. */
export function answerOf(task: DemoTask, a: number, b: number, modulus: number): number {
  const mod = (value: number) => ((value % modulus) + modulus) % modulus;
  switch (task.kind) {
    case 'add':
      return mod(a + b);
    case 'subtract':
      return mod(a - b);
    case 'multiply':
      return mod(a * b);
    case 'polynomial':
      return mod(
        (task.terms ?? []).reduce(
          (sum, [c, i, j]) => sum + c * power(a, i, modulus) * power(b, j, modulus),
          0,
        ),
      );
  }
}
