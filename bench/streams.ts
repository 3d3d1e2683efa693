/**
 * The server under 64 concurrent token streams over 16 adapters and the base, a third of them cut
 * off midway: how late the server's event loop runs, and what the engine costs outside its native
 * calls. Two models: the tiny demo model, whose steps are so short that JavaScript is the bottleneck,
 * and (with --model) any Hugging Face directory or synthetic shape.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { setPriority, tmpdir } from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { Agent, request } from 'undici';
import { DEMO_MODEL_DIR } from '../examples/modular-arithmetic/tasks.ts';
import { readMetric } from '../scripts/metrics.ts';
import { startServer } from '../scripts/process.ts';
import { synthesizeAdapters } from '../src/importer/index.ts';
import type { Scenario, ScenarioResult } from './scenario.ts';

const OPTIONS = {
  model: { type: 'string', default: DEMO_MODEL_DIR },
  streams: { type: 'string', default: '64' },
  adapters: { type: 'string', default: '16' },
  tokens: { type: 'string', default: '40' },
  rounds: { type: 'string', default: '10' },
} as const;

interface Load {
  url: string;
  baseName: string;
  adapters: readonly string[];
  streams: number;
  tokens: number;
}

async function oneStream(load: Load, i: number, agent: Agent): Promise<number> {
  const abort = new AbortController();
  const cutAfter = i % 3 === 2 ? Math.floor(load.tokens / 2) : Number.POSITIVE_INFINITY;
  const model = [load.baseName, ...load.adapters][i % (load.adapters.length + 1)]!;
  const response = await request(`${load.url}/v1/completions`, {
    dispatcher: agent,
    method: 'POST',
    signal: abort.signal,
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({
      model,
      prompt: Array.from({ length: 16 }, (_, k) => 1 + ((i * 7 + k * 3) % 30)),
      max_tokens: load.tokens,
      ignore_eos: true,
      temperature: 1,
      seed: i,
      stream: true,
    }),
  });
  if (response.statusCode !== 200) throw new Error(await response.body.text());
  let events = 0;
  try {
    for await (const chunk of response.body) {
      events += String(chunk).split('data: {').length - 1;
      if (events >= cutAfter) abort.abort();
    }
  } catch (error) {
    if (!abort.signal.aborted) throw error;
  }
  return events;
}

async function run(args: readonly string[]): Promise<ScenarioResult> {
  const { values } = parseArgs({ args: [...args], options: OPTIONS });
  const streams = Number(values.streams);
  const rounds = Number(values.rounds);
  const folder = await mkdtemp(path.join(tmpdir(), 'loramux-bench-'));
  const adapters = await synthesizeAdapters(values.model, path.join(folder, 'adapters'), {
    count: Number(values.adapters),
    ranks: [8, 16],
  });
  const server = await startServer([
    '--model',
    values.model,
    '--port',
    '0',
    '--data-dir',
    path.join(folder, 'data'),
    '--log-level',
    'error',
    '--max-loras',
    values.adapters,
    ...adapters.flatMap(({ name, dir }) => ['--adapter', `${name}=${dir}`]),
  ]);
  // Clients run elsewhere in life; here they give way to the server they measure.
  setPriority(10);
  const agent = new Agent({ connections: streams });
  try {
    const models = (await (await fetch(`${server.url}/v1/models`)).json()) as {
      data: { id: string; parent: string | null }[];
    };
    const load: Load = {
      url: server.url,
      baseName: models.data.find(({ parent }) => parent === null)!.id,
      adapters: adapters.map(({ name }) => name),
      streams,
      tokens: Number(values.tokens),
    };
    const round = () =>
      Promise.all(Array.from({ length: streams }, (_, i) => oneStream(load, i, agent)));
    const scrape = async () => (await fetch(`${server.url}/metrics`)).text();
    await round();
    // Reading the metrics begins a new histogram of the event loop's delay.
    const before = await scrape();
    const started = performance.now();
    let events = 0;
    for (let i = 0; i < rounds; i++) events += (await round()).reduce((sum, n) => sum + n, 0);
    const seconds = (performance.now() - started) / 1000;
    const after = await scrape();
    const delta = (name: string) => readMetric(after, name) - readMetric(before, name);
    const steps = delta('loramux_engine_steps_total');
    const figures = {
      tokensPerSecond: events / seconds,
      meanBatchSize: delta('loramux_engine_step_sequences_total') / steps,
      meanAdaptersPerStep: delta('loramux_engine_step_adapters_total') / steps,
      eventLoopDelayP50Ms: readMetric(after, 'loramux_nodejs_eventloop_lag_p50_seconds') * 1000,
      eventLoopDelayP99Ms: readMetric(after, 'loramux_nodejs_eventloop_lag_p99_seconds') * 1000,
      eventLoopDelayMaxMs: readMetric(after, 'loramux_nodejs_eventloop_lag_max_seconds') * 1000,
      outsideNativeMsPerStep: (delta('loramux_engine_outside_native_seconds_total') * 1000) / steps,
      gapMsPerStep: (delta('loramux_engine_step_gap_seconds_total') * 1000) / steps,
      nativeMsPerStep: (delta('loramux_engine_native_seconds_total') * 1000) / steps,
    };
    return {
      lines: [
        `${path.basename(values.model)}, ${streams} streams, ${adapters.length} adapters and the base`,
        ...Object.entries(figures).map(([name, value]) => `${name.padEnd(26)}${value.toFixed(3)}`),
      ],
      results: [{ name: 'streams', ...figures }],
      ratios: {},
    };
  } finally {
    await agent.close();
    await server.stop();
    await rm(folder, { recursive: true, force: true });
  }
}

export const streamsScenario: Scenario = {
  name: 'streams',
  summary: 'event-loop delay and step overhead under 64 streams, a third cut off (--model, ...)',
  run,
};
