/** A model in this process, as scenarios that need no HTTP use it. */

import { rm } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import path from 'node:path';
import { slotDtype } from '../src/config/relations.ts';
import { LoramuxError } from '../src/errors.ts';
import {
  type ModelConfig,
  openConfig,
  packModel,
  readSafetensorsHeader,
} from '../src/importer/index.ts';
import {
  ISAS,
  type Isa,
  type KvDtype,
  LORA_DTYPES,
  type LoraDtype,
  PACKED_FORMATS,
} from '../src/native/addon-types.ts';
import { Stack } from '../test/support/stack.ts';
import { type BatchShape, type BatchTimes, runBatch } from './batch.ts';
import { type AdapterSet, CACHE_DIR, prepareAdapters, prepareModel } from './checkpoints.ts';
import { numberOption, UsageError } from './scenario.ts';
import { KV_DTYPES, kvBytes, type WeightFormat, weightBytes } from './work.ts';

/** Options that every scenario with a model of its own takes. */
export const MODEL_OPTIONS = {
  /** A shape of `loramux synth`, or a Hugging Face folder. */
  model: { type: 'string', default: 'llama-1.1b' },
  /** Formats of the weights, with commas in between. */
  weights: { type: 'string', default: 'int8' },
  /** Forces an instruction set. */
  isa: { type: 'string' },
  /** Element type of adapters in slots, as the server's flag has it. */
  'lora-dtype': { type: 'string', default: 'auto' },
  threads: numberOption(availableParallelism()),
  /** Keeps checkpoints and adapters here between runs. */
  dir: { type: 'string', default: CACHE_DIR },
} as const;

export interface ModelOptions {
  readonly model: string;
  readonly isa: string | undefined;
  /** Default auto. */
  readonly 'lora-dtype'?: string;
  readonly threads: number;
  readonly dir: string;
}

export interface Capacity {
  readonly slots: number;
  /** Tokens of all requests at once. */
  readonly tokens: number;
  /** Longest request. */
  readonly length: number;
  readonly tokensPerStep?: number;
  /** Default f32. */
  readonly kvDtype?: KvDtype;
}

const BLOCK_SIZE = 16;
const ADAPTER_BYTES_MAX = 8 * 1024 ** 3;
const FORMATS: readonly WeightFormat[] = ['float32', ...PACKED_FORMATS];
/** Tensors that are looked up row by row, not multiplied. */
const EMBEDDING = 'model.embed_tokens.weight';

/** Reads `--weights`. */
export function formatsOf(list: string): WeightFormat[] {
  return list.split(',').map((name) => {
    const format = FORMATS.find((known) => known === name);
    if (format === undefined)
      throw new UsageError(`--weights ${name}: known are ${FORMATS.join(', ')}`);
    return format;
  });
}

/** Reads `--kv`. */
export function kvDtypesOf(list: string): KvDtype[] {
  return list.split(',').map((name) => {
    const dtype = KV_DTYPES.find((known) => known === name);
    if (dtype === undefined)
      throw new UsageError(`--kv ${name}: known are ${KV_DTYPES.join(', ')}`);
    return dtype;
  });
}

/** Bytes of an element of an adapter in a slot, scales left out. */
export const LORA_ELEMENT_BYTES: Readonly<Record<LoraDtype, number>> = {
  float32: 4,
  bfloat16: 2,
  int8: 1,
};

/** Reads `--lora-dtype`; auto is what the server chooses by itself. */
function loraDtypeOf(name: string, packedWeights: boolean): LoraDtype {
  const known = (['auto', ...LORA_DTYPES] as const).find((candidate) => candidate === name);
  if (known === undefined)
    throw new UsageError(`--lora-dtype ${name}: known are auto, ${LORA_DTYPES.join(', ')}`);
  return slotDtype(known, { packedWeights });
}

/** Reads `--weights` of a scenario that takes one format. */
export function formatOf(list: string): WeightFormat {
  const [format, ...others] = formatsOf(list);
  if (format === undefined || others.length > 0)
    throw new UsageError(`--weights ${list}: give one`);
  return format;
}

export class BenchModel {
  readonly format: WeightFormat;
  readonly config: ModelConfig;
  readonly stack: Stack;
  /** The checkpoint, before it was packed. */
  readonly dir: string;
  /** What the session opened: the packed checkpoint, or `dir`. */
  readonly openedDir: string;
  /** Bytes of weights that every step reads. */
  readonly weightBytes: number;
  readonly kvDtype: KvDtype;
  readonly loraDtype: LoraDtype;
  readonly kvBytesPerToken: number;
  readonly #cacheDir: string;

