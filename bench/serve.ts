/**
 * The server over HTTP under open-loop load: requests arrive by a Poisson process whatever is still
 * running, adapters by Zipf's law. Time to the first token, time between tokens, throughput.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Agent, request } from 'undici';
import { type StartedServer, startServer } from '../scripts/process.ts';
import { CACHE_DIR, prepareAdapters, prepareModel } from './checkpoints.ts';
import { lineChart } from './plot.ts';
import { numberOption, parse, type Scenario, type ScenarioResult } from './scenario.ts';
import { quantile } from './statistics.ts';
import { ZipfSource } from './zipf-source.ts';

const OPTIONS = {
  model: { type: 'string', default: 'llama-1.1b' },
  /** Passed to the server. */
  weights: { type: 'string' },
  isa: { type: 'string' },
  dir: { type: 'string', default: CACHE_DIR },
  adapters: numberOption(32),
  rank: numberOption(16),
  slots: numberOption(32),
  exponent: numberOption(1),
  /** Requests per second, with commas in between: one run each. */
  rates: { type: 'string', default: '0.5,1,2,4' },
  seconds: numberOption(20),
  prompt: numberOption(64),
  tokens: numberOption(32),
  seed: numberOption(1),
} as const;

type Values = ReturnType<typeof parse<typeof OPTIONS>>;

/** Requests may wait this long before a run is called overloaded. */
const ANSWER_MS_MAX = 300_000;

interface Timed {
  readonly firstMs: number;
  readonly gapsMs: readonly number[];
  readonly tokens: number;
}

async function stream(
  url: string,
  agent: Agent,
  model: string,
  index: number,
  values: Values,
): Promise<Timed> {
  const start = performance.now();
  const response = await request(`${url}/v1/completions`, {
    dispatcher: agent,
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({
      model,
      prompt: Array.from({ length: values.prompt }, (_, k) => 3 + ((index * 131 + k * 17) % 250)),
      max_tokens: values.tokens,
      ignore_eos: true,
      temperature: 0,
      stream: true,
    }),
  });
  if (response.statusCode !== 200) throw new Error(await response.body.text());
  const times: number[] = [];
  for await (const chunk of response.body) {
    const events = String(chunk).split('data: {').length - 1;
    for (let i = 0; i < events; i++) times.push(performance.now());
  }
  return {
    firstMs: times[0]! - start,
    gapsMs: times.slice(1).map((time, i) => time - times[i]!),
    tokens: times.length,
  };
}

/** One run at one rate. The pauses are drawn first, so that every server meets the same arrivals. */
async function load(server: StartedServer, names: readonly string[], rate: number, values: Values) {
  const agent = new Agent({ connections: 1024, headersTimeout: ANSWER_MS_MAX });
  const pauses = new ZipfSource(2 ** 20, 0, values.seed);
  const zipf = new ZipfSource(names.length, values.exponent, values.seed);
  const count = Math.max(1, Math.round(rate * values.seconds));
  const running: Promise<Timed>[] = [];
  const start = performance.now();
  let due = start;
  try {
    for (let i = 0; i < count; i++) {
      // Exponential gaps between arrivals, from a uniform number in (0, 1].
      due += (-Math.log((pauses.next() + 1) / 2 ** 20) / rate) * 1000;
      await sleep(Math.max(0, due - performance.now()));
      running.push(stream(server.url, agent, names[zipf.next()]!, i, values));
    }
    const done = await Promise.all(running);
    const seconds = (performance.now() - start) / 1000;
    const first = done.map(({ firstMs }) => firstMs);
    const gaps = done.flatMap(({ gapsMs }) => gapsMs);
    return {
      name: `${rate} requests/s`,
      rate,
      requests: count,
      tokensPerSecond: done.reduce((sum, { tokens }) => sum + tokens, 0) / seconds,
      firstTokenP50Ms: quantile(first, 0.5),
      firstTokenP99Ms: quantile(first, 0.99),
      betweenTokensP50Ms: quantile(gaps, 0.5),
      betweenTokensP99Ms: quantile(gaps, 0.99),
    };
  } finally {
    await agent.close();
  }
}

async function run(args: readonly string[]): Promise<ScenarioResult> {
  const values = parse(args, OPTIONS);
  const modelDir = await prepareModel(values.model, values.dir);
  const set = { count: values.adapters, ranks: [values.rank] };
  const adapters = await prepareAdapters(modelDir, values.dir, set);
  const folder = await mkdtemp(path.join(values.dir, 'serve-'));
  const server = await startServer([
    ...['--model', modelDir, '--port', '0', '--data-dir', folder, '--log-level', 'error'],
    ...['--max-loras', String(values.slots)],
    ...(values.weights === undefined ? [] : ['--weights', values.weights]),
    ...(values.isa === undefined ? [] : ['--isa', values.isa]),
    ...adapters.flatMap(({ name, dir }) => ['--adapter', `${name}=${dir}`]),
  ]);
  try {
    const names = adapters.map(({ name }) => name);
    await load(server, names, 2, { ...values, seconds: 2 });
    const results: Awaited<ReturnType<typeof load>>[] = [];
    for (const rate of values.rates.split(',').map(Number)) {
      results.push(await load(server, names, rate, values));
    }
    const line = (label: string, field: keyof (typeof results)[number]) => ({
      label,
      points: results.map((result) => [result.rate, result[field] as number] as const),
    });
    return {
      lines: [
        `${values.model}, ${adapters.length} adapters by Zipf's law (${values.exponent}), ` +
          `${values.prompt} prompt and ${values.tokens} output tokens, open loop`,
        ...results.map(
          (r) =>
            `${r.name.padEnd(16)}${r.tokensPerSecond.toFixed(1).padStart(8)} tokens/s, first token ` +
            `${r.firstTokenP50Ms.toFixed(0)} ms (p99 ${r.firstTokenP99Ms.toFixed(0)}), between ` +
            `tokens ${r.betweenTokensP50Ms.toFixed(1)} ms (p99 ${r.betweenTokensP99Ms.toFixed(1)})`,
        ),
      ],
      results,
      ratios: {},
      plots: {
        latency: lineChart('Latency by arrival rate', { x: 'requests per second', y: 'ms' }, [
          line('first token p50', 'firstTokenP50Ms'),
          line('first token p99', 'firstTokenP99Ms'),
          line('between tokens p50', 'betweenTokensP50Ms'),
          line('between tokens p99', 'betweenTokensP99Ms'),
        ]),
        throughput: lineChart(
          'Throughput by arrival rate',
          { x: 'requests per second', y: 'tokens per second' },
          [line('tokens/s', 'tokensPerSecond')],
        ),
      },
    };
  } finally {
    await server.stop();
    await rm(folder, { recursive: true, force: true });
  }
}

export const serveScenario: Scenario = {
  name: 'serve',
  summary: 'the server over HTTP, open-loop arrivals, Zipf adapters (--rates, --seconds, ...)',
  run,
};
