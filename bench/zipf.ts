/**
 * Many registered adapters, few in memory, requests by Zipf's law: how often an adapter is resident
 * when it is asked for, and what a cold one costs its first token.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { Agent, request } from 'undici';
import { DEMO_MODEL_DIR } from '../examples/modular-arithmetic/tasks.ts';
import { readMetric } from '../scripts/metrics.ts';
import { startServer } from '../scripts/process.ts';
import { synthesizeAdapters } from '../src/importer/index.ts';
import { pushFolder } from './push.ts';
import { median, type Scenario, type ScenarioResult } from './scenario.ts';
import { ZipfSource } from './zipf-source.ts';

const OPTIONS = {
  model: { type: 'string', default: DEMO_MODEL_DIR },
  adapters: { type: 'string', default: '2000' },
  slots: { type: 'string', default: '64' },
  exponent: { type: 'string', default: '1' },
  requests: { type: 'string', default: '6000' },
  clients: { type: 'string', default: '16' },
  tokens: { type: 'string', default: '8' },
  seed: { type: 'string', default: '1' },
} as const;

/** Uploads at the same time. */
const PUSHES = 4;

interface Asked {
  /** Milliseconds to the first token. */
  readonly firstTokenMs: number;
  readonly failed: string | undefined;
}

async function ask(url: string, agent: Agent, model: string, tokens: number): Promise<Asked> {
  const startMs = performance.now();
  const response = await request(`${url}/v1/completions`, {
    dispatcher: agent,
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({
      model,
      prompt: [1, 2, 3, 4, 5, 6, 7, 8],
      max_tokens: tokens,
      ignore_eos: true,
      stream: true,
    }),
  });
  let firstTokenMs = 0;
  let text = '';
  for await (const chunk of response.body) {
    if (firstTokenMs === 0) firstTokenMs = performance.now() - startMs;
    text += String(chunk);
  }
  const sound = response.statusCode === 200 && text.endsWith('data: [DONE]\n\n');
  const failed = sound && !text.includes('"error"') ? undefined : text.slice(0, 300);
  return { firstTokenMs, failed };
}

/** Runs `work(i)` for i below `count`, `width` at a time. */
async function inParallel(count: number, width: number, work: (i: number) => Promise<void>) {
  let next = 0;
  await Promise.all(
    Array.from({ length: width }, async () => {
      for (let i = next++; i < count; i = next++) await work(i);
    }),
  );
}

async function run(args: readonly string[]): Promise<ScenarioResult> {
  const { values } = parseArgs({ args: [...args], options: OPTIONS });
  const [count, requests, clients] = [values.adapters, values.requests, values.clients].map(Number);
  const folder = await mkdtemp(path.join(tmpdir(), 'loramux-bench-'));
  const adapters = await synthesizeAdapters(values.model, path.join(folder, 'adapters'), {
    count: count!,
    ranks: [8],
  });
  const server = await startServer([
    ...['--model', values.model, '--port', '0', '--data-dir', path.join(folder, 'data')],
    ...['--log-level', 'error', '--max-loras', values.slots, '--host-cache-mb', '0'],
  ]);
  const agent = new Agent({ connections: clients! });
  try {
    await inParallel(count!, PUSHES, async (i) => {
      const { name, dir } = adapters[i]!;
      await pushFolder(server.url, name, dir);
    });
    const scrape = async () => (await fetch(`${server.url}/metrics`)).text();
    // Starts threads, and makes the series of loads be there.
    await ask(server.url, agent, adapters[0]!.name, 1);
    const zipf = new ZipfSource(count!, Number(values.exponent), Number(values.seed));
    const before = await scrape();
    const loadsOf = (text: string) => readMetric(text, 'loramux_adapter_loads_total');
    const errors: string[] = [];
    const startMs = performance.now();
    await inParallel(requests!, clients!, async () => {
      const { name } = adapters[zipf.next()]!;
      const { failed } = await ask(server.url, agent, name, Number(values.tokens));
      if (failed !== undefined) errors.push(failed);
    });
    const seconds = (performance.now() - startMs) / 1000;
    const loads = loadsOf(await scrape()) - loadsOf(before);
    // One request at a time, so that its wait is the load's and nobody else's.
    const times = { cold: [] as number[], warm: [] as number[] };
    for (let i = 0; i < 50; i++) {
      const { name } = adapters[count! - 1 - i]!;
      times.cold.push((await ask(server.url, agent, name, 1)).firstTokenMs);
      times.warm.push((await ask(server.url, agent, name, 1)).firstTokenMs);
    }
    const figures = {
      errors: errors.length,
      hitRate: 1 - loads / requests!,
      requestsPerSecond: requests! / seconds,
      coldFirstTokenMs: median(times.cold),
      warmFirstTokenMs: median(times.warm),
    };
    return {
      lines: [
        `${count} adapters, ${values.slots} slots, Zipf(${values.exponent}), ${requests} requests`,
        ...Object.entries(figures).map(([name, value]) => `${name.padEnd(20)}${value.toFixed(3)}`),
        ...errors.slice(0, 3),
      ],
      results: [{ name: 'zipf', ...figures }],
      ratios: { coldOverWarm: figures.coldFirstTokenMs / figures.warmFirstTokenMs },
    };
  } finally {
    await agent.close();
    await server.stop();
    await rm(folder, { recursive: true, force: true });
  }
}

export const zipfScenario: Scenario = {
  name: 'zipf',
  summary: 'thousands of registered adapters, few slots, Zipf requests: hit rate, cold and warm',
  run,
};
