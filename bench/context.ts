/**
 * Decode at a long context by number format of the cache. Steps go to the session by hand, so that
 * no prompt has to be computed first; what the cache holds does not change how long it takes to
 * read. Attention's time is the step's at the long context less that of an almost empty one.
 */
import { Ceiling } from './ceiling.ts';
import { type Contender, inTurn, measurement, ratioLines, table } from './in-turn.ts';
import { BenchModel, formatOf, kvDtypesOf, MODEL_OPTIONS } from './model.ts';
import { decodePacket } from './packet.ts';
import { barChart } from './plot.ts';
import { numberOption, parse, type Scenario, type ScenarioResult } from './scenario.ts';
import { median } from './statistics.ts';
import { kvBytes } from './work.ts';

const OPTIONS = {
  ...MODEL_OPTIONS,
  kv: { type: 'string', default: 'f32,bf16,int8' },
  context: numberOption(16_384),
  sequences: numberOption(1),
  /** Steps of one turn. */
  steps: numberOption(6),
  rounds: numberOption(5),
} as const;

const capital = (name: string) => name[0]!.toUpperCase() + name.slice(1);
const SHORT_CONTEXT = 16;
const BLOCK_SIZE = 16;

async function run(args: readonly string[]): Promise<ScenarioResult> {
  const values = parse(args, OPTIONS);
  const format = formatOf(values.weights);
  const dtypes = kvDtypesOf(values.kv);
  const ceiling = await Ceiling.open(values.threads);
  const models: BenchModel[] = [];
  try {
    for (const kvDtype of dtypes) {
      const capacity = {
        slots: 0,
        tokens: values.context * values.sequences,
        length: values.context,
        kvDtype,
      };
      models.push(await BenchModel.open(values, format, capacity));
    }
    /** Milliseconds of each turn's median step, by dtype and context. */
    const times = new Map<string, number[]>();
    const contender = (model: BenchModel, context: number): Contender => {
      const name = `${model.kvDtype} ${context}`;
      const packet = decodePacket(new Array(values.sequences).fill(context), BLOCK_SIZE);
      times.set(name, []);
      return {
        name,
        run: async () => {
          const ms: number[] = [];
          for (let step = 0; step < values.steps; step++) {
            const start = performance.now();
            await model.stack.session.step(packet);
            ms.push(performance.now() - start);
          }
          times.get(name)!.push(median(ms));
          return (values.sequences * 1000) / median(ms);
        },
      };
    };
    const contenders = models.flatMap((model) => [
      contender(model, SHORT_CONTEXT),
      contender(model, values.context),
    ]);
    const rates = await inTurn(contenders, values.rounds, ceiling);
    /** Attention's milliseconds, round by round; the first turn was a warm-up. */
    const attention = (dtype: string): number => {
      const long = times.get(`${dtype} ${values.context}`)!.slice(1);
      const short = times.get(`${dtype} ${SHORT_CONTEXT}`)!.slice(1);
      return median(long.map((ms, i) => ms - short[i]!));
    };
    const ratios: Record<string, number> = {};
    const [first, last] = [dtypes[0]!, dtypes.at(-1)!];
    if (first !== last) {
      ratios[`${last}AttentionOver${capital(first)}`] = attention(first) / attention(last);
    }
    for (const { kvDtype, config } of models) {
      const bytes = kvBytes(config, kvDtype) * values.context * values.sequences;
      const seconds = attention(kvDtype) / 1000;
      ratios[`${kvDtype}AttentionOfBandwidth`] = bytes / seconds / 1e9 / ceiling.value('read')!;
    }
    const results = models.flatMap((model) =>
      [SHORT_CONTEXT, values.context].map((context) =>
        measurement(`${model.kvDtype} ${context}`, rates, (rate) => {
          const bytes = model.weightBytes + context * values.sequences * model.kvBytesPerToken;
          return (bytes * rate) / values.sequences / 1e9 / ceiling.value('read')!;
        }),
      ),
    );
    return {
      machine: ceiling.machine(models[0]!.isa),
      lines: [
        `${values.model} ${format}, ${values.sequences} sequences, cache format and context`,
        ...table(results),
        ...ratioLines(ratios),
      ],
      results: [
        ...results,
        ...dtypes.map((dtype) => ({
          name: `attention ${dtype} ${values.context}`,
          ms: attention(dtype),
        })),
      ],
      ratios,
      plots: {
        attention: barChart(
          `Attention of a decode step at ${values.context} tokens, ms`,
          dtypes.map((dtype) => ({ label: dtype, value: Math.max(0, attention(dtype)) })),
        ),
      },
    };
  } finally {
    for (const model of models) await model.close();
    await ceiling.close();
  }
}

export const contextScenario: Scenario = {
  name: 'context',
  summary: "decode at a long context by the cache's number format (--kv, --context, ...)",
  run,
};
