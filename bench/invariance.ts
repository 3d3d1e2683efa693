/**
 * A row's logits, bit by bit: its prompt alone in one chunk, against the same prompt in chunks of
 * several sizes and among others, prompts and decode tokens, for each packed format, cache format
 * and instruction set of this processor.
 */
import { probeNative } from '../src/native/index.ts';
import { BenchModel, formatsOf, kvDtypesOf, MODEL_OPTIONS } from './model.ts';
import { type Part, stepPacket } from './packet.ts';
import { parse, type Scenario, type ScenarioResult } from './scenario.ts';
import { smallModel } from './small-model.ts';

const OPTIONS = {
  ...MODEL_OPTIONS,
  weights: { type: 'string', default: 'bf16,int8,int4' },
  kv: { type: 'string', default: 'f32,bf16,int8' },
} as const;

const BLOCK_SIZE = 16;
const PROMPT = 75;
const BLOCKS = 6;
/** Where a prompt is cut; each row of the list is one way. */
const CUTS: readonly (readonly number[])[] = [[PROMPT], [1, 74], [16, 59], [33, 17, 25], [74, 1]];
/** Sequences that share the steps. */
const OTHERS: readonly number[] = [0, 1, 3, 15];

const tokensOf = (sequence: number, length: number) =>
  Array.from({ length }, (_, i) => (3 + sequence * 131 + i * 17) % 2000);

/** Logits after the prompt of sequence 0, computed in `chunks` beside `others` sequences. */
async function logitsOf(
  model: BenchModel,
  chunks: readonly number[],
  others: number,
): Promise<Float32Array> {
  const prompt = tokensOf(0, PROMPT);
  let start = 0;
  let logits = new Float32Array(0);
  for (const [step, length] of chunks.entries()) {
    const parts: Part[] = [
      { tokens: prompt.slice(start, start + length), start, firstBlock: 0 },
      ...Array.from({ length: others }, (_, i): Part => {
        // Every second one has a prompt of its own in this step, the others one token.
        const own = i % 2 === 0 ? 1 : 3 + i;
        const tokens = tokensOf(i + 1, own);
        return { tokens, start: step * own, firstBlock: (i + 1) * BLOCKS };
      }),
    ];
    const result = await model.stack.session.step(stepPacket(parts, BLOCK_SIZE), true);
    logits = result.logits!.slice(0, model.config.vocabSize);
    start += length;
  }
  return logits;
}

/** Cases of one model that agree with the prompt alone, and how many there were. */
async function compare(model: BenchModel): Promise<{ equal: number; cases: number }> {
  const bits = (values: Float32Array) => Buffer.from(values.buffer, 0, values.byteLength);
  const alone = bits(await logitsOf(model, [PROMPT], 0));
  let [equal, cases] = [0, 0];
  for (const chunks of CUTS) {
    for (const others of OTHERS) {
      cases++;
      if (bits(await logitsOf(model, chunks, others)).equals(alone)) equal++;
    }
  }
  return { equal, cases };
}

async function run(args: readonly string[]): Promise<ScenarioResult> {
  const values = parse(args, OPTIONS);
  const small = await smallModel(values.model, values.dir);
  const isas = values.isa === undefined ? probeNative().isas : [values.isa];
  const results: { name: string; equal: number; cases: number }[] = [];
  for (const format of formatsOf(values.weights)) {
    for (const kvDtype of kvDtypesOf(values.kv)) {
      for (const isa of isas) {
        const capacity = {
          ...{ slots: 0, tokens: (1 + Math.max(...OTHERS)) * BLOCKS * BLOCK_SIZE, length: 512 },
          kvDtype,
        };
        const options = { ...values, model: small, isa };
        const model = await BenchModel.open(options, format, capacity);
        try {
          results.push({ name: `${format} ${kvDtype} ${isa}`, ...(await compare(model)) });
        } finally {
          await model.close();
        }
      }
    }
  }
  const sum = (field: 'equal' | 'cases') => results.reduce((total, r) => total + r[field], 0);
  return {
    lines: [
      `prompt of ${PROMPT} tokens in ${CUTS.length} ways of chunks beside ${OTHERS.join(', ')} ` +
        'other sequences; weights, cache, instruction set:',
      ...results.map(({ name, equal, cases }) => `${name.padEnd(28)}${equal} of ${cases} bitwise`),
    ],
    results,
    ratios: { rowsBitwiseEqual: sum('equal') / sum('cases') },
  };
}

export const invarianceScenario: Scenario = {
  name: 'invariance',
  summary: "a row's logits bit by bit, alone and in any batch and chunking (--weights, --kv)",
  run,
};
