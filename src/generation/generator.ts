/** One request's life: resolve, encode, submit, and turn the engine's tokens into text events. */
import { randomBytes, randomUUID } from 'node:crypto';
import type { AdapterService } from '../adapters/service-types.ts';
import type { AdapterGeneration } from '../adapters/types.ts';
import type { Engine, EngineRequest, SamplingParams, TokenConstraint } from '../engine/types.ts';
import { LoramuxError, toLoramuxError } from '../errors.ts';
import type { GrammarLease, Grammars } from '../grammar/index.ts';
import type { Tokenizer } from '../tokenizer/tokenizer.ts';
import { type Bans, bansOf } from './bans.ts';
import type { Constraint } from './constraint.ts';
import { GenerationRun, type RunObserver } from './generation-run.ts';
import { checkTokenIds, type EncodedPrompt, encodePrompts } from './prompts.ts';
import { areSame, resolveTarget, type TargetRequest } from './target.ts';
import type { ChosenAdapter, Generation, GenerationRequest } from './types.ts';
import { unlessAborted } from './unless-aborted.ts';

/** Renderings of one chat, when its adapter is replaced again and again meanwhile. */
const RENDERS_MAX = 4;

/** What the generation layer must know of the model. */
export interface ServedModel {
  /** The base's name in requests and /v1/models. */
  readonly name: string;
  /** Rows of the embedding: token ids below it are valid. */
  readonly vocabSize: number;
  readonly eosTokenIds: readonly number[];
}

export interface GeneratorLimits {
  /** Prompts times `n` of one request. */
  readonly maxChoices: number;
  /** Bytes of events that may wait for a slow reader before its request is cancelled. */
  readonly streamBufferBytes: number;
}

export interface GeneratorServices {
  readonly model: ServedModel;
  readonly tokenizer: Tokenizer;
  readonly adapters: Pick<AdapterService, 'resolve' | 'resolveGeneration' | 'hold'>;
  /** Begins to bring an adapter nearer; cheap, and never an error. */
  readonly prefetch: (generation: AdapterGeneration) => void;
  readonly engine: Engine;
  readonly grammars: Grammars;
  readonly limits: GeneratorLimits;
  /** One observer per request: metrics. */
  readonly observe: (adapters: readonly ChosenAdapter[], arrivalMs: number) => RunObserver;
}

export interface Generator {
  /**
   * Submits a request. Resolves once all of it is queued; rejects, with nothing left running, when
   * it cannot be. The signal cancels it at any time.
   */
  start(request: GenerationRequest, signal: AbortSignal): Promise<Generation>;
}

function drawSeed(): bigint {
  return randomBytes(8).readBigUInt64LE();
}

function checkChoices(request: GenerationRequest, maxChoices: number): void {
  const choices = request.prompts.length * request.n;
  if (choices <= maxChoices) return;
  throw new LoramuxError(
    'invalid_request',
    `${request.prompts.length} prompts with n=${request.n} are ${choices} choices; ` +
      `a request may have ${maxChoices} (--max-choices); send several requests`,
    { param: request.prompts.length > 1 ? 'prompt' : 'n' },
  );
}

/** What cannot be had together with a text of a given form. */
function checkConstraint(
  { ignoreEos, sampling, allowedTokenIds, badWords }: GenerationRequest,
  constraint: Constraint | undefined,
): void {
  if (constraint === undefined) return;
  const field = constraint.field ?? 'a constraint';
  if (ignoreEos) throw notWith('ignore_eos', field);
  if (sampling.minTokens > 0) throw notWith('min_tokens', field);
  // Nothing may be left of what the form allows.
  if (allowedTokenIds !== undefined) throw notWith('allowed_token_ids', field);
  if (badWords !== undefined && badWords.length > 0) throw notWith('bad_words', field);
}

function notWith(param: string, field: string): LoramuxError {
  const message = `${param} is not supported together with ${field}, which gives the text its form`;
  return new LoramuxError('unsupported_field', message, { param });
}

function stopTokensOf(
  request: GenerationRequest,
  eosTokenIds: readonly number[],
): ReadonlySet<number> {
  return new Set([...(request.ignoreEos ? [] : eosTokenIds), ...request.stopTokenIds]);
}

/** For the echo and for themselves. */
function promptLogprobsOf(request: GenerationRequest): number | undefined {
  const echoed = request.echo ? request.sampling.logprobs : undefined;
  if (echoed === undefined || request.promptLogprobs === undefined) {
    return echoed ?? request.promptLogprobs;
  }
  return Math.max(echoed, request.promptLogprobs);
}

function samplingOf(
  request: GenerationRequest,
  stopTokenIds: ReadonlySet<number>,
  bans: Bans,
  constraint: TokenConstraint | undefined,
  room: () => number,
): SamplingParams {
  const { sampling } = request;
  return {
    ...sampling,
    // Where nothing fits the engine says why.
    maxTokens: sampling.maxTokens ?? Math.max(1, room()),
    constraint,
    seed: sampling.seed ?? drawSeed(),
    stopTokenIds,
    promptLogprobs: promptLogprobsOf(request),
    ...bans,
  };
}

/** What is known of a request before its prompts are encoded. */
interface Begun {
  readonly id: string;
  readonly arrivalMs: number;
  readonly target: TargetRequest;
  readonly named: readonly ChosenAdapter[];
  readonly lease: GrammarLease | undefined;
}

/** What is submitted, and for which adapters. */
interface Made {
  readonly prompts: readonly EncodedPrompt[];
  readonly chosen: readonly ChosenAdapter[];
  readonly bans: Bans;
}

