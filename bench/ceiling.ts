/**
 * The machine's ceilings, measured by a native program that sleeps between requests: other
 * scenarios take a burst between their rounds, so that a figure and its ceiling are of the same
 * minute.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { availableParallelism } from 'node:os';
import path from 'node:path';
import { createInterface, type Interface } from 'node:readline';
import { ROOT, run as runCommand } from '../scripts/process.ts';
import { probeNative } from '../src/native/index.ts';
import { barChart } from './plot.ts';
import type { Machine } from './result.ts';
import { numberOption, parse, type Scenario, type ScenarioResult } from './scenario.ts';
import { median } from './statistics.ts';

const PROGRAM = path.join(ROOT, 'build', 'loramux_ceiling');
/** Long enough for ten slices of the native program. */
const BURST_MS = 100;
/** Best first: the ceilings that int8 and bf16 products are compared with. */
const INT8 = ['int8_amx', 'vnni_avx512', 'vnni_avx'];
const BF16 = ['bf16_amx', 'bf16_avx512'];

interface Burst {
  readonly name: string;
  readonly median: number;
  readonly best: number;
}

/** Builds the addon and the native programs of the benchmarks when their sources changed. */
export async function buildPrograms(): Promise<void> {
  await runCommand(process.execPath, ['scripts/build-native.mjs', '--bench']);
}

export class Ceiling {
  readonly threads: number;
  readonly names: readonly string[];
  readonly #child: ChildProcess;
  readonly #lines: AsyncIterator<string>;
  readonly #reader: Interface;
  readonly #bursts = new Map<string, number[]>();
  #queue: Promise<unknown> = Promise.resolve();

  private constructor(child: ChildProcess, reader: Interface, threads: number, names: string[]) {
    this.#child = child;
    this.#reader = reader;
    this.#lines = reader[Symbol.asyncIterator]();
    this.threads = threads;
    this.names = names;
  }

  /** Starts the program; it takes 512 MiB for each thread. */
  static async open(threads = availableParallelism()): Promise<Ceiling> {
    const child = spawn(PROGRAM, ['--threads', String(threads)], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    await once(child, 'spawn');
    const names: string[] = [];
    const reader = createInterface({ input: child.stdout! });
    const ceiling = new Ceiling(child, reader, threads, names);
    names.push(...((await ceiling.#ask('list')) as string[]));
    return ceiling;
  }

  async #ask(line: string): Promise<unknown> {
    this.#child.stdin!.write(`${line}\n`);
    const { value, done } = await this.#lines.next();
    if (done === true) throw new Error('the ceiling program ended');
    return JSON.parse(value);
  }

  /** One burst of one ceiling: 10^9 bytes or 10^12 operations per second now. */
  async measure(name: string, ms = BURST_MS): Promise<Burst> {
    const turn = this.#queue.then(() => this.#ask(`${name} ${ms}`));
    this.#queue = turn.catch(() => undefined);
    const burst = (await turn) as Burst & { error?: string };
    if (burst.error !== undefined) throw new Error(`ceiling ${name}: ${burst.error}`);
    const bursts = this.#bursts.get(name) ?? [];
    bursts.push(burst.median);
    this.#bursts.set(name, bursts);
    return burst;
  }

  /** A burst of the ceilings that matrix products meet. */
  async sample(): Promise<void> {
    for (const name of ['read', this.int8, this.bf16, this.float32]) {
      if (name !== undefined) await this.measure(name);
    }
  }

  /** The median of this ceiling's bursts so far; undefined: none was measured. */
  value(name: string | undefined): number | undefined {
    const bursts = name === undefined ? undefined : this.#bursts.get(name);
    return bursts === undefined ? undefined : median(bursts);
  }

  get int8(): string | undefined {
    return INT8.find((name) => this.names.includes(name));
  }

  get bf16(): string | undefined {
    return BF16.find((name) => this.names.includes(name));
  }

  /** The instructions of float32 products. */
  get float32(): string | undefined {
    return ['fma_avx512', 'fma_avx2'].find((name) => this.names.includes(name));
  }

  /** What the JSON line says of the machine. */
  machine(isa: string = probeNative().isas.at(-1)!): Machine {
    return {
      isa,
      threads: this.threads,
      readGBs: this.value('read')!,
      int8Tops: this.value(this.int8) ?? null,
      bf16Tflops: this.value(this.bf16) ?? null,
      ceilings: Object.fromEntries([...this.#bursts.keys()].map((n) => [n, this.value(n)!])),
    };
  }

  async close(): Promise<void> {
    const exited = once(this.#child, 'exit');
    this.#reader.close();
    this.#child.stdin!.end();
    await exited;
  }
}

/** Ceilings of this moment: one burst of each that matrix products meet. */
export async function measureCeiling(threads?: number): Promise<Machine> {
  const ceiling = await Ceiling.open(threads);
  try {
    await ceiling.sample();
    return ceiling.machine();
  } finally {
    await ceiling.close();
  }
}

const OPTIONS = {
  threads: numberOption(availableParallelism()),
  rounds: numberOption(8),
} as const;

async function run(args: readonly string[]): Promise<ScenarioResult> {
  const { threads, rounds } = parse(args, OPTIONS);
  const ceiling = await Ceiling.open(threads);
  try {
    const best = new Map<string, number>();
    for (let round = 0; round < rounds; round++) {
      for (const name of ceiling.names) {
        const burst = await ceiling.measure(name);
        best.set(name, Math.max(best.get(name) ?? 0, burst.best));
      }
    }
    const unit = (name: string) => (name === 'read' ? 'GB/s' : 'Tops');
    const results = ceiling.names.map((name) => ({
      name,
      unit: unit(name),
      median: ceiling.value(name)!,
      best: best.get(name)!,
      rounds,
    }));
    return {
      machine: ceiling.machine(),
      lines: [
        `${threads} threads, ${rounds} rounds of ${BURST_MS} ms in turn`,
        ...results.map(
          ({ name, median: middle, best: top }) =>
            `${name.padEnd(14)}${middle.toFixed(3).padStart(9)} ${unit(name).padEnd(5)}` +
            ` best ${top.toFixed(3)}`,
        ),
      ],
      results,
      ratios: {},
      plots: {
        ceiling: barChart(
          'Peaks of this machine, 10^12 operations per second',
          results
            .filter(({ name }) => name !== 'read')
            .map(({ name, median: value }) => ({ label: name, value })),
        ),
      },
    };
  } finally {
    await ceiling.close();
  }
}

export const ceilingScenario: Scenario = {
  name: 'ceiling',
  summary: 'memory bandwidth and arithmetic peaks of this machine (--threads, --rounds)',
  run,
};
