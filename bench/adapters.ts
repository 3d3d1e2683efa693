/**
 * How many adapters are registered should not matter: requests over 1,000 adapters by Zipf's law,
 * cold ones loaded on the way, against requests over 5, the same number at a time. And many adapters
 * in one batch against the same requests one adapter after the other.
 */
import { mkdtemp, open, rm } from 'node:fs/promises';
import path from 'node:path';
import { synthesizeAdapters } from '../src/importer/index.ts';
import { promptOf, request } from './batch.ts';
import { Ceiling } from './ceiling.ts';
import { TARGETS } from './checkpoints.ts';
import { type Contender, inTurn, measurement, ratioLines, table } from './in-turn.ts';
import { BenchModel, formatOf, MODEL_OPTIONS } from './model.ts';
import { tokensChart } from './plot.ts';
import { numberOption, parse, type Scenario, type ScenarioResult } from './scenario.ts';
import { pairedRatio } from './statistics.ts';
import { ZipfSource } from './zipf-source.ts';

const OPTIONS = {
  ...MODEL_OPTIONS,
  registered: numberOption(1000),
  few: numberOption(5),
  slots: numberOption(64),
  rank: numberOption(16),
  exponent: numberOption(1),
  /** Requests that run at a time. */
  clients: numberOption(16),
  requests: numberOption(64),
  prompt: numberOption(16),
  tokens: numberOption(16),
  rounds: numberOption(5),
  seed: numberOption(1),
} as const;

type Values = ReturnType<typeof parse<typeof OPTIONS>>;

const nameOf = (i: number) => `a${i}`;

/** Adapters made of random numbers; the others are these with some elements of their own. */
const SYNTHESIZED = 16;

/**
 * Makes the i-th adapter's weights differ from those of every other: the first two elements count,
 * as bfloat16 from 2^-7 on. Files that were the same would be stored once.
 */
async function number(folder: string, i: number): Promise<void> {
  const file = await open(path.join(folder, 'adapter_model.safetensors'), 'r+');
  try {
    const head = Buffer.alloc(8);
    await file.read(head, 0, 8, 0);
    const elements = Buffer.alloc(4);
    elements.writeUInt16LE(0x3c00 + (i % 256), 0);
    elements.writeUInt16LE(0x3c00 + Math.floor(i / 256), 2);
    await file.write(elements, 0, 4, 8 + Number(head.readBigUInt64LE()));
  } finally {
    await file.close();
  }
}

/** Registers adapters one after the other and forgets what was written for it. */
async function register(model: BenchModel, count: number, values: Values): Promise<void> {
  const folder = await mkdtemp(path.join(values.dir, 'register-'));
  try {
    const made = await synthesizeAdapters(model.dir, folder, {
      count: Math.min(count, SYNTHESIZED),
      ranks: [values.rank],
      targets: TARGETS,
      seed: values.seed,
      dtype: 'BF16',
    });
    for (let i = 0; i < count; i++) {
      const { dir } = made[i % made.length]!;
      await number(dir, i);
      await model.stack.put(nameOf(i), dir);
      if ((i + 1) % 100 === 0) console.error(`${i + 1} of ${count} adapters are registered`);
    }
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** Requests in a closed loop, adapters by Zipf's law; gives generated tokens per second. */
async function closedLoop(model: BenchModel, names: ZipfSource, values: Values): Promise<number> {
  const { clients, requests, prompt, tokens } = values;
  let next = 0;
  const start = performance.now();
  const client = async (): Promise<void> => {
    for (let i = next++; i < requests; i = next++) {
      const ids = promptOf(i, prompt, model.config.vocabSize);
      await request(model.stack, nameOf(names.next()), ids, tokens, () => undefined);
    }
  };
  await Promise.all(Array.from({ length: clients }, client));
  return (requests * tokens * 1000) / (performance.now() - start);
}

/** The first requests' adapters one after the other: what a server without mixed batches does. */
async function oneAfterTheOther(model: BenchModel, values: Values): Promise<number> {
  const { clients, prompt, tokens, few } = values;
  const start = performance.now();
  for (let i = 0; i < clients; i++) {
    const ids = promptOf(i, prompt, model.config.vocabSize);
    await request(model.stack, nameOf(i % few), ids, tokens, () => undefined);
  }
  return (clients * tokens * 1000) / (performance.now() - start);
}

async function run(args: readonly string[]): Promise<ScenarioResult> {
  const values = parse(args, OPTIONS);
  const format = formatOf(values.weights);
  const length = values.prompt + values.tokens;
  const capacity = {
    slots: values.slots,
    tokens: length * values.clients * 2,
    length: length + 16,
  };
  const ceiling = await Ceiling.open(values.threads);
  const models: BenchModel[] = [];
  try {
    const many = await BenchModel.open(values, format, capacity);
    models.push(many);
    const few = await BenchModel.open(values, format, capacity);
    models.push(few);
    await register(few, values.few, values);
    await register(many, values.registered, values);
    const zipf = (count: number) => new ZipfSource(count, values.exponent, values.seed);
    const [overAll, overFew, overFewOfMany] = [
      zipf(values.registered),
      zipf(values.few),
      zipf(values.few),
    ];
    const contenders: Contender[] = [
      { name: `${values.few} registered`, run: () => closedLoop(few, overFew, values) },
      { name: `${values.registered} registered`, run: () => closedLoop(many, overAll, values) },
      {
        name: `${values.few} of ${values.registered}`,
        run: () => closedLoop(many, overFewOfMany, values),
      },
      { name: 'one after the other', run: () => oneAfterTheOther(few, values) },
    ];
    const before = loadsOf(many);
    const rates = await inTurn(contenders, values.rounds, ceiling);
    const loads = loadsOf(many) - before;
    const [small, large, part, apart] = contenders.map(({ name }) => rates.get(name)!) as [
      readonly number[],
      readonly number[],
      readonly number[],
      readonly number[],
    ];
    const ratios = {
      manyRegisteredOverFew: pairedRatio(large, small),
      fewOfManyOverFew: pairedRatio(part, small),
      togetherOverApart: pairedRatio(small, apart),
    };
    const results = contenders.map(({ name }) => measurement(name, rates));
    return {
      machine: ceiling.machine(many.isa),
      lines: [
        `${values.model} ${format}, ${values.clients} requests at a time, ${values.slots} slots, ` +
          `rank ${values.rank}; ${loads} loads of cold adapters among ` +
          `${values.requests * (values.rounds + 1)} requests over all`,
        ...table(results),
        ...ratioLines(ratios),
      ],
      results: [...results, { name: 'loads', count: loads }],
      ratios,
      plots: {
        tokens: tokensChart('By number of registered adapters', results),
      },
    };
  } finally {
    for (const model of models) await model.close();
    await ceiling.close();
  }
}

function loadsOf(model: BenchModel): number {
  return model.stack.events.filter(({ kind }) => kind === 'loaded').length;
}

export const adaptersScenario: Scenario = {
  name: 'adapters',
  summary: '1,000 registered adapters against 5; one batch against one adapter at a time',
  run,
};
