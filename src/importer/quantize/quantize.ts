/** A checkpoint -> a self-contained directory with block-quantized linear layers. */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import {
  copyFile,
  type FileHandle,
  mkdir,
  open,
  readdir,
  rename,
  rm,
  stat,
  writeFile,
} from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { LoramuxError } from '../../errors.ts';
import { type CheckpointTensor, WEIGHTS_FILE } from '../checkpoint.ts';
import { CONFIG_FILE, GENERATION_CONFIG_FILE, type OpenedModel, openModel } from '../import.ts';
import { exists, readJsonFile } from '../json-file.ts';
import { GROUP_SIZES, quantizationConfigJson } from '../quantization-config.ts';
import { SafetensorsWriter } from '../safetensors/writer.ts';
import type { ProgressCallback, QuantizationConfig } from '../types.ts';
import { CHUNK_BYTES, planJobs, sizeOf } from './jobs.ts';

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

export interface QuantizeOptions {
  bits: 4 | 8;
  /** Inputs per scale; default 32 for 4 bits, 128 for 8. */
  groupSize?: number;
  /** Default true: zero point in the middle. */
  symmetric?: boolean;
  /** Also quantizes lm_head; default false. A tied head then gets weights of its own. */
  lmHead?: boolean;
  onProgress?: ProgressCallback;
}

export interface QuantizeResult {
  dir: string;
  /** False when the directory already held exactly this quantization of this source. */
  written: boolean;
  sourceBytes: number;
  weightBytes: number;
  quantization: QuantizationConfig;
}

/**
 * Writes config.json with a quantization_config, the tokenizer's files and model.safetensors.
 * Embeddings, norms and biases are copied as they are. config.json is written last: a directory
 * that has one is complete.
 * @param outDir created; must be empty, or hold the same quantization of the same source.
 * @throws LoramuxError config_invalid, and as importModel
 */
export async function quantizeModel(
  dir: string,
  outDir: string,
  options: QuantizeOptions,
): Promise<QuantizeResult> {
  const { bits, symmetric = true, lmHead = false, onProgress } = options;
  const groupSize = options.groupSize ?? (bits === 4 ? 32 : 128);
  if ((bits !== 4 && bits !== 8) || !(GROUP_SIZES as readonly number[]).includes(groupSize)) {
    throw new LoramuxError(
      'config_invalid',
      `bits ${bits}, group size ${groupSize}: bits must be 4 or 8, the group size one of ` +
        `${GROUP_SIZES.join(', ')}.`,
    );
  }
  const model = await openModel(dir);
  if (model.config.quantization !== undefined) {
    throw new LoramuxError('config_invalid', `${dir} is quantized already; give its source.`);
  }
  const sourceBytes = model.checkpoint.weightBytes;
  const sourceDigest = await fullDigest(model, onProgress);
  const quantization: QuantizationConfig = { bits, groupSize, symmetric, lmHead, sourceDigest };
  const target = resolve(outDir);
  if (await isDone(target, model, quantization)) {
    const { weightBytes } = (await openModel(target)).checkpoint;
    return { dir: target, written: false, sourceBytes, weightBytes, quantization };
  }

  await removePartials(target);
  for (const name of [...TOKENIZER_FILES, GENERATION_CONFIG_FILE]) {
    const from = join(model.checkpoint.dir, name);
    if (await exists(from)) await copyFile(from, join(target, name));
  }
  const weightBytes = await writeWeights(target, model, quantization, onProgress);
  await writeConfig(target, model, quantization);
  return { dir: target, written: true, sourceBytes, weightBytes, quantization };
}

