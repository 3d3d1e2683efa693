/**
 * Several servers on one Redis: how long after an adapter was pushed to one do the others answer
 * with it.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { DEMO_MODEL_DIR } from '../examples/modular-arithmetic/tasks.ts';
import { type StartedServer, startServer } from '../scripts/process.ts';
import { synthesizeAdapters } from '../src/importer/index.ts';
import { startRedis } from '../test/support/redis.ts';
import { pushFolder } from './push.ts';
import { median, type Scenario, type ScenarioResult } from './scenario.ts';

const OPTIONS = {
  model: { type: 'string', default: DEMO_MODEL_DIR },
  replicas: { type: 'string', default: '3' },
  pushes: { type: 'string', default: '100' },
  limit: { type: 'string', default: '1000' },
} as const;

/** Milliseconds until the server answers with the generation. */
async function untilKnown(url: string, model: string, generation: string): Promise<number> {
  const startMs = performance.now();
  for (;;) {
    const response = await fetch(`${url}/v1/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ model, prompt: [1, 2, 3], max_tokens: 1 }),
    });
    const body = (await response.json()) as { adapter_generation?: string };
    const tookMs = performance.now() - startMs;
    if (body.adapter_generation === generation) return tookMs;
    if (tookMs > 30_000) throw new Error(`${url} never knew ${model}: ${JSON.stringify(body)}`);
  }
}

async function run(args: readonly string[]): Promise<ScenarioResult> {
  const { values } = parseArgs({ args: [...args], options: OPTIONS });
  const pushes = Number(values.pushes);
  const limitMs = Number(values.limit);
  const folder = await mkdtemp(path.join(tmpdir(), 'loramux-bench-'));
  const redis = await startRedis();
  const servers: StartedServer[] = [];
  try {
    const adapters = await synthesizeAdapters(values.model, folder, { count: pushes, ranks: [8] });
    for (let i = 0; i < Number(values.replicas); i++) {
      const dataDir = path.join(folder, `data-${i}`);
      servers.push(
        await startServer([
          ...['--model', values.model, '--port', '0', '--data-dir', dataDir],
          ...['--redis', redis.url, '--log-level', 'error'],
        ]),
      );
    }
    const times: number[] = [];
    for (const [i, { dir }] of adapters.entries()) {
      const to = servers[i % servers.length]!;
      // Half the pushes replace one name, half register a new one.
      const name = i % 2 === 0 ? 'shared' : `adapter-${i}`;
      const generation = await pushFolder(to.url, name, dir);
      const others = servers.filter((server) => server !== to);
      times.push(
        ...(await Promise.all(others.map(({ url }) => untilKnown(url, name, generation)))),
      );
    }
    const figures = {
      pushes,
      withinLimit: times.filter((ms) => ms < limitMs).length / times.length,
      medianMs: median(times),
      largestMs: Math.max(...times),
    };
    return {
      lines: [
        `${servers.length} servers, ${pushes} pushes, answered elsewhere within ${limitMs} ms`,
        ...Object.entries(figures).map(([name, value]) => `${name.padEnd(16)}${value.toFixed(3)}`),
      ],
      results: [{ name: 'fleet', ...figures }],
      ratios: {},
    };
  } finally {
    await Promise.all(servers.map((server) => server.stop()));
    await redis.stop();
    await rm(folder, { recursive: true, force: true });
  }
}

export const fleetScenario: Scenario = {
  name: 'fleet',
  summary: 'servers on one Redis: push to one, answered by the others after how long',
  run,
};
