/** An engine over the fake session and residency, and listeners that record what they hear. */
import type { AdapterGeneration, WeightedAdapter } from '../../src/adapters/types.ts';
import { EngineLoop, type StepRunner } from '../../src/engine/engine.ts';
import type { EngineOptions } from '../../src/engine/options.ts';
import { engineViolations } from '../../src/engine/snapshot.ts';
import type {
  EngineHandle,
  EngineRequest,
  FinishEvent,
  RequestListener,
  SamplingParams,
  TokenEvent,
  TokenLogprobs,
} from '../../src/engine/types.ts';
import type { LoramuxError } from '../../src/errors.ts';
import type { CacheIdentity } from '../../src/kvcache/block-hash.ts';
import { FakeNative, type FakeNativeOptions } from './fake-native.ts';
import { FakeResidency } from './fake-residency.ts';

export interface HarnessOptions {
  engine?: Partial<EngineOptions>;
  native?: Partial<FakeNativeOptions>;
  maxSlots?: number;
  /** The session is replaced when it is at fault; what it resolves to ends the restart. */
  restart?: () => Promise<void>;
  /** Replaces the root of the hash chain; only the mutation check does. */
  identify?: (identity: CacheIdentity) => string;
}

export interface Harness {
  engine: EngineLoop;
  native: FakeNative;
  residency: FakeResidency;
  defects: unknown[];
  /** Faults so far that led to a restart. */
  faults: LoramuxError[];
  submit(request: RequestSpec, hooks?: Partial<RequestListener>): Recorded;
}

/** What a step fails with that puts the session at fault at once. */
export class SessionFault extends Error {}

export interface RequestSpec {
  id?: string;
  prompt: readonly number[];
  adapter?: AdapterGeneration | undefined;
  scale?: number;
  /** Several, instead of one. */
  adapters?: readonly WeightedAdapter[] | undefined;
  n?: number;
  salt?: string;
  sampling?: Partial<SamplingParams>;
}

/** What one request's listener heard, by choice. */
export interface Recorded {
  spec: RequestSpec;
  handle: EngineHandle;
  tokens: number[][];
  logprobs: (TokenLogprobs | undefined)[][];
  finishes: FinishEvent[][];
  promptLogprobs: (TokenLogprobs | null)[][];
  /** Tokens heard of each choice when the test cancelled or stopped; set by the test. */
  interruptedAt?: number[];
  /** Broken promises of the listener contract. */
  violations: string[];
}

export function generation(name: string): AdapterGeneration {
  return { digest: `digest-${name}`, rank: 8, residentBytes: 1024 };
}

/** One adapter as a list of them; none is the base. */
export function weighted(adapter: AdapterGeneration | undefined, weight = 1): WeightedAdapter[] {
  return adapter === undefined ? [] : [{ generation: adapter, weight }];
}

export function samplingParams(overrides: Partial<SamplingParams> = {}): SamplingParams {
  return {
    temperature: 0,
    topK: 0,
    topP: 1,
    minP: 0,
    repetitionPenalty: 1,
    presencePenalty: 0,
    frequencyPenalty: 0,
    seed: 1n,
    logitBias: undefined,
    maxTokens: 8,
    stopTokenIds: new Set(),
    minTokens: 0,
    logprobs: undefined,
    promptLogprobs: undefined,
    ...overrides,
  };
}

