/**
 * Time the event loop spends between a step's result and the next dispatch (commit, plan, pack),
 * with a session that answers at once and computes nothing. Run: `npx tsx bench/engine-overhead.ts`.
 * Exits with 1 when the mean at 64 sequences is 1 ms or more.
 */
import type { AdapterGeneration, AdapterResidency } from '../src/adapters/types.ts';
import { createEngine } from '../src/engine/index.ts';
import { MAX_TOP_LOGPROBS, type StepPacket, type StepResult } from '../src/native/addon-types.ts';

const SEQUENCES = 64;
const ADAPTERS = 16;
const PROMPT_TOKENS = 512;
const OUTPUT_TOKENS = 256;
const ROUNDS = 4;
const MEAN_MS_MAX = 1;

const maxRows = 256;
const result: StepResult = {
  tokenIds: new Int32Array(maxRows).fill(7),
  logprobs: new Float32Array(maxRows),
  ranks: new Int32Array(maxRows),
  topIds: new Int32Array(maxRows * MAX_TOP_LOGPROBS),
  topLogprobs: new Float32Array(maxRows * MAX_TOP_LOGPROBS),
  nativeMs: 0,
};

const native = {
  step(_packet: StepPacket): Promise<StepResult> {
    return new Promise((resolve) => setImmediate(() => resolve(result)));
  },
};

const slots = new Map<string, number>();
const residency: AdapterResidency = {
  maxSlots: ADAPTERS,
  tryAcquire({ digest }: AdapterGeneration) {
    if (!slots.has(digest)) slots.set(digest, slots.size);
    return slots.get(digest);
  },
  release() {},
  forget() {},
  onChange() {},
};

async function measure(name: string, sampling: Record<string, unknown>): Promise<number> {
  const engine = createEngine(native, residency, {
    numBlocks: (SEQUENCES * (PROMPT_TOKENS + OUTPUT_TOKENS)) / 16 + 64,
    maxModelLen: 4096,
    maxSequences: SEQUENCES,
  });
  let before = engine.stats();
  for (let round = 0; round <= ROUNDS; round++) {
    // The first round warms the compiler up.
    if (round === 1) before = engine.stats();
    for (let i = 0; i < SEQUENCES; i++) submit(engine, `${round}-${i}`, i, sampling);
    await engine.idle();
  }
  const after = engine.stats();
  const steps = after.steps - before.steps;
  const meanMs = (after.outsideNativeMsSum - before.outsideNativeMsSum) / steps;
  const meanBatch = (after.batchSequencesSum - before.batchSequencesSum) / steps;
  console.log(
    `${name}: ${meanMs.toFixed(3)} ms per step outside the session ` +
      `(${steps} steps, ${meanBatch.toFixed(1)} sequences per step)`,
  );
  await engine.close();
  return meanMs;
}

function submit(
  engine: ReturnType<typeof createEngine>,
  id: string,
  i: number,
  sampling: Record<string, unknown>,
): void {
  const adapter =
    i % (ADAPTERS + 1) === ADAPTERS
      ? undefined
      : { digest: `d${i % ADAPTERS}`, rank: 16, residentBytes: 0 };
  engine.submit(
    {
      id,
      // Distinct prompts: every block is hashed and registered, none is found.
      promptTokenIds: Int32Array.from({ length: PROMPT_TOKENS }, (_, t) =>
        t === 0 ? Number(id.split('-')[0]) * SEQUENCES + i : t,
      ),
      adapter,
      adapterScale: 1,
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
        maxTokens: OUTPUT_TOKENS,
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

const plain = await measure('plain', {});
await measure('with penalties and logprobs', { repetitionPenalty: 1.1, logprobs: 5 });
process.exitCode = plain < MEAN_MS_MAX ? 0 : 1;