export function createGenerator(services: GeneratorServices): Generator {
  const { model, tokenizer, adapters, engine, grammars, limits } = services;

  function submitAll(
    run: GenerationRun,
    request: GenerationRequest,
    { prompts, bans }: Made,
    constraint: TokenConstraint | undefined,
  ): void {
    const stopTokenIds = stopTokensOf(request, model.eosTokenIds);
    for (const [i, prompt] of prompts.entries()) {
      const sampling = samplingOf(request, stopTokenIds, bans, constraint, () =>
        engine.outputRoom(prompt.tokenIds.length, request.n),
      );
      const engineRequest: EngineRequest = {
        id: `${run.id}-${i}`,
        promptTokenIds: prompt.tokenIds,
        adapters: run.adapters.map(({ record, weight }) => ({
          generation: record.generation,
          weight,
        })),
        sampling,
        n: request.n,
        cacheSalt: request.cacheSalt,
        arrivalMs: run.arrivalMs,
      };
      const part = run.addPrompt(prompt, sampling.stopTokenIds);
      if (run.ended) return;
      part.attach(engine.submit(engineRequest, part.listener));
    }
  }

  /**
   * The prompts, and the adapters that answer. A chat is rendered again where a name has moved to
   * another generation meanwhile, whose template may be another.
   */
  async function encodeFor(
    request: GenerationRequest,
    signal: AbortSignal,
    { target, named }: Begun,
  ): Promise<Pick<Made, 'prompts' | 'chosen'>> {
    const size = { vocabSize: model.vocabSize, maxModelLen: engine.limits.maxModelLen };
    const isChat = request.prompts.some(({ kind }) => kind === 'chat');
    let rendered = named;
    for (let renders = 1; ; renders++) {
      // Several have no template in common but the base's.
      const only = rendered.length === 1 ? rendered[0]!.record : undefined;
      const prompts = await encodePrompts(tokenizer, request, size, only, signal);
      const chosen = resolveTarget(adapters, model.name, target);
      if (!isChat || areSame(chosen, rendered)) return { prompts, chosen };
      if (renders === RENDERS_MAX) {
        throw new LoramuxError(
          'registry_conflict',
          `${request.model} changed ${RENDERS_MAX} times while its prompt was made; retry`,
        );
      }
      rendered = chosen;
    }
  }

  /** Nothing where the client left meanwhile: what waited gave up its place. */
  function make(
    request: GenerationRequest,
    signal: AbortSignal,
    begun: Begun,
  ): Promise<Made | undefined> {
    return unlessAborted(signal, async () => {
      const stops = stopTokensOf(request, model.eosTokenIds);
      const bans = await bansOf(request, tokenizer, model.vocabSize, stops);
      return { bans, ...(await encodeFor(request, signal, begun)) };
    });
  }

  /** Keeps the generations for as long as the request runs. */
  function holdAll(chosen: readonly ChosenAdapter[]): () => void {
    const releases: (() => void)[] = [];
    const release = () => {
      for (const one of releases) one();
    };
    try {
      for (const { record } of chosen) releases.push(adapters.hold(record.generation));
    } catch (error) {
      release();
      throw error;
    }
    return release;
  }

  async function lateLease(request: GenerationRequest, signal: AbortSignal) {
    const constraint = request.lateConstraint?.();
    checkConstraint(request, constraint);
    return constraint && grammars.prepare(constraint, signal);
  }

  async function begin(
    request: GenerationRequest,
    signal: AbortSignal,
    begun: Begun,
  ): Promise<Generation> {
    const { id, arrivalMs, lease } = begun;
    const made = await make(request, signal, begun);
    // First, since it may be refused, and then nothing may be counted as begun.
    const letGo = holdAll(made?.chosen ?? []);
    const late = await (made && lateLease(request, signal))?.catch((error: unknown) => {
      letGo();
      throw error;
    });
    const grammar = lease ?? late;
    const chosen = made?.chosen ?? begun.named;
    const run = new GenerationRun({
      id,
      arrivalMs,
      adapters: chosen,
      request,
      tokenizer,
      streamBufferBytes: limits.streamBufferBytes,
      observer: services.observe(chosen, arrivalMs),
      release: () => {
        letGo();
        grammar?.release();
      },
    });
    try {
      if (made && !signal.aborted) submitAll(run, request, made, grammar);
    } catch (error) {
      run.abandon(toLoramuxError(error));
      throw error;
    }
    run.started(signal);
    return run;
  }

  return {
    async start(request, signal) {
      const arrivalMs = performance.now();
      checkChoices(request, limits.maxChoices);
      checkConstraint(request, request.constraint);
      checkTokenIds(request.stopTokenIds, model.vocabSize, 'stop_token_ids');
      const biased = request.sampling.logitBias?.keys() ?? [];
      checkTokenIds(biased, model.vocabSize, 'logit_bias');
      const id = randomUUID().replaceAll('-', '');
      const target = { ...request, splitKey: request.splitKey ?? id };
      // Before the work of encoding, and again after it: the name may have moved meanwhile.
      const named = resolveTarget(adapters, model.name, target);
      for (const { record } of named) services.prefetch(record.generation);
      const { constraint } = request;
      const lease = constraint && (await grammars.prepare(constraint, signal));
      try {
        return await begin(request, signal, { id, arrivalMs, target, named, lease });
      } catch (error) {
        lease?.release();
        throw error;
      }
    },
  };
}
