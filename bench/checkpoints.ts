/** Synthetic checkpoints and adapters, written once and kept in a cache folder between runs. */
import { existsSync } from 'node:fs';
import { mkdir, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import {
  SYNTH_SHAPES,
  type SynthAdapter,
  synthesizeAdapters,
  synthesizeModel,
} from '../src/importer/index.ts';
import type { LoraModule } from '../src/native/addon-types.ts';
import { UsageError } from './scenario.ts';

/** Where scenarios keep what is slow to make, unless --dir says otherwise. */
export const CACHE_DIR = path.join(tmpdir(), 'loramux-bench');
/** The modules that adapters change unless a scenario says otherwise. */
export const TARGETS: readonly LoraModule[] = ['q_proj', 'k_proj', 'v_proj', 'o_proj'];

/** Makes `dir` with `make(work)` unless it is there; a broken run leaves nothing behind. */
export async function cached(dir: string, make: (work: string) => Promise<void>): Promise<string> {
  if (existsSync(dir)) return dir;
  const work = `${dir}.${process.pid}`;
  await rm(work, { recursive: true, force: true });
  await mkdir(path.dirname(dir), { recursive: true });
  try {
    await make(work);
    await rename(work, dir);
  } catch (error) {
    await rm(work, { recursive: true, force: true });
    throw error;
  }
  return dir;
}

/**
 * The folder of a model: a shape of `loramux synth` with random bfloat16 weights, written now or
 * before, or a Hugging Face folder as it is.
 */
export async function prepareModel(model: string, dir: string): Promise<string> {
  if (!Object.hasOwn(SYNTH_SHAPES, model)) {
    if (!existsSync(path.join(model, 'config.json'))) {
      const shapes = Object.keys(SYNTH_SHAPES).join(', ');
      throw new UsageError(
        `--model ${model} is neither a folder with a config.json nor of ${shapes}`,
      );
    }
    return path.resolve(model);
  }
  return cached(path.join(dir, `${model}-bf16`), async (work) => {
    console.error(`writing ${model} with random weights ...`);
    await synthesizeModel(model, work, { dtype: 'BF16' });
  });
}

export interface AdapterSet {
  readonly count: number;
  /** Adapter i takes the i-th, cyclically. */
  readonly ranks: readonly number[];
  readonly targets?: readonly LoraModule[];
}

/** Adapters for a model, in bfloat16, named after their ranks. */
export async function prepareAdapters(
  modelDir: string,
  dir: string,
  { count, ranks, targets = TARGETS }: AdapterSet,
): Promise<readonly SynthAdapter[]> {
  const modules = targets.map((target) => target.slice(0, -'_proj'.length)).join('-');
  const prefix = `r${ranks.join('-')}-`;
  const name = `${path.basename(modelDir)}-${modules}-${prefix}${count}`;
  const list = 'adapters.json';
  const folder = await cached(path.join(dir, 'adapters', name), async (work) => {
    const made = await synthesizeAdapters(modelDir, work, {
      count,
      ranks,
      targets,
      prefix,
      dtype: 'BF16',
    });
    await writeFile(
      path.join(work, list),
      JSON.stringify(made.map(({ name: adapter, rank }) => ({ name: adapter, rank }))),
    );
  });
  const made = (await import(path.join(folder, list), { with: { type: 'json' } })) as {
    default: { name: string; rank: number }[];
  };
  return made.default.map((adapter) => ({ ...adapter, dir: path.join(folder, adapter.name) }));
}
