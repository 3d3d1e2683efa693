/**
 * Time the event loop spends between a step's result and the next dispatch (commit, plan, pack),
 * with a session that answers at once and computes nothing: what the engine's JavaScript costs.
 */
import { parseArgs } from 'node:util';
import type { AdapterGeneration, SessionResidency } from '../src/adapters/types.ts';
import { createEngine } from '../src/engine/index.ts';
import { MAX_TOP_LOGPROBS, type StepPacket, type StepResult } from '../src/native/addon-types.ts';
import type { Scenario, ScenarioResult } from './scenario.ts';

const OPTIONS = {
  sequences: { type: 'string', default: '64' },
  adapters: { type: 'string', default: '16' },
  prompt: { type: 'string', default: '512' },
  tokens: { type: 'string', default: '256' },
  rounds: { type: 'string', default: '4' },
} as const;

interface Load {
  readonly sequences: number;
  readonly adapters: number;
  readonly prompt: number;
  readonly tokens: number;
  readonly rounds: number;
}

type Engine = ReturnType<typeof createEngine>;

/** Logit rows of one step, as the engine's default has it; a batch of more needs as many. */
const LOGIT_ROWS = 256;

function instantSession(rows: number) {
  const result: StepResult = {
    tokenIds: new Int32Array(rows).fill(7),
    logprobs: new Float32Array(rows),
    ranks: new Int32Array(rows),
    topIds: new Int32Array(rows * MAX_TOP_LOGPROBS),
    topLogprobs: new Float32Array(rows * MAX_TOP_LOGPROBS),
    nativeMs: 0,
    gapMs: 0,
    maskWaitMs: 0,
  };
  return {
    step: (_packet: StepPacket) =>
      new Promise<StepResult>((resolve) => setImmediate(() => resolve(result))),
  };
}

function everythingResident(maxSlots: number): SessionResidency {
  const slots = new Map<string, number>();
  return {
    maxSlots,
    tryAcquire(generations: readonly AdapterGeneration[]) {
      return generations.map(({ digest }) => {
        if (!slots.has(digest)) slots.set(digest, slots.size);
        return slots.get(digest)!;
      });
    },
    waitsForRoom: () => false,
    release() {},
    forget() {},
    prefetch() {},
    slotsLost() {},
    onChange() {},
  };
}

function submit(
  engine: Engine,
  load: Load,
  round: number,
  i: number,
  sampling: Record<string, unknown>,
): void {
  const lane = i % (load.adapters + 1);
  engine.submit(
    {
      id: `${round}-${i}`,
      // Distinct prompts: every block is hashed and registered, none is found.
      promptTokenIds: Int32Array.from({ length: load.prompt }, (_, t) =>
        t === 0 ? round * load.sequences + i : t,
      ),
      adapters:
        lane === load.adapters
          ? []
          : [{ generation: { digest: `d${lane}`, rank: 16, residentBytes: 0 }, weight: 1 }],
      sampling: {
        temperature: 1,
        topK: 0,
        topP: 1,
        minP: 0,
        repetitionPenalty: 1,
        presencePenalty: 0,
        frequencyPenalty: 0,
        seed: BigInt(i),
        logitBias: undefined,
        maxTokens: load.tokens,
        stopTokenIds: new Set([2]),
        minTokens: 0,
        logprobs: undefined,
        promptLogprobs: undefined,
        ...sampling,
      },
      n: 1,
      cacheSalt: '',
      arrivalMs: 0,
    },
    { onToken() {}, onFinish() {} },
  );
}

async function measure(name: string, load: Load, sampling: Record<string, unknown>) {
  const { sequences } = load;
  const rows = Math.max(LOGIT_ROWS, sequences);
  const maxModelLen = load.prompt + load.tokens;
  const engine = createEngine(instantSession(rows), everythingResident(load.adapters), {
    numBlocks: sequences * Math.ceil(maxModelLen / 16) + 64,
    maxModelLen,
    maxSequences: sequences,
    maxTokensPerStep: Math.max(512, sequences),
    maxLogitRowsPerStep: rows,
  });
  let before = engine.stats();
  for (let round = 0; round <= load.rounds; round++) {
    // The first round warms the compiler up.
    if (round === 1) before = engine.stats();
    for (let i = 0; i < sequences; i++) submit(engine, load, round, i, sampling);
    await engine.idle();
  }
  const after = engine.stats();
  await engine.close();
  const steps = after.steps - before.steps;
  return {
    name,
    steps,
    outsideNativeMsPerStep: (after.outsideNativeMsSum - before.outsideNativeMsSum) / steps,
    meanBatchSize: (after.batchSequencesSum - before.batchSequencesSum) / steps,
  };
}

async function run(args: readonly string[]): Promise<ScenarioResult> {
  const { values } = parseArgs({ args: [...args], options: OPTIONS });
  const load: Load = {
    sequences: Number(values.sequences),
    adapters: Number(values.adapters),
    prompt: Number(values.prompt),
    tokens: Number(values.tokens),
    rounds: Number(values.rounds),
  };
  const plain = await measure('plain', load, {});
  const full = await measure('penaltiesAndLogprobs', load, { repetitionPenalty: 1.1, logprobs: 5 });
  const results = [plain, full];
  return {
    lines: [
      `${load.sequences} sequences, ${load.adapters} adapters and the base, ${load.prompt} prompt ` +
        `and ${load.tokens} output tokens each`,
      ...results.map(
        (r) =>
          `${r.name.padEnd(22)}${r.outsideNativeMsPerStep.toFixed(3)} ms per step outside the ` +
          `session (${r.steps} steps, ${r.meanBatchSize.toFixed(1)} sequences per step)`,
      ),
    ],
    results,
    ratios: { fullOverPlain: full.outsideNativeMsPerStep / plain.outsideNativeMsPerStep },
  };
}

export const engineScenario: Scenario = {
  name: 'engine',
  summary: "the engine's JavaScript per step, with a session that computes nothing",
  run,
};
