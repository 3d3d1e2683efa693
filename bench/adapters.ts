/**
 * Many adapters in one batch against the same requests one adapter at a time: a synthetic model of
 * a real shape, one request per adapter, all seven modules adapted. Both ways run in turn on one
 * server state; medians and their ratio.
 */
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { synthesizeAdapters, synthesizeModel } from '../src/importer/index.ts';
import { type Answer, type Ask, Stack } from '../test/support/stack.ts';
import { median, type Scenario, type ScenarioResult } from './scenario.ts';

const OPTIONS = {
  model: { type: 'string', default: 'llama-1.1b' },
  adapters: { type: 'string', default: '16' },
  rank: { type: 'string', default: '16' },
  prompt: { type: 'string', default: '32' },
  tokens: { type: 'string', default: '16' },
  rounds: { type: 'string', default: '3' },
  /** Keeps the synthetic checkpoint here between runs. */
  dir: { type: 'string' },
} as const;

async function prepare(model: string, count: number, rank: number, dir: string) {
  const modelDir = path.join(dir, model);
  const adaptersDir = path.join(dir, `${model}-adapters-${count}-r${rank}`);
  await mkdir(dir, { recursive: true });
  if (!existsSync(path.join(modelDir, 'model.safetensors'))) {
    console.error(`writing ${model} with random weights ...`);
    await rm(modelDir, { recursive: true, force: true });
    await synthesizeModel(model, modelDir, { dtype: 'F32' });
  }
  await rm(adaptersDir, { recursive: true, force: true });
  const adapters = await synthesizeAdapters(modelDir, adaptersDir, { count, ranks: [rank] });
  return { modelDir, adapters };
}

async function run(args: readonly string[]): Promise<ScenarioResult> {
  const { values } = parseArgs({ args: [...args], options: OPTIONS });
  const [count, rank, promptTokens, maxTokens, rounds] = [
    values.adapters,
    values.rank,
    values.prompt,
    values.tokens,
    values.rounds,
  ].map(Number) as [number, number, number, number, number];
  const dir = values.dir ?? (await mkdtemp(path.join(tmpdir(), 'loramux-bench-')));
  const { modelDir, adapters } = await prepare(values.model, count, rank, dir);
  const stack = await Stack.open(modelDir, {
    maxSlots: count,
    maxAdapterBytes: 8 * 1024 ** 3,
    // Each way computes everything itself.
    engine: { prefixCaching: false, numBlocks: 1024, maxModelLen: 1024 },
  });
  try {
    for (const { name, dir: folder } of adapters) await stack.put(name, folder);
    const asks = adapters.map(
      ({ name }, i): Ask => ({
        prompt: Array.from({ length: promptTokens }, (_, k) => 300 + ((i * 131 + k * 17) % 20_000)),
        adapter: name,
        sampling: { maxTokens, logprobs: undefined },
      }),
    );
    await stack.askAll(asks.map((ask) => ({ ...ask, sampling: { maxTokens: 1 } })));
    const together: number[] = [];
    const apart: number[] = [];
    const tokens = count * maxTokens;
    for (let round = 0; round < rounds; round++) {
      const a = performance.now();
      const batched = await stack.askAll(asks);
      const b = performance.now();
      const alone: Answer[] = [];
      for (const ask of asks) alone.push(await stack.ask(ask).answer);
      const c = performance.now();
      together.push((tokens * 1000) / (b - a));
      apart.push((tokens * 1000) / (c - b));
      const same = batched.filter((x, i) => String(x.tokens) === String(alone[i]!.tokens)).length;
      console.error(
        `round ${round + 1}: ${together[round]!.toFixed(1)} tokens/s together, ` +
          `${apart[round]!.toFixed(1)} apart, ${same}/${count} answers identical`,
      );
    }
    const ratio = median(together) / median(apart);
    return {
      lines: [
        `${values.model}, ${count} adapters of rank ${rank}, ${promptTokens} prompt and ` +
          `${maxTokens} output tokens each, ${stack.session.info.isa}`,
        `all in one batch:        ${median(together).toFixed(2)} tokens/s`,
        `one adapter at a time:   ${median(apart).toFixed(2)} tokens/s`,
        `ratio:                   ${ratio.toFixed(2)}`,
      ],
      results: [
        { name: 'together', tokensPerSecond: median(together) },
        { name: 'oneAdapterAtATime', tokensPerSecond: median(apart) },
      ],
      ratios: { togetherOverApart: ratio },
    };
  } finally {
    await stack.close();
    if (values.dir === undefined) await rm(dir, { recursive: true, force: true });
  }
}

export const adaptersScenario: Scenario = {
  name: 'adapters',
  summary: 'many adapters in one batch against one adapter at a time (--model, --adapters, ...)',
  run,
};
