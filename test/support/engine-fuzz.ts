/**
 * One seeded life of an engine: random arrivals over a few adapters and slots, shared prefixes,
 * several choices, cancellations, stops, failing steps, a tiny pool. Afterwards every promise is
 * checked: each request's tokens are those of the same request alone, one finish per choice,
 * everything given back.
 */

import { isDeepStrictEqual } from 'node:util';
import type { WeightedAdapter } from '../../src/adapters/types.ts';
import type { EngineOptions } from '../../src/engine/options.ts';
import { engineViolations } from '../../src/engine/snapshot.ts';
import type { SamplingParams } from '../../src/engine/types.ts';
import type { CacheIdentity } from '../../src/kvcache/block-hash.ts';
import {
  createHarness,
  generation,
  type Harness,
  leftovers,
  type Recorded,
  type RequestSpec,
  runAlone,
  SessionFault,
} from './engine-harness.ts';
import { Random } from './random.ts';

export interface FuzzOptions {
  seed: number;
  numRequests: number;
  numAdapters: number;
  maxSlots: number;
  numBlocks: number;
  /** Chance that a request has several adapters; one more than there are slots now and then. */
  sums?: number;
  /** Chance that a step fails. */
  failure?: number;
  /** Chance that a step puts the session at fault, and it is replaced. */
  fault?: number;
  /** Chance that a request is cancelled or one of its choices stopped at some token. */
  interruption?: number;
  dynamicRopeMaxPositions?: number;
  identify?: (identity: CacheIdentity) => string;
}

export interface FuzzReport {
  /** Sentences; empty when all promises were kept. */
  violations: string[];
  preemptions: number;
  prefixHitTokens: number;
  evictions: number;
  failedSteps: number;
  restarts: number;
  /** Requests that were refused while the session was replaced. */
  refused: number;
  maxAdaptersInOneStep: number;
}

/** What can never run says so at once. */
const REFUSALS = new Set(['capacity_exceeded', 'adapter_never_fits']);
const MAX_MODEL_LEN = 96;
const NAN_TOKEN = 60;

export async function fuzzEngine(options: FuzzOptions): Promise<FuzzReport> {
  const random = new Random(options.seed);
  const engine: Partial<EngineOptions> = {
    numBlocks: options.numBlocks,
    maxModelLen: MAX_MODEL_LEN,
    maxSequences: random.int(3, 8),
    maxTokensPerStep: random.int(8, 24),
    maxLogitRowsPerStep: random.int(8, 12),
    maxConsecutiveStepFailures: 1000,
    adapterWaitMsMax: random.pick([0, 2, 1000]),
    dynamicRopeMaxPositions: options.dynamicRopeMaxPositions,
  };
  const harness = createHarness({
    engine,
    maxSlots: options.maxSlots,
    native: { nanTokenId: NAN_TOKEN },
    restart: async () => {
      for (let turn = random.int(0, 6); turn > 0; turn--) await nextTurn();
    },
    ...(options.identify === undefined ? {} : { identify: options.identify }),
  });
  const violations: string[] = [];
  const failedSteps = injectFailures(harness, random, options);
  let refused = 0;
  const requests: Recorded[] = [];
  const prefixes = Array.from({ length: 3 }, () => tokens(random, 4 * random.int(1, 10)));
  while (requests.length < options.numRequests) {
    const burst = random.int(1, 6);
    for (let i = 0; i < burst && requests.length < options.numRequests; i++) {
      const spec = randomSpec(random, prefixes, options);
      try {
        requests.push(submitWithInterruptions(harness, spec, random, options.interruption ?? 0));
      } catch (error) {
        const { code } = error as { code: string };
        if (code === 'session_restarting') refused += 1;
        else if (!REFUSALS.has(code)) throw error;
        requests.push({ spec, tokens: [], finishes: [], violations: [] } as unknown as Recorded);
      }
    }
    for (let turn = random.int(0, 12); turn > 0; turn--) {
      await nextTurn();
      violations.push(...engineViolations(harness.engine.snapshot()));
    }
  }
  await harness.engine.idle();
  violations.push(...leftovers(harness), ...harness.defects.map(String));
  for (const [index, request] of requests.entries()) {
    for (const violation of await requestViolations(request, options)) {
      violations.push(`request ${index}: ${violation}`);
    }
  }
  const { preemptions, prefixHitTokens, maxAdaptersInOneStep } = harness.engine.stats();
  return {
    violations,
    preemptions,
    prefixHitTokens,
    maxAdaptersInOneStep,
    evictions: harness.residency.evictions,
    failedSteps: failedSteps.count,
    restarts: harness.faults.length,
    refused,
  };
}

const nextTurn = () => new Promise<void>((resolve) => setImmediate(resolve));

function injectFailures(
  harness: Harness,
  random: Random,
  { failure = 0, fault = 0 }: FuzzOptions,
): { count: number } {
  const failed = { count: 0 };
  harness.native.failure = () => {
    if (fault > 0 && random.chance(fault)) return new SessionFault('broken');
    if (!random.chance(failure)) return undefined;
    failed.count += 1;
    return new Error('injected');
  };
  return failed;
}

