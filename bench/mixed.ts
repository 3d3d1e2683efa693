/**
 * One decode batch, many mixes of adapters: none, one, as many as rows, mixed ranks, largest rank.
 * Each ratio stands beside the one that the bytes a step must read predict.
 */
import { decodeRate } from './batch.ts';
import { Ceiling } from './ceiling.ts';
import { TARGETS } from './checkpoints.ts';
import { type Contender, inTurn, measurement, ratioLines, table } from './in-turn.ts';
import { BenchModel, formatOf, LORA_ELEMENT_BYTES, MODEL_OPTIONS } from './model.ts';
import { tokensChart } from './plot.ts';
import { numberOption, parse, type Scenario, type ScenarioResult } from './scenario.ts';
import { pairedRatio } from './statistics.ts';
import { adapterBytes } from './work.ts';

const OPTIONS = {
  ...MODEL_OPTIONS,
  sequences: numberOption(16),
  rank: numberOption(16),
  /** Ranks that one batch mixes. */
  ranks: { type: 'string', default: '8,16,32,64' },
  prompt: numberOption(16),
  tokens: numberOption(24),
  rounds: numberOption(7),
} as const;

async function run(args: readonly string[]): Promise<ScenarioResult> {
  const values = parse(args, OPTIONS);
  const { sequences, prompt, tokens } = values;
  const ranks = values.ranks.split(',').map(Number);
  const largest = Math.max(...ranks);
  const format = formatOf(values.weights);
  const shape = { promptTokens: prompt, outputTokens: tokens };
  const length = prompt + tokens;
  const ceiling = await Ceiling.open(values.threads);
  const capacity = { slots: 3 * sequences, tokens: length * sequences, length: length + 16 };
  const models: BenchModel[] = [];
  try {
    const model = await BenchModel.open(values, format, capacity);
    models.push(model);
    const without = await BenchModel.open(values, format, { ...capacity, slots: 0 });
    models.push(without);
    const namesOf = async (mix: readonly number[]) =>
      (await model.addAdapters({ count: sequences, ranks: mix })).map(({ name }) => name);
    const same = await namesOf([values.rank]);
    const mixes: Record<string, (string | undefined)[]> = {
      base: new Array(sequences).fill(undefined),
      oneAdapter: new Array(sequences).fill(same[0]),
      distinctAdapters: same,
      mixedRanks: await namesOf(ranks),
      largestRank: await namesOf([largest]),
    };
    const contenders: Contender[] = Object.entries(mixes).map(([name, rows]) => ({
      name,
      run: async () => decodeRate(await model.runBatch(rows, shape)),
    }));
    contenders.push({
      name: 'baseWithoutLora',
      run: async () => decodeRate(await without.runBatch(mixes['base']!, shape)),
    });
    const rates = await inTurn(contenders, values.rounds, ceiling);

    const adapter = (rank: number) =>
      adapterBytes(model.config, TARGETS, rank, LORA_ELEMENT_BYTES[model.loraDtype]);
    const cache = sequences * (prompt + tokens / 2) * model.kvBytesPerToken;
    const step = (adapters: readonly number[]) =>
      model.weightBytes + cache + adapters.reduce((sum, rank) => sum + adapter(rank), 0);
    const of = (count: number, choose: readonly number[]) =>
      Array.from({ length: count }, (_, i) => choose[i % choose.length]!);
    const bytes: Record<string, number> = {
      base: step([]),
      oneAdapter: step([values.rank]),
      distinctAdapters: step(of(sequences, [values.rank])),
      mixedRanks: step(of(sequences, ranks)),
      largestRank: step(of(sequences, [largest])),
      baseWithoutLora: step([]),
    };
    const ratio = (above: string, below: string) =>
      pairedRatio(rates.get(above)!, rates.get(below)!);
    const predicted = (above: string, below: string) => bytes[below]! / bytes[above]!;
    const distinctOverOne = ratio('distinctAdapters', 'oneAdapter');
    const mixedOverLargest = ratio('mixedRanks', 'largestRank');
    const ratios = {
      distinctOverOne,
      distinctOverOneOfPrediction: distinctOverOne / predicted('distinctAdapters', 'oneAdapter'),
      oneOverBase: ratio('oneAdapter', 'base'),
      loraEnabledOverDisabled: ratio('base', 'baseWithoutLora'),
      mixedRanksOverLargest: mixedOverLargest,
      mixedRanksOfPrediction: mixedOverLargest / predicted('mixedRanks', 'largestRank'),
    };
    const results = contenders.map(({ name }) =>
      measurement(
        name,
        rates,
        (rate) => (bytes[name]! * rate) / sequences / 1e9 / ceiling.value('read')!,
      ),
    );
    return {
      machine: ceiling.machine(model.isa),
      lines: [
        `${values.model} ${format}, ${sequences} sequences, adapters of rank ${values.rank} on ` +
          `${TARGETS.join(', ')}; mixed: ${ranks.join(', ')}; ceiling: reading weights, adapters ` +
          'and cache once a step',
        ...table(results),
        ...ratioLines(ratios),
      ],
      results,
      ratios,
      plots: {
        tokens: tokensChart(`Decode of ${sequences} sequences by mix of adapters`, results),
      },
    };
  } finally {
    for (const model of models) await model.close();
    await ceiling.close();
  }
}

export const mixedScenario: Scenario = {
  name: 'mixed',
  summary: 'one decode batch by mix of adapters: none, one, distinct, mixed ranks (--weights, ...)',
  run,
};
