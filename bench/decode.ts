/** Decode: one token of each sequence per step, without adapters, by format and batch size. */
import { decodeRate } from './batch.ts';
import { Ceiling } from './ceiling.ts';
import { type Contender, inTurn, measurement, ratioLines, table } from './in-turn.ts';
import { BenchModel, formatsOf, MODEL_OPTIONS } from './model.ts';
import { tokensChart } from './plot.ts';
import { numberOption, parse, type Scenario, type ScenarioResult } from './scenario.ts';
import type { WeightFormat } from './work.ts';

const OPTIONS = {
  ...MODEL_OPTIONS,
  weights: { type: 'string', default: 'int8,int4' },
  sequences: { type: 'string', default: '1,16' },
  prompt: numberOption(16),
  tokens: numberOption(24),
  rounds: numberOption(5),
} as const;

const nameOf = (format: WeightFormat, count: number) => `${format} ${count}`;
const capital = (format: string) => format[0]!.toUpperCase() + format.slice(1);

async function run(args: readonly string[]): Promise<ScenarioResult> {
  const values = parse(args, OPTIONS);
  const counts = values.sequences.split(',').map(Number);
  const shape = { promptTokens: values.prompt, outputTokens: values.tokens };
  const length = values.prompt + values.tokens;
  const ceiling = await Ceiling.open(values.threads);
  const models: BenchModel[] = [];
  try {
    for (const format of formatsOf(values.weights)) {
      const capacity = { slots: 1, tokens: length * Math.max(...counts), length: length + 16 };
      models.push(await BenchModel.open(values, format, capacity));
    }
    const contenders = models.flatMap((model): Contender[] =>
      counts.map((count) => ({
        name: nameOf(model.format, count),
        run: async () => decodeRate(await model.runBatch(new Array(count).fill(undefined), shape)),
      })),
    );
    const rates = await inTurn(contenders, values.rounds, ceiling);
    const results = models.flatMap(({ format, weightBytes, kvBytesPerToken }) =>
      counts.map((count) =>
        measurement(nameOf(format, count), rates, (rate) => {
          const cache = count * kvBytesPerToken * (values.prompt + values.tokens / 2);
          const bytes = weightBytes + cache;
          return (bytes * rate) / count / 1e9 / ceiling.value('read')!;
        }),
      ),
    );
    const ratios: Record<string, number> = {};
    for (const { format } of models) {
      const single = results.find(({ name }) => name === nameOf(format, 1));
      const share = single?.fractionOfCeiling;
      if (typeof share === 'number') ratios[`decode${capital(format)}OfBandwidth`] = share;
    }
    return {
      machine: ceiling.machine(models[0]!.isa),
      lines: [
        `${values.model}, ${values.prompt} prompt tokens, ${values.tokens} output tokens, by ` +
          'format and sequences; ceiling: reading the weights once a step',
        ...table(results),
        ...ratioLines(ratios),
      ],
      results,
      ratios,
      plots: {
        tokens: tokensChart('Decode by format and sequences', results),
      },
    };
  } finally {
    for (const model of models) await model.close();
    await ceiling.close();
  }
}

export const decodeScenario: Scenario = {
  name: 'decode',
  summary: 'tokens per second of decode by format and batch size (--weights, --sequences, ...)',
  run,
};
