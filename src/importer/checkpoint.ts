/** The weight files of a Hugging Face directory: one safetensors file, or shards with an index. */
import { createHash } from 'node:crypto';
import { open, realpath } from 'node:fs/promises';
import { basename, dirname, join, relative, sep } from 'node:path';
import { LoramuxError } from '../errors.ts';
import { isJsonObject } from './json.ts';
import { exists, readJsonFile } from './json-file.ts';
import { readSafetensorsHeader, type SafetensorsTensor } from './safetensors/header.ts';

export const WEIGHTS_FILE = 'model.safetensors';
export const WEIGHTS_INDEX_FILE = 'model.safetensors.index.json';
const MAX_SHARDS = 10_000;
const PICKLE_FILES = ['pytorch_model.bin', 'pytorch_model.bin.index.json'];

export interface CheckpointTensor extends SafetensorsTensor {
  /** Absolute path, symbolic links resolved. */
  file: string;
}

export interface Checkpoint {
  /** Absolute path of the directory. */
  dir: string;
  tensors: Map<string, CheckpointTensor>;
  /** Absolute paths of the weight files, symbolic links resolved, in the order of their names. */
  files: string[];
  /** `__metadata__` of each file. */
  metadata: ReadonlyMap<string, string>[];
  weightBytes: number;
}

/**
 * Reads the headers of all weight files.
 * @throws LoramuxError model_weights_invalid (missing or contradicting files), safetensors_invalid.
 */
export async function openCheckpoint(dir: string): Promise<Checkpoint> {
  const root = await realpath(dir).catch((cause: unknown) => {
    throw new LoramuxError('model_weights_invalid', `${dir} cannot be opened.`, { cause });
  });
  const single = join(root, WEIGHTS_FILE);
  // transformers prefers the single file when both are there.
  const shards = (await exists(single)) ? undefined : await readShardIndex(root);
  const names = shards === undefined ? [WEIGHTS_FILE] : [...new Set(shards.values())].sort();
  if (names.length > MAX_SHARDS) throw invalid(root, `has more than ${MAX_SHARDS} weight files`);

  const tensors = new Map<string, CheckpointTensor>();
  const files: string[] = [];
  const metadata: Checkpoint['metadata'] = [];
  let weightBytes = 0;
  for (const name of names) {
    const file = await realpath(join(root, name)).catch((cause: unknown) => {
      throw invalid(root, `lacks ${name}`, cause);
    });
    const header = await readSafetensorsHeader(file, { label: join(root, name) });
    for (const [tensor, entry] of header.tensors) {
      if (tensors.has(tensor)) throw invalid(root, `has tensor ${tensor} in two files`);
      if (shards !== undefined && shards.get(tensor) !== name) {
        throw invalid(root, `has tensor ${tensor} in ${name}, but its index does not say so`);
      }
      tensors.set(tensor, { ...entry, file });
    }
    files.push(file);
    metadata.push(header.metadata);
    weightBytes += header.fileBytes;
  }
  for (const [tensor, name] of shards ?? []) {
    if (!tensors.has(tensor)) throw invalid(root, `lacks tensor ${tensor}, listed in ${name}`);
  }
  return { dir: root, tensors, files, metadata, weightBytes };
}

/** Tensor name -> file name of model.safetensors.index.json. */
async function readShardIndex(dir: string): Promise<Map<string, string>> {
  const index = await readJsonFile(join(dir, WEIGHTS_INDEX_FILE), 'model_weights_invalid');
  if (index === undefined) {
    for (const name of PICKLE_FILES) {
      if (await exists(join(dir, name))) {
        throw invalid(dir, `has its weights as a pickle (${name}); save them as safetensors`);
      }
    }
    throw invalid(dir, `has neither ${WEIGHTS_FILE} nor ${WEIGHTS_INDEX_FILE}`);
  }
  const weightMap = index.json.weight_map;
  if (!isJsonObject(weightMap)) throw invalid(dir, `has an index without weight_map`);
  const shards = new Map<string, string>();
  for (const [tensor, name] of Object.entries(weightMap)) {
    if (typeof name !== 'string' || basename(name) !== name || !name.endsWith('.safetensors')) {
      throw invalid(dir, `has a malformed weight_map entry for ${tensor}`);
    }
    shards.set(tensor, name);
  }
  return shards;
}

/**
 * The folder that all weight files lie in, and each file's path relative to it. Symbolic links are
 * resolved first (the hub's cache keeps blobs apart from the snapshot), because ONNX Runtime
 * refuses external data outside the folder it is given.
 */
export function externalDataLayout(checkpoint: Checkpoint): {
  dir: string;
  location(file: string): string;
} {
  let dir = dirname(checkpoint.files[0]!);
  for (const file of checkpoint.files) {
    while (!file.startsWith(dir.endsWith(sep) ? dir : dir + sep)) dir = dirname(dir);
  }
  return { dir, location: (file) => relative(dir, file) };
}

const SAMPLES_PER_TENSOR = 4;
const SAMPLE_BYTES = 64;

/**
 * SHA-256 over config.json's bytes, every tensor's name, dtype and shape, and a few short samples
 * of its bytes. Cheap (the weights are not read whole), independent of sharding and of paths; two
 * fine-tunes of one model differ in it, two copies of one checkpoint do not.
 */
export async function weightDigest(
  checkpoint: Checkpoint,
  configBytes: Uint8Array,
): Promise<string> {
  const hash = createHash('sha256').update('loramux weights v1\n');
  hash.update(`${configBytes.byteLength}\n`).update(configBytes);
  const handles = new Map<string, Awaited<ReturnType<typeof open>>>();
  try {
    const sample = Buffer.alloc(SAMPLE_BYTES);
    for (const name of [...checkpoint.tensors.keys()].sort()) {
      const { file, dtype, shape, begin, end } = checkpoint.tensors.get(name)!;
      hash.update(`${JSON.stringify([name, dtype, shape])}\n`);
      let handle = handles.get(file);
      if (handle === undefined) {
        handle = await open(file, 'r');
        handles.set(file, handle);
      }
      const step = Math.floor((end - begin) / SAMPLES_PER_TENSOR);
      for (let i = 0; i < SAMPLES_PER_TENSOR; i++) {
        const offset = begin + i * step;
        const length = Math.min(SAMPLE_BYTES, end - offset);
        const { bytesRead } = await handle.read(sample, 0, length, offset);
        hash.update(sample.subarray(0, bytesRead));
      }
    }
  } finally {
    for (const handle of handles.values()) await handle.close();
  }
  return hash.digest('hex');
}

function invalid(dir: string, what: string, cause?: unknown): LoramuxError {
  return new LoramuxError(
    'model_weights_invalid',
    `The checkpoint ${dir} ${what}.`,
    cause === undefined ? {} : { cause },
  );
}