/** SHA-256 over config.json and all weight bytes, tensor by tensor in the order of their names. */
async function fullDigest(model: OpenedModel, onProgress?: ProgressCallback): Promise<string> {
  const { tensors } = model.checkpoint;
  const hash = createHash('sha256').update('loramux source v1\n').update(model.configBytes);
  const names = [...tensors.keys()].sort();
  const total = names.reduce((sum, name) => sum + sizeOf(tensors.get(name)!), 0);
  let done = 0;
  for (const name of names) {
    const { file, dtype, shape, begin, end } = tensors.get(name)!;
    hash.update(`${JSON.stringify([name, dtype, shape])}\n`);
    if (end === begin) continue;
    const options = { start: begin, end: end - 1, highWaterMark: CHUNK_BYTES };
    for await (const chunk of createReadStream(file, options)) hash.update(chunk as Buffer);
    done += end - begin;
    onProgress?.(done, total, 'checking the source');
  }
  return hash.digest('hex');
}

/** True when `target` holds this quantization; creates it when it does not exist. */
async function isDone(
  target: string,
  model: OpenedModel,
  quantization: QuantizationConfig,
): Promise<boolean> {
  await mkdir(target, { recursive: true });
  const found = await readJsonFile(join(target, CONFIG_FILE), 'model_config_unsupported');
  const expected = JSON.stringify({
    ...model.configJson,
    quantization_config: quantizationConfigJson(quantization),
  });
  if (found !== undefined && JSON.stringify(found.json) === expected) return true;
  const leftovers = (await readdir(target)).filter((name) => !isOurs(name));
  if (found !== undefined || leftovers.length > 0) {
    const why = found === undefined ? 'holds other files' : 'holds another model';
    throw new LoramuxError('config_invalid', `${target} ${why}; give a new directory.`);
  }
  return false;
}

/** What an interrupted run may have left: everything but config.json, which comes last. */
function isOurs(name: string): boolean {
  return (
    TOKENIZER_FILES.includes(name) ||
    name === GENERATION_CONFIG_FILE ||
    name.startsWith(WEIGHTS_FILE)
  );
}

/** Weights that a killed run did not finish. */
async function removePartials(target: string): Promise<void> {
  for (const name of await readdir(target)) {
    if (name.startsWith(WEIGHTS_FILE) && name.endsWith('.partial')) await rm(join(target, name));
  }
}

async function writeConfig(
  target: string,
  model: OpenedModel,
  quantization: QuantizationConfig,
): Promise<void> {
  const json = {
    ...model.configJson,
    quantization_config: quantizationConfigJson(quantization),
  };
  const path = join(target, CONFIG_FILE);
  await writeFile(`${path}.partial`, `${JSON.stringify(json, null, 2)}\n`);
  await rename(`${path}.partial`, path);
}

async function writeWeights(
  target: string,
  model: OpenedModel,
  quantization: QuantizationConfig,
  onProgress?: ProgressCallback,
): Promise<number> {
  const jobs = planJobs(model.config, model.checkpoint, quantization);
  const total = jobs.reduce((sum, job) => sum + job.sourceBytes, 0);
  const writer = await SafetensorsWriter.create(
    join(target, WEIGHTS_FILE),
    jobs.flatMap((job) => job.specs),
  );
  const handles = new Map<string, FileHandle>();
  try {
    for (const file of model.checkpoint.files) handles.set(file, await open(file, 'r'));
    const read = async (tensor: CheckpointTensor, offset: number, bytes: number) => {
      const buffer = Buffer.allocUnsafe(bytes);
      const { file, begin } = tensor;
      const { bytesRead } = await handles.get(file)!.read(buffer, 0, bytes, begin + offset);
      if (bytesRead !== bytes) throw new RangeError(`${file} became shorter while it was read`);
      return buffer;
    };
    let done = 0;
    for (const job of jobs) {
      await job.run({ writer, read });
      done += job.sourceBytes;
      onProgress?.(done, total, job.label);
    }
    await writer.close();
  } catch (error) {
    await writer.abort();
    throw error;
  } finally {
    for (const handle of handles.values()) await handle.close();
  }
  return (await stat(join(target, WEIGHTS_FILE))).size;
}
