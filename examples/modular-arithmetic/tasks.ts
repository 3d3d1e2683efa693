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
  readonly kind: string;
}

export async function loadTasks(): Promise<{ modulus: number; tasks: DemoTask[] }> {
  return JSON.parse(await readFile(path.join(FOLDER, 'tasks.json'), 'utf8'));
}

/** The operation is not named in the prompt: only the adapter says which task is meant. */
export function promptOf(a: number, b: number): string {
  return `${a} @ ${b} =`;
}
