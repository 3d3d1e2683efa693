/**
 * What a cold adapter costs: the first token's delay behind a resident one, by where the adapter is;
 * and what others feel, the time between tokens of warm streams while cold adapters load one after
 * the other, against the same streams without loads. Both ways take turns in short windows, so that
 * whatever else the machine does meets both.
 */
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs, promisify } from 'node:util';
import { DEMO_MODEL_DIR } from '../examples/modular-arithmetic/tasks.ts';
import type { AdapterGeneration } from '../src/adapters/types.ts';
import { synthesizeAdapters, synthesizeModel } from '../src/importer/index.ts';
import { GREEDY, Stack } from '../test/support/stack.ts';
import { median, quantile, type Scenario, type ScenarioResult } from './scenario.ts';

const OPTIONS = {
  model: { type: 'string', default: 'llama-1.1b' },
  /** 32 makes adapters of 50 MB for llama-1.1b. */
  rank: { type: 'string', default: '32' },
  rounds: { type: 'string', default: '15' },
  streams: { type: 'string', default: '16' },
  /** Pairs of windows, one without and one with loads. */
  windows: { type: 'string', default: '6' },
  seconds: { type: 'string', default: '5' },
  /** Keeps the synthetic checkpoint here between runs. */
  dir: { type: 'string' },
} as const;

const MIB = 2 ** 20;
const WARM_ADAPTERS = 4;
const COLD_ADAPTERS = 4;
const PROMPT_TOKENS = 16;
const OUTPUT_TOKENS = 128;
const LOAD_MS_MAX = 120_000;
const SETTLE_MS = 300;

interface Model {
  readonly name: string;
  readonly dir: string;
  readonly adapters: readonly { readonly name: string; readonly dir: string }[];
}

async function prepare(name: string, rank: number, dir: string): Promise<Model> {
  const modelDir = name === 'demo' ? DEMO_MODEL_DIR : path.join(dir, name);
  await mkdir(dir, { recursive: true });
  if (!existsSync(path.join(modelDir, 'model.safetensors'))) {
    console.error(`writing ${name} with random weights ...`);
    await rm(modelDir, { recursive: true, force: true });
    await synthesizeModel(name, modelDir, { dtype: 'BF16' });
  }
  const adaptersDir = path.join(dir, `${name}-cold-r${rank}`);
  await rm(adaptersDir, { recursive: true, force: true });
  const adapters = await synthesizeAdapters(modelDir, adaptersDir, {
    count: WARM_ADAPTERS + COLD_ADAPTERS,
    ranks: [rank],
    dtype: 'BF16',
  });
  return { name, dir: modelDir, adapters };
}

async function open(model: Model, streams: number): Promise<Stack> {
  const stack = await Stack.open(model.dir, {
    maxSlots: WARM_ADAPTERS + COLD_ADAPTERS,
    maxAdapterBytes: 4096 * MIB,
    engine: { prefixCaching: false, numBlocks: streams * 16 + 64, maxModelLen: 256 },
  });
  for (const { name, dir } of model.adapters) await stack.put(name, dir);
  return stack;
}

/** Submits one request as the request layer does; calls back with each token. */
function ask(stack: Stack, name: string, maxTokens: number, onToken: () => void): Promise<void> {
  const { generation } = stack.adapters.resolve(name);
  const release = stack.adapters.hold(generation);
  stack.residency.prefetch(generation);
  return new Promise((resolve, reject) => {
    stack.engine.submit(
      {
        id: `${name}-${Math.random()}`,
        promptTokenIds: Int32Array.from({ length: PROMPT_TOKENS }, (_, i) => 1 + (i % 30)),
        adapters: [{ generation, weight: 1 }],
        sampling: { ...GREEDY, logprobs: undefined, maxTokens, minTokens: maxTokens },
        n: 1,
        cacheSalt: '',
        arrivalMs: performance.now(),
      },
      {
        onToken,
        onFinish: (finish) => {
          release();
          if (finish.error === undefined) resolve();
          else reject(finish.error);
        },
      },
    );
  });
}

