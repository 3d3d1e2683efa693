/**
 * Thousands of token streams for minutes, server-sent events and WebSockets mixed, with slow readers
 * and clients that vanish: tokens that were lost or doubled, memory, and what is left at the end.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { setPriority, tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { readMetric } from '../scripts/metrics.ts';
import { ROOT, type StartedServer, startServer } from '../scripts/process.ts';
import { floodModel } from '../test/support/flood.ts';
import type { FloodOptions, FloodReport } from '../test/support/flood-stream.ts';
import { lineChart } from './plot.ts';
import { numberOption, parse, type Scenario, type ScenarioResult, UsageError } from './scenario.ts';

const OPTIONS = {
  /** Streams at once: half over server-sent events, half on WebSockets. */
  streams: numberOption(2000),
  'per-socket': numberOption(10),
  seconds: numberOption(180),
  tokens: numberOption(64),
  'slow-tokens': numberOption(300),
  'stop-ms': numberOption(10_000),
  questions: numberOption(18),
  adapters: numberOption(8),
  /** Sequences in one step; the other streams wait for their turn. */
  sequences: numberOption(512),
  'buffer-kb': numberOption(64),
  seed: numberOption(1),
} as const;

type Values = ReturnType<typeof parse<typeof OPTIONS>>;

const NODE_OPTIONS = '--max-old-space-size=256';
const SAMPLE_MS = 5000;
const MIB = 2 ** 20;

/** Connections of the run, and what a process has open besides. */
const FILES_BESIDES = 256;

async function checkFileLimit(streams: number): Promise<void> {
  const limits = await readFile('/proc/self/limits', 'utf8');
  const [, soft] = /^Max open files\s+(\d+)/m.exec(limits) ?? [];
  if (soft !== undefined && Number(soft) < streams + FILES_BESIDES) {
    throw new UsageError(
      `${streams} streams need ${streams + FILES_BESIDES} open files, but the limit is ${soft}; ` +
        'raise it with ulimit -n',
    );
  }
}

function floodOptions(values: Values, url: string, models: readonly string[]): FloodOptions {
  const sse = Math.floor(values.streams / 2);
  return {
    url,
    models,
    sse,
    sockets: Math.ceil((values.streams - sse) / values['per-socket']),
    perSocket: values['per-socket'],
    tokens: values.tokens,
    slowTokens: values['slow-tokens'],
    stopMs: values['stop-ms'],
    questions: values.questions,
    seconds: values.seconds,
    rounds: Number.MAX_SAFE_INTEGER,
    seed: values.seed,
  };
}

interface Sample {
  readonly seconds: number;
  readonly residentMb: number;
  readonly running: number;
  readonly delayP99Ms: number;
  readonly delayMaxMs: number;
}

async function sample(server: StartedServer, startMs: number): Promise<Sample> {
  const text = await (await fetch(`${server.url}/metrics`)).text();
  return {
    seconds: (performance.now() - startMs) / 1000,
    residentMb: readMetric(text, 'loramux_process_resident_memory_bytes') / MIB,
    running: readMetric(text, 'loramux_num_requests_running'),
    delayP99Ms: readMetric(text, 'loramux_nodejs_eventloop_lag_p99_seconds') * 1000,
    delayMaxMs: readMetric(text, 'loramux_nodejs_eventloop_lag_max_seconds') * 1000,
  };
}

/** Runs the clients and reads the server's metrics meanwhile. */
async function flood(server: StartedServer, options: FloodOptions) {
  const main = fileURLToPath(new URL('flood-load.ts', import.meta.url));
  const child = spawn(process.execPath, ['--import', 'tsx', main, JSON.stringify(options)], {
    cwd: ROOT,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  // Clients run elsewhere in life; here they give way to the server they load.
  setPriority(child.pid!, 10);
  let text = '';
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
    text += chunk;
  });
  const closed = once(child, 'close') as Promise<[number | null]>;
  let over = false;
  void closed.then(() => {
    over = true;
  });
  const startMs = performance.now();
  const samples: Sample[] = [];
  while (!over) {
    samples.push(await sample(server, startMs));
    await Promise.race([sleep(SAMPLE_MS), closed]);
  }
  const [code] = await closed;
  if (code !== 0) throw new Error(`the clients ended with ${code}`);
  return { report: JSON.parse(text) as FloodReport, samples };
}

