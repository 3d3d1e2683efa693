/** What formats cost in accuracy, as `loramux import --evaluate` measures it; on the demo's questions. */
import path from 'node:path';
import { DEMO_MODEL_DIR } from '../examples/modular-arithmetic/tasks.ts';
import { evaluateAccuracy } from '../src/cli/accuracy.ts';
import { parse, type Scenario, type ScenarioResult } from './scenario.ts';

const OPTIONS = {
  model: { type: 'string', default: DEMO_MODEL_DIR },
  text: { type: 'string', default: path.join(DEMO_MODEL_DIR, '..', 'questions.jsonl') },
  formats: { type: 'string', default: 'int8' },
  /** Positions compared at most. */
  positions: { type: 'string', default: '2048' },
} as const;

async function run(args: readonly string[]): Promise<ScenarioResult> {
  const { model, text, formats, positions } = parse(args, OPTIONS);
  const flags = { evaluate: text, formats, evaluateTokens: positions };
  const report = await evaluateAccuracy(model, flags);
  const ratios: Record<string, number> = {};
  for (const { name, topAgreement, klMean } of report.formats) {
    ratios[`${name}Top1Agreement`] = topAgreement;
    ratios[`${name}MeanKl`] = klMean;
  }
  return {
    lines: [
      `${model}, ${report.positions} positions of ${path.basename(text)}`,
      ...report.formats.map(
        ({ name, topAgreement, klMean, klP99 }) =>
          `${name.padEnd(10)}same top token ${(topAgreement * 100).toFixed(2)} %, KL mean ` +
          `${klMean.toExponential(2)}, p99 ${klP99.toExponential(2)}`,
      ),
    ],
    results: report.formats.map((format) => ({ ...format })),
    ratios,
  };
}

export const accuracyScenario: Scenario = {
  name: 'accuracy',
  summary: 'KL divergence and top-1 agreement of formats with float32 (--model, --text, --formats)',
  run,
};
