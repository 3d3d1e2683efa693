/** What the process holds in memory: the model, each adapter, the cache; anonymous and mapped. */
import { readFileSync } from 'node:fs';
import { TARGETS } from './checkpoints.ts';
import { BenchModel, formatOf, LORA_ELEMENT_BYTES, MODEL_OPTIONS } from './model.ts';
import { barChart } from './plot.ts';
import { numberOption, parse, type Scenario, type ScenarioResult } from './scenario.ts';
import { adapterBytes } from './work.ts';

const OPTIONS = {
  ...MODEL_OPTIONS,
  adapters: numberOption(16),
  rank: numberOption(16),
  /** Tokens the cache has room for. */
  cache: numberOption(8192),
} as const;

const MB = 1e6;

interface Resident {
  readonly anonymous: number;
  readonly file: number;
}

/** Resident bytes of this process, from /proc/self/status. */
function resident(): Resident {
  const status = readFileSync('/proc/self/status', 'utf8');
  const field = (name: string) =>
    Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(status)![1]);
  return { anonymous: field('RssAnon') * 1024, file: field('RssFile') * 1024 };
}

const delta = (before: Resident, after: Resident) => ({
  anonymousMB: (after.anonymous - before.anonymous) / MB,
  mappedMB: (after.file - before.file) / MB,
});

async function run(args: readonly string[]): Promise<ScenarioResult> {
  const values = parse(args, OPTIONS);
  const format = formatOf(values.weights);
  const start = resident();
  const model = await BenchModel.open(values, format, {
    slots: values.adapters,
    tokens: values.cache,
    length: 64,
  });
  try {
    const shape = { promptTokens: 16, outputTokens: 2 };
    const opened = resident();
    await model.runBatch([undefined], shape);
    const warm = resident();
    const names = await model.addAdapters({ count: values.adapters, ranks: [values.rank] });
    const registered = resident();
    await model.runBatch(
      names.map(({ name }) => name),
      shape,
    );
    const loaded = resident();
    const { kvBytes: cacheBytes, loadMs } = model.stack.session.info;
    const perAdapter = delta(registered, loaded);
    const stored = adapterBytes(
      model.config,
      TARGETS,
      values.rank,
      LORA_ELEMENT_BYTES[model.loraDtype],
    );
    const results = [
      { name: 'opening the model', ...delta(start, opened), loadMs },
      { name: 'first step', ...delta(opened, warm) },
      { name: 'cache', anonymousMB: cacheBytes / MB, mappedMB: 0, tokens: values.cache },
      {
        name: 'each adapter in a slot',
        anonymousMB: perAdapter.anonymousMB / values.adapters,
        mappedMB: perAdapter.mappedMB / values.adapters,
        elementsMB: stored / MB,
      },
      { name: 'all', ...delta({ anonymous: 0, file: 0 }, loaded) },
    ];
    const ratios = {
      // Above 1: weights are held more than once, or something else is held.
      modelOverWeights:
        ((results[0]!.anonymousMB + results[0]!.mappedMB + results[1]!.mappedMB) * MB -
          cacheBytes) /
        model.weightBytes,
      adapterOverElements: (results[3]!.anonymousMB * MB) / stored,
      cacheBytesPerToken: model.kvBytesPerToken,
    };
    return {
      lines: [
        `${values.model} ${format}: weights of ${(model.weightBytes / MB).toFixed(0)} MB, ` +
          `${values.adapters} adapters of rank ${values.rank}, a cache of ${values.cache} tokens`,
        ...results.map(
          ({ name, anonymousMB, mappedMB }) =>
            `${name.padEnd(24)}${anonymousMB.toFixed(1).padStart(9)} MB anonymous ` +
            `${mappedMB.toFixed(1).padStart(9)} MB mapped`,
        ),
        `model over its weights   ${ratios.modelOverWeights.toFixed(2)}`,
        `adapter over its elements ${ratios.adapterOverElements.toFixed(2)}`,
      ],
      results,
      ratios,
      plots: {
        parts: barChart(
          'Resident memory, MB',
          results.map(({ name, anonymousMB, mappedMB }) => ({
            label: name,
            value: Math.max(0, anonymousMB + mappedMB),
          })),
        ),
      },
    };
  } finally {
    await model.close();
  }
}

export const memoryScenario: Scenario = {
  name: 'memory',
  summary: 'resident memory by part: weights, cache, each adapter (--weights, --adapters, ...)',
  run,
};
