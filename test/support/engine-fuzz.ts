/**
 * One seeded life of an engine: random arrivals over a few adapters and slots, shared prefixes,
 * several choices, cancellations, stops, failing steps, a tiny pool. Afterwards every promise is
 * checked: each request's tokens are those of the same request alone, one finish per choice,
 * everything given back.
 */

import { isDeepStrictEqual } from 'node:util';
import type { WeightedAdapter } from '../../src/adapters/types.ts';
import { BannedTokens } from '../../src/engine/banned-tokens.ts';
import type { EngineOptions } from '../../src/engine/options.ts';
import { engineViolations } from '../../src/engine/snapshot.ts';
import type { SamplingParams, TokenMasks } from '../../src/engine/types.ts';
import type { GrammarLease } from '../../src/grammar/index.ts';
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
import type { FakeNativeOptions } from './fake-native.ts';
import { allMasksAreFree, type FuzzForm, type FuzzGrammars, randomForm } from './fuzz-grammars.ts';
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
  /** Half of the requests are held to a form, some of the others to a few tokens. */
  grammars?: FuzzGrammars;
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
  /** Answers that were held to a form and ended as it allows. */
  formed: number;
  /** Choices whose masks went on in another slot: their thread had traded places. */
  moved: number;
}

/** One request before it is submitted. */
interface Planned {
  spec: RequestSpec;
  form: FuzzForm | undefined;
  /** Waits for its grammar no longer. */
  givesUp: boolean;
  interruption: Interruption | undefined;
}

interface Interruption {
  /** At some token, or else after so many turns of the event loop. */
  atToken: boolean;
  after: number;
  cancels: boolean;
  choice: number;
}

const NO_INTERRUPTION: Interruption = { atToken: false, after: 0, cancels: false, choice: 0 };
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
    ...everyEngine(options),
  };
  const harness = createHarness({
    engine,
    maxSlots: options.maxSlots,
    native: fakeNative(options),
    restart: async () => {
      for (let turn = random.int(0, 6); turn > 0; turn--) await nextTurn();
    },
    ...(options.identify === undefined ? {} : { identify: options.identify }),
  });
  const violations: string[] = [];
  const failedSteps = injectFailures(harness, random, options);
  let refused = 0;
  const moved = { count: 0 };
  const pace = new Pace();
  harness.native.schedule = pace.schedule;
  const planned: Planned[] = [];
  const requests: Recorded[] = [];
  const prefixes = Array.from({ length: 3 }, () => tokens(random, 4 * random.int(1, 10)));
  while (requests.length < options.numRequests) {
    const room = options.numRequests - requests.length;
    const burst = Array.from({ length: Math.min(random.int(1, 6), room) }, () =>
      randomPlan(random, prefixes, options),
    );
    planned.push(...burst);
    const leases = await acquireAll(burst, random, pace, options);
    for (const [i, plan] of burst.entries()) {
      try {
        requests.push(submitWithInterruption(harness, plan, watched(leases[i], moved)));
      } catch (error) {
        leases[i]?.release();
        const { code } = error as { code: string };
        if (code === 'session_restarting') refused += 1;
        else if (!REFUSALS.has(code)) throw error;
        requests.push(unheard(plan.spec));
      }
    }
    for (let turn = random.int(0, 12); turn > 0; turn--) {
      await nextTurn();
      violations.push(...engineViolations(harness.engine.snapshot()));
    }
  }
  await harness.engine.idle();
  violations.push(...leftovers(harness), ...harness.defects.map(String));
  if (options.grammars !== undefined) await allMasksAreFree(options.grammars.masks);
  let formed = 0;
  for (const [index, request] of requests.entries()) {
    const { form } = planned[index]!;
    for (const violation of await requestViolations(request, form, options)) {
      violations.push(`request ${index}: ${violation}`);
    }
    if (form === undefined) continue;
    for (const choice of await formedTexts(request, options.grammars!)) {
      formed += 1;
      if (!form.accepts(choice)) violations.push(`request ${index}: ${choice} has another form`);
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
    formed,
    moved: moved.count,
  };
}

/** What an engine has in a life and alone. */
function everyEngine({ grammars, dynamicRopeMaxPositions }: FuzzOptions): Partial<EngineOptions> {
  return {
    maxModelLen: MAX_MODEL_LEN,
    dynamicRopeMaxPositions,
    // Masks are there for so many.
    ...(grammars && { masks: grammars.pool, maxSequences: grammars.maxSequences }),
  };
}

function fakeNative({ grammars }: FuzzOptions): Partial<FakeNativeOptions> {
  if (grammars === undefined) return { nanTokenId: NAN_TOKEN };
  const { nanTokenId, vocabSize, masks } = grammars;
  return { nanTokenId, vocabSize, masks };
}

/** Steps end in the next turn of the event loop; while grammars are prepared, only a few do. */
class Pace {
  #left = Number.POSITIVE_INFINITY;
  #held: (() => void) | undefined;

