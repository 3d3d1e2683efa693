/**
 * What a JSON schema adds to a token: mean decode steps of a server whose answers all follow a schema,
 * against the same number of free ones, in turn. On the demo's base, whose steps take about a
 * millisecond, and on one of a real shape.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { type StartedServer, startServer } from '../scripts/process.ts';
import { CACHE_DIR, prepareModel } from './checkpoints.ts';
import { median, numberOption, parse, type Scenario, type ScenarioResult } from './scenario.ts';
import { spread } from './statistics.ts';
import { type Step, stepBetween, stepTotals } from './step-time.ts';

const DEMO = fileURLToPath(new URL('../examples/modular-arithmetic/model', import.meta.url));

const OPTIONS = {
  model: { type: 'string', default: 'llama-1.1b' },
  dir: { type: 'string', default: CACHE_DIR },
  sequences: numberOption(16),
  /** Of an answer on the model of a real shape; the demo's have eight times as many. */
  tokens: numberOption(32),
  rounds: numberOption(5),
} as const;

const DEMO_TIMES_LONGER = 8;
/** Turns of each kind before the first that counts; one takes half a second. */
const DEMO_WARM_UPS = 6;

/** Longer than any answer here. */
const SCHEMA = {
  type: 'array',
  minItems: 200,
  items: {
    type: 'object',
    properties: {
      name: { type: 'string' },
      kind: { enum: ['first', 'second', 'third'] },
      value: { type: 'number' },
      tags: { type: 'array', items: { type: 'string' }, minItems: 1, maxItems: 3 },
    },
    required: ['name', 'kind', 'value', 'tags'],
    additionalProperties: false,
  },
};

interface Load {
  readonly sequences: number;
  readonly tokens: number;
  readonly fields: object;
}

/** One turn: all answers together, each of exactly so many tokens. */
async function turn(server: StartedServer, { sequences, tokens, fields }: Load): Promise<Step> {
  const before = await stepTotals(server);
  const answers = Array.from({ length: sequences }, async (_, seed) => {
    const response = await fetch(`${server.url}/v1/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({
        model: 'base',
        prompt: '17 @ 5 =',
        max_tokens: tokens,
        seed,
        ...fields,
      }),
    });
    const { usage } = (await response.json()) as { usage?: { completion_tokens: number } };
    if (usage?.completion_tokens !== tokens) throw new Error(`an answer has other than ${tokens}`);
  });
  await Promise.all(answers);
  return stepBetween(before, await stepTotals(server));
}

async function onModel(
  dir: string,
  load: Omit<Load, 'fields'>,
  { warmUps, rounds }: { warmUps: number; rounds: number },
) {
  const folder = await mkdtemp(path.join(tmpdir(), 'loramux-grammar-'));
  const server = await startServer([
    ...['--model', dir, '--served-model-name', 'base', '--port', '0', '--data-dir', folder],
    ...['--log-level', 'error', '--max-model-len', String(load.tokens + 64)],
  ]);
  const free = { ...load, fields: { ignore_eos: true } };
  const held = { ...load, fields: { guided_json: SCHEMA } };
  const steps: { free: Step[]; held: Step[] } = { free: [], held: [] };
  try {
    // The first one also waits for the grammar, and code is compiled again as it is used more.
    for (let turns = 0; turns < warmUps; turns++) {
      await turn(server, held);
      await turn(server, free);
    }
    for (let round = 0; round < rounds; round++) {
      const turns = [
        async () => steps.free.push(await turn(server, free)),
        async () => steps.held.push(await turn(server, held)),
      ];
      for (const one of round % 2 === 0 ? turns : turns.reverse()) await one();
    }
  } finally {
    await server.stop();
    await rm(folder, { recursive: true, force: true });
  }
  return steps;
}

async function run(args: readonly string[]): Promise<ScenarioResult> {
  const values = parse(args, OPTIONS);
  const { sequences, tokens, rounds } = values;
  const bases = [
    { name: 'demo', dir: DEMO, tokens: tokens * DEMO_TIMES_LONGER, warmUps: DEMO_WARM_UPS },
    { name: values.model, dir: await prepareModel(values.model, values.dir), tokens, warmUps: 1 },
  ];
  const lines: string[] = [];
  const results: ScenarioResult['results'][number][] = [];
  const ratios: Record<string, number> = {};
  for (const base of bases) {
    const steps = await onModel(base.dir, { sequences, tokens: base.tokens }, { ...base, rounds });
    const free = steps.free.map(({ ms }) => ms);
    const held = steps.held.map(({ ms }) => ms);
    const added = median(held.map((ms, i) => ms / free[i]! - 1));
    lines.push(
      `${base.name}: ${sequences} sequences, a step ${median(free).toFixed(2)} ms free, ` +
        `${median(held).toFixed(2)} ms with a schema, ${(added * 100).toFixed(1)} % more`,
    );
    results.push({
      name: `grammar-${base.name}`,
      freeMs: median(free),
      heldMs: median(held),
      spread: spread(free),
      rounds,
    });
    ratios[`added-${base.name}`] = added;
  }
  return { lines, results, ratios };
}

export const grammarScenario: Scenario = {
  name: 'grammar',
  summary: 'what a JSON schema adds to a token, on the demo and on a real shape (--sequences, ...)',
  run,
};
