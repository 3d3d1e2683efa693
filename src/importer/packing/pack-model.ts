/** A checkpoint -> a self-contained directory with packed linear layers. */
import { copyFile, mkdir, open, readdir, rename, rm, stat } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { join, resolve } from 'node:path';
import { LoramuxError } from '../../errors.ts';
import { lockFolder } from '../../folder-lock.ts';
import type { PackedFormat } from '../../native/addon-types.ts';
import { WEIGHTS_FILE } from '../checkpoint.ts';
import { CONFIG_FILE, GENERATION_CONFIG_FILE, type OpenedModel, openModel } from '../import.ts';
import type { JsonObject } from '../json.ts';
import { exists, readJsonFile } from '../json-file.ts';
import { PACKING_KEY, packedDirectoryJson, packingLabel } from '../quantization-config.ts';
import { SafetensorsWriter } from '../safetensors/writer.ts';
import type { Packing, ProgressCallback } from '../types.ts';
import { hasQuantizedLmHead } from '../weights.ts';
import { BLOB_ALIGNMENT, choosePacking, headSpec, type PackingOptions } from './format.ts';
import { type JobContext, planJobs } from './jobs.ts';
import { packingOfLevels } from './levels.ts';
import { CheckpointSource } from './source.ts';

/** Everything a tokenizer may need, copied when present. */
const TOKENIZER_FILES = [
  'tokenizer.json',
  'tokenizer_config.json',
  'special_tokens_map.json',
  'added_tokens.json',
  'tokenizer.model',
  'vocab.json',
  'merges.txt',
  'chat_template.jinja',
  'chat_template.json',
];
const MAX_THREADS = 64;

export interface PackModelOptions extends PackingOptions {
  /** Required, but for GPTQ and AWQ checkpoints, whose levels decide. */
  format?: PackedFormat | undefined;
  /** Threads that pack; default: the cores this process may use. */
  threads?: number;
  onProgress?: ProgressCallback;
}

export interface PackModelResult {
  dir: string;
  /** False when the directory already held exactly this packing of this source. */
  written: boolean;
  sourceBytes: number;
  weightBytes: number;
  packing: Packing;
  sourceDigest: string;
  /** Levels of -128 in a GPTQ checkpoint of 8 bits that became -127. */
  clampedLevels: number;
}

/**
 * Writes config.json with a quantization_config, the tokenizer's files and model.safetensors.
 * Embeddings, norms and biases are copied as they are. config.json is written last: a directory
 * that has one is complete. In memory are at most two blobs and a few pieces of 8 MiB (source.ts);
 * of GPTQ and AWQ checkpoints a layer's tensors besides. Equal sources give equal files.
 * @param outDir created; must be empty, or hold the same packing of the same source.
 * @throws LoramuxError config_invalid (options; `outDir` cannot be written or another process writes
 *   it), model_quantization_unsupported, and as importModel
 */
export async function packModel(
  dir: string,
  outDir: string,
  options: PackModelOptions,
): Promise<PackModelResult> {
  const model = await openModel(dir);
  const packing = planPacking(dir, model, options);
  const target = resolve(outDir);
  await toTarget(target, mkdir(target, { recursive: true }));
  const unlock = await lockFolder(target);
  try {
    const source = await CheckpointSource.open(model);
    try {
      return await packInto(target, source, packing, options);
    } finally {
      await source.close();
    }
  } finally {
    await unlock();
  }
}

async function packInto(
  target: string,
  source: CheckpointSource,
  packing: Packing,
  options: PackModelOptions,
): Promise<PackModelResult> {
  const { model } = source;
  const result = { dir: target, sourceBytes: model.checkpoint.weightBytes, packing };
  const found = await readJsonFile(join(target, CONFIG_FILE), 'model_config_unsupported');
  if (found !== undefined) {
    const sourceDigest = await digestWithProgress(source, options.onProgress);
    const expected = packedConfig(model, packing, sourceDigest);
    if (JSON.stringify(found.json) !== JSON.stringify(expected)) {
      throw new LoramuxError(
        'config_invalid',
        `${target} holds another model; give a new directory.`,
      );
    }
    const { weightBytes } = (await openModel(target)).checkpoint;
    return { ...result, written: false, weightBytes, sourceDigest, clampedLevels: 0 };
  }
  await toTarget(target, removeLeftovers(target));
  for (const name of [...TOKENIZER_FILES, GENERATION_CONFIG_FILE]) {
    const from = join(model.checkpoint.dir, name);
    if (await exists(from)) await toTarget(target, copyFile(from, join(target, name)));
  }
  const context: JobContext = {
    source,
    threads: options.threads ?? Math.min(MAX_THREADS, availableParallelism()),
    clamped: 0,
  };
  const weightBytes = await writeWeights(target, context, packing, options.onProgress);
  const sourceDigest = await source.digest();
  await toTarget(target, writeConfig(target, packedConfig(model, packing, sourceDigest)));
  return {
    ...result,
    written: true,
    weightBytes,
    sourceDigest,
    clampedLevels: context.clamped,
  };
}