function randomSpec(random: Random, prefixes: number[][], options: FuzzOptions): RequestSpec {
  const prefix = random.chance(0.85) ? random.pick(prefixes) : [];
  const cut = random.chance(0.8) ? prefix : prefix.slice(0, random.int(0, prefix.length));
  const prompt = [
    ...cut,
    ...tokens(random, cut.length > 0 ? random.pick([0, 0, 3, 8]) : random.int(1, 12)),
  ];
  if (random.chance(0.02)) prompt[random.int(0, prompt.length - 1)] = NAN_TOKEN;
  const n = random.chance(0.25) ? random.int(2, 3) : 1;
  const sampling: Partial<SamplingParams> = {
    maxTokens: random.chance(0.08) ? 0 : random.int(1, 24),
    temperature: random.pick([0, 0.7, 1.5]),
    seed: BigInt(random.int(0, 1 << 30)),
    topK: random.pick([0, 0, 5]),
    repetitionPenalty: random.pick([1, 1, 1.2]),
    presencePenalty: random.pick([0, 0, 0.5]),
    stopTokenIds: new Set(random.chance(0.5) ? [random.int(0, 59), random.int(0, 59)] : []),
    minTokens: random.pick([0, 0, 4]),
    logprobs: random.pick([undefined, undefined, 2]),
    promptLogprobs: random.chance(0.15) ? 1 : undefined,
    // The poisonous token only ever comes with a prompt.
    logitBias: new Map([[NAN_TOKEN, Number.NEGATIVE_INFINITY]]),
  };
  const index = random.int(0, options.numAdapters);
  const isSum = options.sums !== undefined && random.chance(options.sums);
  return {
    prompt,
    adapter: index === 0 ? undefined : generation(`a${index}`),
    adapters: isSum ? randomSum(random, options) : undefined,
    scale: random.chance(0.15) ? 0.5 : 1,
    salt: random.chance(0.1) ? 'tenant' : '',
    n,
    sampling,
  };
}

/** Two and more, in any order, sometimes one of them twice. */
function randomSum(random: Random, options: FuzzOptions): WeightedAdapter[] {
  const count = random.int(2, options.maxSlots + (random.chance(0.1) ? 1 : 0));
  return Array.from({ length: count }, () => ({
    generation: generation(`a${random.int(1, options.numAdapters)}`),
    weight: random.pick([1, 1, 0.5, -2]),
  }));
}

function submitWithInterruptions(
  harness: Harness,
  spec: RequestSpec,
  random: Random,
  chance: number,
): Recorded {
  const interrupts = random.chance(chance);
  const late = random.chance(0.5);
  const after = random.int(0, 10);
  const cancels = random.chance(0.5);
  const choice = random.int(0, (spec.n ?? 1) - 1);
  let heard = 0;
  const interrupt = () => {
    recorded.interruptedAt = recorded.tokens.map((heardTokens) => heardTokens.length);
    if (cancels) recorded.handle.cancel();
    else recorded.handle.stop(choice);
  };
  const recorded: Recorded = harness.submit(spec, {
    onToken() {
      heard += 1;
      if (interrupts && late && heard === after) interrupt();
    },
  });
  if (interrupts && !late) {
    let turns = after;
    const wait = () => {
      turns -= 1;
      if (turns < 0) interrupt();
      else setImmediate(wait);
    };
    wait();
  }
  return recorded;
}

async function requestViolations(request: Recorded, options: FuzzOptions): Promise<string[]> {
  const { spec } = request;
  const violations = [...request.violations];
  if (request.tokens.length === 0) return violations;
  const alone = await runAlone(spec, {
    engine: {
      maxModelLen: MAX_MODEL_LEN,
      dynamicRopeMaxPositions: options.dynamicRopeMaxPositions,
    },
    native: { nanTokenId: NAN_TOKEN },
    maxSlots: options.maxSlots,
  });
  for (const [choice, expected] of alone.tokens.entries()) {
    const got = request.tokens[choice]!;
    const finish = request.finishes[choice]![0];
    if (finish === undefined) {
      violations.push(`choice ${choice} never finished`);
      continue;
    }
    const { reason, stopTokenId, error } = finish;
    const cut = reason === 'cancelled' || (reason === 'stop' && stopTokenId === undefined);
    const restarted = reason === 'error' && error?.code === 'session_restarted';
    const failed = restarted || (reason === 'error' && error?.code === 'engine_failed');
    if (cut && got.length > request.interruptedAt![choice]!) {
      violations.push(`choice ${choice} answered on after it was ended`);
    }
    const wanted = cut || failed ? expected.slice(0, got.length) : expected;
    if (got.join() !== wanted.join()) {
      violations.push(`choice ${choice} answered ${got.join()} instead of ${wanted.join()}`);
    }
    const wantedLogprobs = alone.logprobs[choice]!.slice(0, got.length);
    if (!isDeepStrictEqual(request.logprobs[choice], wantedLogprobs)) {
      violations.push(`choice ${choice} has other log-probabilities than alone`);
    }
    const aloneReason = alone.finishes[choice]![0]!.reason;
    if (!cut && !failed && reason !== aloneReason) {
      violations.push(`choice ${choice} ended as ${reason}, alone as ${aloneReason}`);
    }
    if (failed && ((restarted ? options.fault : options.failure) ?? 0) === 0) {
      violations.push(`choice ${choice} failed: ${error?.message}`);
    }
  }
  if (request.promptLogprobs.length > 0 || request.tokens.some((choice) => choice.length > 0)) {
    if (!isDeepStrictEqual(request.promptLogprobs, alone.promptLogprobs)) {
      violations.push('the prompt has other log-probabilities than alone');
    }
  }
  return violations;
}

function tokens(random: Random, length: number): number[] {
  return Array.from({ length }, () => random.int(0, 59));
}
