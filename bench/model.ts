/** A model in this process, as scenarios that need no HTTP use it. */
import { availableParallelism } from 'node:os';
import { importModel, type ModelConfig } from '../src/importer/index.ts';
import { ISAS, type Isa, type KvDtype } from '../src/native/addon-types.ts';
import { Stack } from '../test/support/stack.ts';
import { type BatchShape, type BatchTimes, runBatch } from './batch.ts';
import { type AdapterSet, CACHE_DIR, prepareAdapters, prepareModel } from './checkpoints.ts';
import { numberOption } from './scenario.ts';
import { kvBytes, type WeightFormat, weightBytes } from './work.ts';

/** Options that every scenario with a model of its own takes. */
export const MODEL_OPTIONS = {
  /** A shape of `loramux synth`, or a Hugging Face folder. */
  model: { type: 'string', default: 'llama-1.1b' },
  /** Formats of the weights, with commas in between. */
  weights: { type: 'string', default: 'float32' },
  /** Forces an instruction set. */
  isa: { type: 'string' },
  threads: numberOption(availableParallelism()),
  /** Keeps checkpoints and adapters here between runs. */
  dir: { type: 'string', default: CACHE_DIR },
} as const;

export interface ModelOptions {
  readonly model: string;
  readonly isa: string | undefined;
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
/** Bytes of one key or value, its share of scales left out. */
export const KV_ELEMENT_BYTES: Readonly<Record<KvDtype, number>> = { f32: 4, bf16: 2, int8: 1 };
const FORMATS: readonly WeightFormat[] = ['float32'];

/** Reads `--weights`. */
export function formatsOf(list: string): WeightFormat[] {
  return list.split(',').map((name) => {
    const format = FORMATS.find((known) => known === name);
    if (format === undefined) throw new Error(`--weights ${name}: known are ${FORMATS.join(', ')}`);
    return format;
  });
}

/** Reads `--kv`. */
export function kvDtypesOf(list: string): KvDtype[] {
  const known = Object.keys(KV_ELEMENT_BYTES) as KvDtype[];
  return list.split(',').map((name) => {
    const dtype = known.find((candidate) => candidate === name);
    if (dtype === undefined) throw new Error(`--kv ${name}: known are ${known.join(', ')}`);
    return dtype;
  });
}

/** Reads `--weights` of a scenario that takes one format. */
export function formatOf(list: string): WeightFormat {
  const [format, ...others] = formatsOf(list);
  if (format === undefined || others.length > 0) throw new Error(`--weights ${list}: give one`);
  return format;
}

export class BenchModel {
  readonly format: WeightFormat;
  readonly config: ModelConfig;
  readonly stack: Stack;
  /** The checkpoint, before it was packed. */
  readonly dir: string;
  /** Bytes of weights that every step reads. */
  readonly weightBytes: number;
  readonly kvDtype: KvDtype;
  readonly kvBytesPerToken: number;
  readonly #cacheDir: string;

  private constructor(
    format: WeightFormat,
    config: ModelConfig,
    stack: Stack,
    kvDtype: KvDtype,
    dirs: { model: string; cache: string },
  ) {
    this.format = format;
    this.config = config;
    this.stack = stack;
    this.dir = dirs.model;
    this.#cacheDir = dirs.cache;
    this.weightBytes = weightBytes(config, format);
    this.kvDtype = kvDtype;
    this.kvBytesPerToken = kvBytes(config, KV_ELEMENT_BYTES[kvDtype]);
  }

  static async open(
    options: ModelOptions,
    format: WeightFormat,
    capacity: Capacity,
  ): Promise<BenchModel> {
    const modelDir = await prepareModel(options.model, options.dir);
    const { metadata } = await importModel(modelDir);
    const isa = isaOf(options.isa);
    const kvDtype = capacity.kvDtype ?? 'f32';
    const stack = await Stack.open(modelDir, {
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
    return new BenchModel(format, metadata.config, stack, kvDtype, {
      model: modelDir,
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

function isaOf(name: string | undefined): Isa | undefined {
  const isa = ISAS.find((known) => known === name);
  if (name !== undefined && isa === undefined) {
    throw new Error(`--isa ${name}: known are ${ISAS.join(', ')}`);
  }
  return isa;
}
