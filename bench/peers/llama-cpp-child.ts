/**
 * llama.cpp through the addon of node-llama-cpp, as a peer process (peer-process.ts). It talks to
 * the addon itself: the package's own classes sample each token in JavaScript turns, which would
 * be charged to llama.cpp. Tokens are given, nothing is sampled but in `greedy`, and only
 * `llama_decode` is timed.
 *   node llama-cpp-child.ts <folder with node_modules>
 */
import { createRequire } from 'node:module';
import path from 'node:path';
import { createInterface } from 'node:readline';

interface Lora {
  readonly __lora: never;
}
interface Model {
  init(): Promise<boolean>;
  loadLora(lora: Lora): Promise<void>;
}
interface Sampler {
  applyConfig(config: { temperature: number }): void;
}
interface Context {
  init(): Promise<boolean>;
  initBatch(tokens: number): void;
  addToBatch(
    sequence: number,
    position: number,
    tokens: Uint32Array,
    logitRows: Uint32Array,
  ): Uint32Array;
  decodeBatch(): Promise<void>;
  sampleToken(row: number, sampler: Sampler): Promise<number>;
  disposeSequence(sequence: number): void;
  setLoras(loras: readonly Lora[], scales: readonly number[]): void;
}
interface Addon {
  AddonModel: new (file: string, options: object) => Model;
  AddonModelLora: new (model: Model, file: string) => Lora;
  AddonContext: new (model: Model, options: object) => Context;
  AddonSampler: new (model: Model) => Sampler;
  setLogger(log: (level: number, message: string) => void): void;
  setLoggerLogLevel(level: number): void;
  loadBackends(folder: string): void;
  init(): Promise<void>;
  systemInfo(): string;
}

interface Load {
  readonly model: string;
  readonly loras: readonly string[];
  readonly threads: number;
  readonly sequences: number;
  readonly length: number;
  readonly batch: number;
}
interface Decode {
  readonly rows: number;
  readonly prompt: number;
  readonly steps: number;
  readonly adapters: 'none' | 'one' | 'distinct';
}

const LOG_LEVEL_INFO = 4;
const VOCABULARY = 20_000;
const tokenAt = (row: number, i: number) => (300 + row * 131 + i * 17) % VOCABULARY;

const folder = process.argv[2]!;
const bins = path.join(folder, 'node_modules/@node-llama-cpp/linux-x64/bins/linux-x64');
const addon = createRequire(import.meta.url)(path.join(bins, 'llama-addon.node')) as Addon;
let backend = 'unknown';
let state: { model: Model; context: Context; loras: Lora[]; sequences: number } | undefined;

function current() {
  if (state === undefined) throw new Error('no model is loaded');
  return state;
}

async function start(): Promise<void> {
  addon.setLogger((_, message) => {
    backend = /libggml-cpu-(\w+)\.so/.exec(message)?.[1] ?? backend;
  });
  addon.setLoggerLogLevel(LOG_LEVEL_INFO);
  addon.loadBackends(bins);
  await addon.init();
}

async function load(options: Load): Promise<object> {
  // Weights that are copied can be repacked for the processor; both are llama.cpp's defaults.
  const model = new addon.AddonModel(options.model, { gpuLayers: 0 });
  if (!(await model.init())) throw new Error(`${options.model} did not load`);
  const loras: Lora[] = [];
  for (const file of options.loras) {
    const lora = new addon.AddonModelLora(model, file);
    await model.loadLora(lora);
    loras.push(lora);
  }
  const context = new addon.AddonContext(model, {
    contextSize: options.length * options.sequences,
    sequences: options.sequences,
    batchSize: options.batch,
    flashAttention: true,
    threads: options.threads,
  });
  if (!(await context.init())) throw new Error('no context');
  state = { model, context, loras, sequences: options.sequences };
  return { backend, systemInfo: addon.systemInfo().trim() };
}

/** One llama_decode; gives its milliseconds. */
async function forward(
  context: Context,
  parts: readonly { sequence: number; position: number; tokens: Uint32Array }[],
): Promise<number> {
  context.initBatch(parts.reduce((sum, { tokens }) => sum + tokens.length, 0));
  for (const { sequence, position, tokens } of parts) {
    context.addToBatch(sequence, position, tokens, Uint32Array.of(tokens.length - 1));
  }
  const begin = performance.now();
  await context.decodeBatch();
  return performance.now() - begin;
}

const promptOf = (row: number, length: number) =>
  Uint32Array.from({ length }, (_, i) => tokenAt(row, i));

async function prefill({ tokens }: { tokens: number }): Promise<object> {
  const { context } = current();
  context.setLoras([], []);
  const ms = await forward(context, [{ sequence: 0, position: 0, tokens: promptOf(0, tokens) }]);
  context.disposeSequence(0);
  return { ms };
}

/** Sequences with different adapters cannot share a batch: each has a call of its own. */
async function decode({ rows, prompt, steps, adapters }: Decode): Promise<object> {
  const { context, loras } = current();
  const all = Array.from({ length: rows }, (_, row) => row);
  const groups = adapters === 'distinct' ? all.map((row) => [row]) : [all];
  const choose = (group: readonly number[]) => {
    const used = adapters === 'none' ? [] : [loras[adapters === 'one' ? 0 : group[0]!]!];
    context.setLoras(
      used,
      used.map(() => 1),
    );
  };
  for (const group of groups) {
    choose(group);
    for (const row of group) {
      await forward(context, [{ sequence: row, position: 0, tokens: promptOf(row, prompt) }]);
    }
  }
  const stepMs: number[] = [];
  for (let step = 0; step < steps; step++) {
    let ms = 0;
    for (const group of groups) {
      choose(group);
      const parts = group.map((row) => ({
        sequence: row,
        position: prompt + step,
        tokens: Uint32Array.of(tokenAt(row, prompt + step)),
      }));
      ms += await forward(context, parts);
    }
    stepMs.push(ms);
  }
  for (const row of all) context.disposeSequence(row);
  return { stepMs };
}

async function greedy(options: {
  prompt: readonly number[];
  tokens: number;
  lora: number | null;
}): Promise<object> {
  const { context, model, loras } = current();
  const used = options.lora === null ? [] : [loras[options.lora]!];
  context.setLoras(
    used,
    used.map(() => 1),
  );
  const sampler = new addon.AddonSampler(model);
  sampler.applyConfig({ temperature: 0 });
  const out: number[] = [];
  let position = 0;
  let tokens = Uint32Array.from(options.prompt);
  while (out.length < options.tokens) {
    await forward(context, [{ sequence: 0, position, tokens }]);
    position += tokens.length;
    const token = await context.sampleToken(tokens.length - 1, sampler);
    out.push(token);
    tokens = Uint32Array.of(token);
  }
  context.disposeSequence(0);
  return { tokens: out };
}

type Request = { readonly op: string } & Load & Decode & Parameters<typeof greedy>[0];

async function answer(request: Request): Promise<object> {
  if (request.op === 'load') return load(request);
  if (request.op === 'prefill') return prefill(request as unknown as { tokens: number });
  if (request.op === 'decode') return decode(request);
  if (request.op === 'greedy') return greedy(request);
  throw new Error(`unknown request ${request.op}`);
}

await start();
for await (const line of createInterface({ input: process.stdin })) {
  const reply = await answer(JSON.parse(line) as Request).catch((error: unknown) => ({
    error: error instanceof Error ? error.message : String(error),
  }));
  console.log(JSON.stringify(reply));
}
process.exit(0);