async function firstTokenMs(stack: Stack, name: string): Promise<number> {
  const start = performance.now();
  let first = Number.NaN;
  await ask(stack, name, 2, () => {
    if (Number.isNaN(first)) first = performance.now() - start;
  });
  return first;
}

/** The canonical file of a generation below the data folder. */
async function fileOf(stack: Stack, digest: string): Promise<string> {
  const entries = await readdir(stack.dataDir, { recursive: true });
  const found = entries.find((entry) => path.basename(entry).startsWith(digest));
  if (found === undefined) throw new Error(`no file of ${digest} below ${stack.dataDir}`);
  return path.join(stack.dataDir, found);
}

/** Makes the kernel forget the pages of a file; dd is the tool that asks it to. */
async function dropPages(file: string): Promise<void> {
  await promisify(execFile)('dd', [`if=${file}`, 'iflag=nocache', 'count=0', 'status=none']);
}

async function toHost(stack: Stack, generation: AdapterGeneration): Promise<void> {
  stack.adapters.prefetchImage(generation);
  const end = performance.now() + LOAD_MS_MAX;
  while (!stack.adapters.hasImage(generation.digest)) {
    if (performance.now() > end) throw new Error('the adapter did not come to host memory');
    await sleep(5);
  }
}

type Place = 'slot' | 'host' | 'disk' | 'diskUncached';

async function measureFirstTokens(model: Model, rounds: number) {
  const stack = await open(model, 1);
  const times: Record<Place, number[]> = { slot: [], host: [], disk: [], diskUncached: [] };
  try {
    for (let round = -1; round < rounds; round++) {
      const { name } = model.adapters[(round + 1) % model.adapters.length]!;
      const { generation } = stack.adapters.resolve(name);
      const file = await fileOf(stack, generation.digest);
      for (const place of ['disk', 'slot', 'host', 'diskUncached'] as const) {
        if (place !== 'slot') stack.residency.evict(generation);
        if (place === 'host') await toHost(stack, generation);
        if (place === 'diskUncached') await dropPages(file);
        await sleep(SETTLE_MS);
        const ms = await firstTokenMs(stack, name);
        // The first round starts threads and compiles.
        if (round >= 0) times[place].push(ms);
      }
      stack.residency.evict(generation);
    }
    const { fileBytes } = stack.adapters.get(model.adapters[0]!.name)!;
    return { times, fileBytes, violations: await stack.violations() };
  } finally {
    await stack.close();
  }
}

interface Window {
  readonly gaps: number[];
  readonly loadMs: number[];
  readonly seconds: number;
}

/** Streams that never end, and the time between the tokens of each while `record` is set. */
class Streams {
  readonly #stack: Stack;
  readonly #running: Promise<void>[];
  #stopped = false;
  record: number[] | undefined;

  constructor(stack: Stack, names: readonly string[]) {
    this.#stack = stack;
    this.#running = names.map((name) => this.#run(name));
  }

  async #run(name: string): Promise<void> {
    while (!this.#stopped) {
      let last = Number.NaN;
      await ask(this.#stack, name, OUTPUT_TOKENS, () => {
        const now = performance.now();
        if (!Number.isNaN(last)) this.record?.push(now - last);
        last = now;
      });
    }
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await Promise.all(this.#running);
  }
}

async function measureWindow(
  stack: Stack,
  streams: Streams,
  cold: readonly AdapterGeneration[],
  seconds: number,
): Promise<Window> {
  const window: Window = { gaps: [], loadMs: [], seconds };
  let open = true;
  const loader = async () => {
    for (let i = 0; open && cold.length > 0; i++) {
      const generation = cold[i % cold.length]!;
      const start = performance.now();
      await stack.residency.load(generation, LOAD_MS_MAX);
      if (open) window.loadMs.push(performance.now() - start);
      stack.residency.evict(generation);
    }
  };
  const loading = loader();
  await sleep(SETTLE_MS);
  streams.record = window.gaps;
  await sleep(seconds * 1000);
  streams.record = undefined;
  open = false;
  await loading;
  return window;
}