export function createHarness(options: HarnessOptions = {}): Harness {
  const engineOptions: EngineOptions = {
    numBlocks: 64,
    maxModelLen: 256,
    blockSize: 4,
    maxSequences: 8,
    maxTokensPerStep: 32,
    maxLogitRowsPerStep: 32,
    ...options.engine,
  };
  const maxSlots = options.maxSlots ?? 4;
  const { dynamicRopeMaxPositions } = engineOptions;
  const native = new FakeNative({
    numBlocks: engineOptions.numBlocks,
    blockSize: engineOptions.blockSize ?? 16,
    maxTokensPerStep: engineOptions.maxTokensPerStep ?? 512,
    maxLogitRowsPerStep: engineOptions.maxLogitRowsPerStep ?? 256,
    maxSlots,
    ...(dynamicRopeMaxPositions === undefined ? {} : { dynamicRopeMaxPositions }),
    ...options.native,
  });
  const residency = new FakeResidency({ maxSlots, contents: native.slots });
  const defects: unknown[] = [];
  const settings = { onDefect: (error: unknown) => defects.push(error), ...engineOptions };
  const faults: LoramuxError[] = [];
  const { restart } = options;
  const runner: StepRunner =
    restart === undefined
      ? native
      : {
          step: (packet) => native.step(packet),
          isAtFault: (cause) => cause instanceof SessionFault,
          async restart(fault) {
            faults.push(fault);
            native.lose();
            await restart();
          },
        };
  const engine = new EngineLoop(runner, residency, settings, options.identify);
  let numSubmitted = 0;
  const submit = (spec: RequestSpec, hooks: Partial<RequestListener> = {}) => {
    const recorded = emptyRecord(spec);
    const id = spec.id ?? `r${numSubmitted++}`;
    recorded.handle = engine.submit(engineRequest(spec, id), recorder(recorded, hooks));
    return recorded;
  };
  return { engine, native, residency, defects, faults, submit };
}

/** What the request hears when it has a fresh, roomy engine for itself. */
export async function runAlone(spec: RequestSpec, options: HarnessOptions = {}): Promise<Recorded> {
  const { submit, engine } = createHarness({
    ...options,
    engine: { ...options.engine, numBlocks: 512, maxSequences: 8, maxTokensPerStep: 512 },
  });
  const recorded = submit(spec);
  await engine.idle();
  return recorded;
}

/** Violations of the engine, the residency and the fake's own bookkeeping after all is done. */
export function leftovers({ engine, residency }: Harness): string[] {
  const violations = engineViolations(engine.snapshot(), true);
  for (const [digest, count] of residency.references) {
    violations.push(`${digest} still has ${count} references`);
  }
  if (residency.numWanted > 0) violations.push(`${residency.numWanted} loads are still wanted`);
  const { running, waiting } = engine.stats();
  if (running + waiting > 0) violations.push(`${running} run and ${waiting} wait`);
  return violations;
}

export function engineRequest(spec: RequestSpec, id: string): EngineRequest {
  return {
    id,
    promptTokenIds: Int32Array.from(spec.prompt),
    adapters: spec.adapters ?? weighted(spec.adapter, spec.scale),
    sampling: samplingParams(spec.sampling),
    n: spec.n ?? 1,
    cacheSalt: spec.salt ?? '',
    arrivalMs: 0,
  };
}

function emptyRecord(spec: RequestSpec): Recorded {
  const perChoice = <T>() => Array.from({ length: spec.n ?? 1 }, (): T[] => []);
  return {
    spec,
    handle: undefined as unknown as EngineHandle,
    tokens: perChoice<number>(),
    logprobs: perChoice<TokenLogprobs | undefined>(),
    finishes: perChoice<FinishEvent>(),
    promptLogprobs: [],
    violations: [],
  };
}

function recorder(recorded: Recorded, hooks: Partial<RequestListener>): RequestListener {
  const { tokens, finishes, violations } = recorded;
  let isScheduled = false;
  return {
    onScheduled(waitMs) {
      if (isScheduled) violations.push('scheduled twice');
      isScheduled = true;
      if (!(waitMs >= 0)) violations.push(`waited ${waitMs} ms`);
      hooks.onScheduled?.(waitMs);
    },
    onPromptLogprobs(logprobs) {
      if (recorded.promptLogprobs.length > 0) violations.push('prompt log-probabilities twice');
      if (tokens.some((choice) => choice.length > 0)) violations.push('prompt after tokens');
      recorded.promptLogprobs.push(logprobs);
      hooks.onPromptLogprobs?.(logprobs);
    },
    onToken(event: TokenEvent) {
      if (finishes[event.index]!.length > 0) violations.push(`token after finish: ${event.index}`);
      if (!isScheduled) violations.push('token before scheduled');
      tokens[event.index]!.push(event.tokenId);
      recorded.logprobs[event.index]!.push(event.logprobs);
      hooks.onToken?.(event);
    },
    onFinish(event: FinishEvent) {
      if (finishes[event.index]!.length > 0) violations.push(`two finishes: ${event.index}`);
      finishes[event.index]!.push(event);
      hooks.onFinish?.(event);
    },
  };
}
