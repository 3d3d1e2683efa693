/** Prefill: one prompt in one step, without adapters, by format. */
import { Ceiling } from './ceiling.ts';
import { type Contender, inTurn, measurement, ratioLines, table } from './in-turn.ts';
import { BenchModel, formatsOf, MODEL_OPTIONS } from './model.ts';
import { tokensChart } from './plot.ts';
import { numberOption, parse, type Scenario, type ScenarioResult } from './scenario.ts';
import { arithmeticCeiling, promptOps } from './work.ts';

const OPTIONS = {
  ...MODEL_OPTIONS,
  prompt: numberOption(512),
  rounds: numberOption(5),
} as const;

const capital = (format: string) => format[0]!.toUpperCase() + format.slice(1);

async function run(args: readonly string[]): Promise<ScenarioResult> {
  const values = parse(args, OPTIONS);
  const ceiling = await Ceiling.open(values.threads);
  const models: BenchModel[] = [];
  const { prompt } = values;
  try {
    for (const format of formatsOf(values.weights)) {
      const capacity = { slots: 1, tokens: prompt, length: prompt + 16, tokensPerStep: prompt };
      models.push(await BenchModel.open(values, format, capacity));
    }
    const contenders = models.map(
      (model): Contender => ({
        name: model.format,
        run: async () => {
          const shape = { promptTokens: prompt, outputTokens: 1 };
          return (prompt * 1000) / (await model.runBatch([undefined], shape)).promptMs;
        },
      }),
    );
    const rates = await inTurn(contenders, values.rounds, ceiling);
    const ratios: Record<string, number> = {};
    const results = models.map(({ format, config }) => {
      const ops = promptOps(config, prompt) / prompt;
      const peak = arithmeticCeiling(ceiling, format);
      const result = measurement(format, rates, (rate) =>
        peak === undefined ? undefined : (rate * ops) / 1e12 / peak,
      );
      if (typeof result.fractionOfCeiling === 'number') {
        ratios[`prefill${capital(format)}OfCeiling`] = result.fractionOfCeiling;
      }
      return result;
    });
    return {
      machine: ceiling.machine(models[0]!.isa),
      lines: [
        `${values.model}, ${prompt} prompt tokens in one step; ceiling: the products of the linear ` +
          'layers at the peak of the instructions that suit the format',
        ...table(results),
        ...ratioLines(ratios),
      ],
      results,
      ratios,
      plots: {
        tokens: tokensChart(`Prefill of ${prompt} tokens`, results),
      },
    };
  } finally {
    for (const model of models) await model.close();
    await ceiling.close();
  }
}

export const prefillScenario: Scenario = {
  name: 'prefill',
  summary: 'tokens per second of one prompt by format (--weights, --prompt, ...)',
  run,
};