  readonly schedule = (run: () => void) => {
    if (this.#left > 0) setImmediate(run);
    else this.#held = run;
    this.#left -= 1;
  };

  hold(steps: number): void {
    this.#left = steps;
  }

  goOn(): void {
    this.#left = Number.POSITIVE_INFINITY;
    if (this.#held !== undefined) setImmediate(this.#held);
    this.#held = undefined;
  }
}

/** The grammars of a burst, which are prepared while others run; none of who gave up. */
async function acquireAll(
  burst: readonly Planned[],
  random: Random,
  pace: Pace,
  { grammars }: FuzzOptions,
): Promise<(GrammarLease | undefined)[]> {
  if (grammars === undefined) return [];
  pace.hold(random.int(0, 8));
  const leases = burst.map(({ form, givesUp }) => {
    if (form === undefined) return undefined;
    const controller = new AbortController();
    const lease = grammars.pool.acquire(form.asked, controller.signal);
    if (givesUp) controller.abort();
    return lease;
  });
  const acquired = await Promise.all(leases);
  pace.goOn();
  return acquired;
}

/** Counts the moves of its choices' masks. */
function watched(
  lease: GrammarLease | undefined,
  moved: { count: number },
): GrammarLease | undefined {
  if (lease === undefined) return undefined;
  const open = (output: Int32Array): TokenMasks => {
    const masks = lease.open(output);
    let last = masks.slot;
    return {
      get slot() {
        if (masks.slot !== last) moved.count += 1;
        last = masks.slot;
        return last;
      },
      accept: (tokenId) => masks.accept(tokenId),
      close: () => masks.close(),
    };
  };
  return { open, release: () => lease.release() };
}

/** Of a request that was not submitted. */
const unheard = (spec: RequestSpec) =>
  ({ spec, tokens: [], finishes: [], violations: [] }) as unknown as Recorded;

/** Of choices that ended as their form allows. */
async function formedTexts(
  { tokens, finishes }: Recorded,
  { eosTokenId, text }: FuzzGrammars,
): Promise<string[]> {
  const whole = tokens.filter((_, choice) => finishes[choice]![0]?.stopTokenId === eosTokenId);
  return Promise.all(whole.map((choice) => text(choice)));
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

function randomPlan(random: Random, prefixes: number[][], options: FuzzOptions): Planned {
  const spec = randomSpec(random, prefixes, options);
  const form = options.grammars && random.chance(0.5) ? randomForm(random) : undefined;
  const givesUp = form !== undefined && random.chance((options.interruption ?? 0) / 2);
  if (options.grammars !== undefined) {
    restrict(spec, random, form !== undefined, options.grammars);
  }
  const interruption = randomInterruption(random, spec, options);
  return { spec, form, givesUp, interruption };
}

/** A form's texts end with the model's own token; others may be held to a few tokens. */
function restrict(
  spec: RequestSpec,
  random: Random,
  hasForm: boolean,
  { vocabSize, eosTokenId }: FuzzGrammars,
): void {
  const { sampling = {} } = spec;
  if (hasForm) {
    sampling.stopTokenIds = new Set([...sampling.stopTokenIds!, eosTokenId]);
    sampling.minTokens = 0;
  } else if (random.chance(0.4)) {
    const allowed = Array.from({ length: 8 }, () => random.int(60, 79));
    sampling.bannedTokenIds = new BannedTokens(allowed, vocabSize);
  }
}

function randomSpec(random: Random, prefixes: number[][], options: FuzzOptions): RequestSpec {
  const prefix = random.chance(0.85) ? random.pick(prefixes) : [];
  const cut = random.chance(0.8) ? prefix : prefix.slice(0, random.int(0, prefix.length));
  const prompt = [
    ...cut,
    ...tokens(random, cut.length > 0 ? random.pick([0, 0, 3, 8]) : random.int(1, 12)),
  ];
  const nanTokenId = options.grammars?.nanTokenId ?? NAN_TOKEN;
  if (random.chance(0.02)) prompt[random.int(0, prompt.length - 1)] = nanTokenId;
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
    logitBias: new Map([[nanTokenId, Number.NEGATIVE_INFINITY]]),
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

function randomInterruption(
  random: Random,
  spec: RequestSpec,
  options: FuzzOptions,
): Interruption | undefined {
  const interrupts = random.chance(options.interruption ?? 0);
  const interruption = {
    atToken: random.chance(0.5),
    after: random.int(0, 10),
    cancels: random.chance(0.5),
    choice: random.int(0, (spec.n ?? 1) - 1),
  };
  return interrupts ? interruption : undefined;
}

/** @param lease undefined where a form was given up */
function submitWithInterruption(
  harness: Harness,
  { spec, form, interruption }: Planned,
  lease: GrammarLease | undefined,
): Recorded {
  if (form !== undefined && lease === undefined) return unheard(spec);
  const { atToken, after, cancels, choice } = interruption ?? NO_INTERRUPTION;
  let heard = 0;
  let open = spec.n ?? 1;
  const interrupt = () => {
    recorded.interruptedAt = recorded.tokens.map((heardTokens) => heardTokens.length);
    if (cancels) recorded.handle.cancel();
    else recorded.handle.stop(choice);
  };
  const recorded: Recorded = harness.submit(constrained(spec, lease), {
    onToken() {
      heard += 1;
      if (interruption !== undefined && atToken && heard === after) interrupt();
    },
    onFinish() {
      open -= 1;
      if (open === 0) lease?.release();
    },
  });
  if (interruption !== undefined && !atToken) {
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

const constrained = (spec: RequestSpec, constraint: GrammarLease | undefined): RequestSpec =>
  constraint === undefined ? spec : { ...spec, sampling: { ...spec.sampling, constraint } };

async function aloneAgain(
  spec: RequestSpec,
  form: FuzzForm | undefined,
  options: FuzzOptions,
): Promise<Recorded> {
  const lease =
    form && (await options.grammars!.pool.acquire(form.asked, new AbortController().signal));
  const alone = await runAlone(constrained(spec, lease), {
    engine: everyEngine(options),
    native: fakeNative(options),
    maxSlots: options.maxSlots,
  });
  lease?.release();
  return alone;
}

async function requestViolations(
  request: Recorded,
  form: FuzzForm | undefined,
  options: FuzzOptions,
): Promise<string[]> {
  const violations = [...request.violations];
  if (request.tokens.length === 0) return violations;
  const alone = await aloneAgain(request.spec, form, options);
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