/** What the system says of work on the target (a full disk, no permission) with a code of ours. */
async function toTarget<T>(target: string, work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (cause) {
    if (cause instanceof LoramuxError || !(cause instanceof Error) || !('syscall' in cause)) {
      throw cause;
    }
    throw new LoramuxError('config_invalid', `${target} cannot be written: ${cause.message}`, {
      cause,
    });
  }
}

function planPacking(dir: string, model: OpenedModel, options: PackModelOptions): Packing {
  const { quantization } = model.config;
  const { format, lmHead } = options;
  if (quantization === undefined) {
    if (format !== undefined) return choosePacking(format, options);
    throw new LoramuxError(
      'config_invalid',
      `${dir} is not quantized; name the format to pack to.`,
    );
  }
  if (quantization.method === 'loramux') {
    throw new LoramuxError('config_invalid', `${dir} is packed already; give its source.`);
  }
  const linears = packingOfLevels(model.config, quantization);
  const asked = { format, groupSize: options.groupSize, zeroPoints: options.zeroPoints };
  for (const [key, value] of Object.entries(asked)) {
    const kept = linears[key as keyof typeof asked];
    if (value !== undefined && value !== kept) {
      throw new LoramuxError(
        'config_invalid',
        `${dir} is quantized; its levels are kept (${linears.format}, group size ` +
          `${linears.groupSize}, zero points ${linears.zeroPoints}), so ${key} cannot be ${value}.`,
      );
    }
  }
  if (!hasQuantizedLmHead(model.checkpoint.tensors)) {
    return { linears, lmHead: headSpec(linears, lmHead) };
  }
  if (lmHead !== undefined && headSpec(linears, lmHead) !== linears) {
    throw new LoramuxError('config_invalid', `${dir} has a quantized lm_head; it is kept.`);
  }
  return { linears, lmHead: linears };
}

/** config.json of the packed directory. */
function packedConfig(model: OpenedModel, packing: Packing, sourceDigest: string): JsonObject {
  return {
    ...model.configJson,
    quantization_config: { ...packedDirectoryJson(packing), source_digest: sourceDigest },
  };
}

async function digestWithProgress(
  source: CheckpointSource,
  onProgress?: ProgressCallback,
): Promise<string> {
  const names = [...source.model.checkpoint.tensors.keys()];
  const total = names.reduce((sum, name) => sum + source.bytes(name), 0);
  let done = 0;
  return source.digest((_, bytes) => {
    done += bytes;
    onProgress?.(done, total, 'checking the source');
  });
}

/**
 * Removes weights that a killed run did not finish. What else an interrupted run may have left is
 * written again.
 * @throws LoramuxError config_invalid when there are files of others
 */
async function removeLeftovers(target: string): Promise<void> {
  const names = await readdir(target);
  const ours = (name: string): boolean =>
    TOKENIZER_FILES.includes(name) ||
    [GENERATION_CONFIG_FILE, `${CONFIG_FILE}.partial`].includes(name) ||
    name.startsWith(WEIGHTS_FILE);
  if (!names.every(ours)) {
    throw new LoramuxError('config_invalid', `${target} holds other files; give a new directory.`);
  }
  for (const name of names) await rm(join(target, name));
}

async function writeConfig(target: string, json: JsonObject): Promise<void> {
  const path = join(target, CONFIG_FILE);
  const file = await open(`${path}.partial`, 'w');
  try {
    await file.writeFile(`${JSON.stringify(json, null, 2)}\n`);
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(`${path}.partial`, path);
}

/** Each piece is written while the next is made. */
async function writeWeights(
  target: string,
  context: JobContext,
  packing: Packing,
  onProgress?: ProgressCallback,
): Promise<number> {
  const jobs = planJobs(context.source, packing);
  const total = jobs.reduce((sum, job) => sum + job.sourceBytes, 0);
  const path = join(target, WEIGHTS_FILE);
  const specs = jobs.map(({ spec }) => spec);
  const metadata = { format: 'pt', [PACKING_KEY]: packingLabel(packing) };
  const writer = await toTarget(
    target,
    SafetensorsWriter.create(path, specs, metadata, BLOB_ALIGNMENT),
  );
  let writing = Promise.resolve();
  try {
    let done = 0;
    for (const job of jobs) {
      for await (const piece of job.run(context)) {
        await writing;
        writing = toTarget(target, writer.write(piece));
        // Awaited before the next piece; should making that fail first, that is the error.
        writing.catch(() => {});
      }
      done += job.sourceBytes;
      onProgress?.(done, total, job.label);
    }
    await writing;
    await toTarget(target, writer.close());
  } catch (error) {
    await writing.catch(() => {});
    await writer.abort();
    throw error;
  }
  return (await stat(path)).size;
}