  private constructor(
    format: WeightFormat,
    config: ModelConfig,
    stack: Stack,
    dtypes: { kv: KvDtype; lora: LoraDtype },
    bytes: number,
    dirs: { model: string; opened: string; cache: string },
  ) {
    this.format = format;
    this.config = config;
    this.stack = stack;
    this.dir = dirs.model;
    this.openedDir = dirs.opened;
    this.#cacheDir = dirs.cache;
    this.weightBytes = bytes;
    this.kvDtype = dtypes.kv;
    this.loraDtype = dtypes.lora;
    this.kvBytesPerToken = kvBytes(config, dtypes.kv);
  }

  static async open(
    options: ModelOptions,
    format: WeightFormat,
    capacity: Capacity,
  ): Promise<BenchModel> {
    const modelDir = await prepareModel(options.model, options.dir);
    const { config } = await openConfig(modelDir);
    const packed = await packedDir(modelDir, options.dir, format);
    const isa = isaOf(options.isa);
    // Cache and adapters as the server chooses them by itself.
    const kvDtype = capacity.kvDtype ?? (packed === undefined ? 'f32' : 'bf16');
    const loraDtype = loraDtypeOf(options['lora-dtype'] ?? 'auto', packed !== undefined);
    const stack = await Stack.open(packed ?? modelDir, {
      weights: packed === undefined ? 'float32' : 'auto',
      loraDtype,
      maxSlots: capacity.slots,
      maxAdapterBytes: ADAPTER_BYTES_MAX,
      threads: options.threads,
      kvDtype,
      ...(isa === undefined ? {} : { isa }),
      // Every turn computes everything itself.
      engine: {
        prefixCaching: false,
        numBlocks: Math.ceil(capacity.tokens / BLOCK_SIZE) + 64,
        maxModelLen: capacity.length,
        ...(capacity.tokensPerStep === undefined
          ? {}
          : { maxTokensPerStep: capacity.tokensPerStep }),
      },
    });
    const bytes = packed === undefined ? weightBytes(config, format) : await multiplied(packed);
    return new BenchModel(format, config, stack, { kv: kvDtype, lora: loraDtype }, bytes, {
      model: modelDir,
      opened: packed ?? modelDir,
      cache: options.dir,
    });
  }

  /** Makes adapters known to the stack; gives their names and ranks. */
  async addAdapters(set: AdapterSet): Promise<{ name: string; rank: number }[]> {
    const adapters = await prepareAdapters(this.dir, this.#cacheDir, set);
    for (const { name, dir } of adapters) await this.stack.put(name, dir);
    return adapters.map(({ name, rank }) => ({ name, rank }));
  }

  runBatch(rows: readonly (string | undefined)[], shape: BatchShape): Promise<BatchTimes> {
    return runBatch(this.stack, rows, shape, this.config.vocabSize);
  }

  get isa(): Isa {
    return this.stack.session.info.isa;
  }

  close(): Promise<void> {
    return this.stack.close();
  }
}

/** The checkpoint packed in a format, now or before; undefined: as it is. */
async function packedDir(
  modelDir: string,
  cache: string,
  format: WeightFormat,
): Promise<string | undefined> {
  const packed = PACKED_FORMATS.find((known) => known === format);
  if (packed === undefined) return undefined;
  const dir = path.join(cache, 'packed', `${path.basename(modelDir)}-${packed}`);
  try {
    const { written } = await packModel(modelDir, dir, { format: packed });
    if (written) console.error(`packed ${path.basename(modelDir)} as ${packed}`);
  } catch (error) {
    if (!(error instanceof LoramuxError) || error.code !== 'config_invalid') throw error;
    // Packed in another way by an earlier version.
    await rm(dir, { recursive: true });
    await packModel(modelDir, dir, { format: packed });
  }
  return dir;
}

/** Bytes of a packed checkpoint that every step reads: all but the embedding. */
async function multiplied(dir: string): Promise<number> {
  const { tensors } = await readSafetensorsHeader(path.join(dir, 'model.safetensors'));
  const sizes = [...tensors].map(([name, { begin, end }]) =>
    name === EMBEDDING ? 0 : end - begin,
  );
  return sizes.reduce((sum, bytes) => sum + bytes, 0);
}

function isaOf(name: string | undefined): Isa | undefined {
  const isa = ISAS.find((known) => known === name);
  if (name !== undefined && isa === undefined) {
    throw new UsageError(`--isa ${name}: known are ${ISAS.join(', ')}`);
  }
  return isa;
}