async function measureStreams(
  model: Model,
  options: { streams: number; windows: number; seconds: number },
) {
  const stack = await open(model, options.streams);
  try {
    const warm = model.adapters.slice(0, WARM_ADAPTERS).map(({ name }) => name);
    const cold = model.adapters
      .slice(WARM_ADAPTERS)
      .map(({ name }) => stack.adapters.resolve(name).generation);
    const streams = new Streams(
      stack,
      Array.from({ length: options.streams }, (_, i) => warm[i % warm.length]!),
    );
    await measureWindow(stack, streams, cold, options.seconds);
    const quiet: Window[] = [];
    const busy: Window[] = [];
    for (let i = 0; i < options.windows; i++) {
      quiet.push(await measureWindow(stack, streams, [], options.seconds));
      busy.push(await measureWindow(stack, streams, cold, options.seconds));
    }
    await streams.stop();
    const gaps = (windows: readonly Window[]) => windows.flatMap((window) => window.gaps);
    const loadMs = busy.flatMap((window) => window.loadMs);
    const p = (windows: readonly Window[], share: number) => quantile(gaps(windows), share);
    return {
      name: `streams ${model.name}`,
      tokens: gaps(quiet).length + gaps(busy).length,
      p50Ms: p(quiet, 0.5),
      p50LoadingMs: p(busy, 0.5),
      p99Ms: p(quiet, 0.99),
      p99LoadingMs: p(busy, 0.99),
      loadsPerSecond: loadMs.length / (options.windows * options.seconds),
      loadMs: loadMs.length === 0 ? Number.NaN : median(loadMs),
      p99Ratio: p(busy, 0.99) / p(quiet, 0.99),
    };
  } finally {
    await stack.close();
  }
}

async function run(args: readonly string[]): Promise<ScenarioResult> {
  const { values } = parseArgs({ args: [...args], options: OPTIONS });
  const dir = values.dir ?? (await mkdtemp(path.join(tmpdir(), 'loramux-bench-')));
  const options = {
    streams: Number(values.streams),
    windows: Number(values.windows),
    seconds: Number(values.seconds),
  };
  try {
    const large = await prepare(values.model, Number(values.rank), dir);
    const demo = await prepare('demo', Math.min(16, Number(values.rank)), dir);
    const rounds = Number(values.rounds);
    const first = rounds > 0 ? await measureFirstTokens(large, rounds) : undefined;
    const both = options.windows > 0 ? [large, demo] : [];
    const streams = [];
    for (const model of both) streams.push(await measureStreams(model, options));
    const warmMs = first === undefined ? Number.NaN : median(first.times.slot);
    const places = Object.entries(first?.times ?? {}).map(([name, times]) => ({
      name,
      firstTokenMs: median(times),
      laterThanWarmMs: median(times) - warmMs,
    }));
    return {
      lines: [
        `${values.model}, adapters of rank ${values.rank}` +
          (first === undefined ? '' : `, ${(first.fileBytes / 1e6).toFixed(1)} MB`),
        ...places.map(
          ({ name, firstTokenMs: ms, laterThanWarmMs }) =>
            `${name.padEnd(14)}first token after ${ms.toFixed(1)} ms, ` +
            `${laterThanWarmMs.toFixed(1)} ms later than warm`,
        ),
        ...streams.map(
          (s) =>
            `${s.name}: time between tokens p50 ${s.p50Ms.toFixed(2)}, p99 ${s.p99Ms.toFixed(2)} ` +
            `ms; while loading p50 ${s.p50LoadingMs.toFixed(2)}, p99 ${s.p99LoadingMs.toFixed(2)} ` +
            `ms (${s.loadsPerSecond.toFixed(1)} loads/s of ${s.loadMs.toFixed(1)} ms); ` +
            `ratio of p99 ${s.p99Ratio.toFixed(3)}`,
        ),
      ],
      results: [...places, ...streams],
      ratios: Object.fromEntries(streams.map(({ name, p99Ratio }) => [`p99 ${name}`, p99Ratio])),
    };
  } finally {
    if (values.dir === undefined) await rm(dir, { recursive: true, force: true });
  }
}

export const coldLoadScenario: Scenario = {
  name: 'cold-load',
  summary:
    'first token of a cold adapter, and what warm streams feel of loads (--model, --rank, ...)',
  run,
};