/** What the server still has once nothing runs. */
async function leftOver(server: StartedServer) {
  for (;;) {
    const health = (await (await fetch(`${server.url}/health`)).json()) as {
      engine: { running: number; waiting: number; kv_blocks_used: number };
    };
    const { running, waiting, kv_blocks_used: blocks } = health.engine;
    if (running + waiting > 0) {
      await sleep(100);
      continue;
    }
    const list = (await (await fetch(`${server.url}/v1/adapters`)).json()) as {
      data: { residency: { references: number } }[];
    };
    const references = list.data.reduce((sum, { residency }) => sum + residency.references, 0);
    return { blocks, references };
  }
}

async function run(given: readonly string[]): Promise<ScenarioResult> {
  const values = parse(given, OPTIONS);
  await checkFileLimit(values.streams);
  const folder = await mkdtemp(path.join(tmpdir(), 'loramux-flood-'));
  const { modelDir, adapters } = await floodModel(folder, values.adapters);
  const args = [
    ...['--model', modelDir, '--port', '0', '--data-dir', path.join(folder, 'data')],
    ...['--log-level', 'error', '--max-loras', String(Math.max(1, values.adapters))],
    ...['--max-sequences', String(values.sequences)],
    ...['--max-tokens-per-step', String(Math.max(1024, 2 * values.sequences))],
    ...['--max-logit-rows-per-step', String(Math.max(256, values.sequences))],
    ...['--stream-buffer-kb', String(values['buffer-kb'])],
    // Clients that get no processor for seconds are not what is measured.
    ...['--headers-timeout-ms', '120000'],
    ...adapters.flatMap(({ name, dir }) => ['--adapter', `${name}=${dir}`]),
  ];
  // A bounded heap: what grows in it is what is not released.
  const server = await startServer(args, { env: { NODE_OPTIONS } });
  try {
    const options = floodOptions(values, server.url, [
      'flood',
      ...adapters.map(({ name }) => name),
    ]);
    const startMs = performance.now();
    const { report, samples } = await flood(server, options);
    const seconds = (performance.now() - startMs) / 1000;
    const left = await leftOver(server);
    const { errors, ...counts } = report;
    const quarter = samples.slice(Math.floor(samples.length / 4));
    const figures = {
      ...counts,
      otherErrors: Object.values(errors).reduce((sum, count) => sum + count, 0),
      seconds,
      tokensPerSecond: report.tokens / seconds,
      residentMbEarly: Math.max(
        ...quarter.slice(0, Math.ceil(quarter.length / 3)).map((s) => s.residentMb),
      ),
      residentMbLate: Math.min(
        ...quarter.slice(-Math.ceil(quarter.length / 3)).map((s) => s.residentMb),
      ),
      residentMbMax: Math.max(...samples.map((s) => s.residentMb)),
      eventLoopDelayP99Ms: Math.max(...quarter.map((s) => s.delayP99Ms)),
      eventLoopDelayMaxMs: Math.max(...quarter.map((s) => s.delayMaxMs)),
      blocksLeft: left.blocks,
      referencesLeft: left.references,
    };
    return {
      lines: [
        `${values.streams} streams, a tenth slow, a tenth vanish, ${values.seconds} s`,
        ...Object.entries(figures).map(([name, value]) => `${name.padEnd(22)}${value.toFixed(1)}`),
        ...(figures.otherErrors > 0 ? [`errors ${JSON.stringify(errors)}`] : []),
        `resident MiB over time: ${samples.map((s) => s.residentMb.toFixed(0)).join(' ')}`,
      ],
      results: [{ name: 'flood', ...figures }],
      ratios: { tokensLostOrDoubled: report.lost + report.doubled + report.wrong + report.cut },
      plots: {
        memory: lineChart('Memory under the flood', { x: 'seconds', y: 'MiB' }, [
          { label: 'resident', points: samples.map((s) => [s.seconds, s.residentMb] as const) },
        ]),
      },
    };
  } finally {
    await server.stop();
    await rm(folder, { recursive: true, force: true });
  }
}

export const floodScenario: Scenario = {
  name: 'flood',
  summary:
    '2,000 streams for minutes, slow and vanishing readers: lost tokens, memory (--seconds, ...)',
  run,
};
