/** Engine options: defaults, validation, and the relations between limits. */
import { LoramuxError } from '../errors.ts';
import type { SchedulerLimits } from '../scheduler/limits.ts';
import type { MaskSource } from './mask-keeper.ts';

export interface EngineOptions {
  /** Physical blocks of the KV pool. */
  numBlocks: number;
  /** Longest prompt plus output, tokens. */
  maxModelLen: number;
  /** Tokens per KV block. Default 16. */
  blockSize?: number;
  /** Sequences in one step, and choices of one request. Default 64. */
  maxSequences?: number;
  /** Token budget of one step. Default 512. */
  maxTokensPerStep?: number;
  /** Rows of logits one step may ask for. Default 256. */
  maxLogitRowsPerStep?: number;
  /** Requests that wait for their first step. Default 1024. */
  maxQueuedRequests?: number;
  /** Longest time others may pass a request that waits for its adapter. Default 5000. */
  adapterWaitMsMax?: number;
  /** Failed steps in a row after which the engine gives up. Default 3. */
  maxConsecutiveStepFailures?: number;
  /** Reuse of KV blocks between requests. Default true. */
  prefixCaching?: boolean;
  /** `rope.dynamic.maxPositions` of a model with dynamic rope scaling; undefined for all others. */
  dynamicRopeMaxPositions?: number | undefined;
  /** When given, token ids are checked at submission, before they can fail a whole step. */
  vocabSize?: number | undefined;
  /** Hears of steps that end and tokens that are told, when there are constrained requests. */
  masks?: MaskSource | undefined;
  /** Monotonic clock in milliseconds. Default `performance.now`. */
  nowMs?: () => number;
  /** Hears of defects that no request can be told about, e.g. a listener that throws. */
  onDefect?: (error: unknown) => void;
}

export interface EngineSettings extends SchedulerLimits {
  maxModelLen: number;
  maxQueuedRequests: number;
  maxConsecutiveStepFailures: number;
  vocabSize: number;
  masks: MaskSource | undefined;
  nowMs: () => number;
  onDefect: (error: unknown) => void;
}

/** Largest value of any limit: token positions and slots are int32. */
const LIMIT_MAX = 2 ** 31 - 1;

/** Fills in defaults. Throws `config_invalid` naming the option that is wrong. */
export function resolveOptions(options: EngineOptions): EngineSettings {
  const settings: EngineSettings = {
    numBlocks: options.numBlocks,
    maxModelLen: options.maxModelLen,
    blockSize: options.blockSize ?? 16,
    maxSequences: options.maxSequences ?? 64,
    maxTokensPerStep: options.maxTokensPerStep ?? 512,
    maxLogitRowsPerStep: options.maxLogitRowsPerStep ?? 256,
    maxQueuedRequests: options.maxQueuedRequests ?? 1024,
    adapterWaitMsMax: options.adapterWaitMsMax ?? 5000,
    maxConsecutiveStepFailures: options.maxConsecutiveStepFailures ?? 3,
    prefixCaching: options.prefixCaching ?? true,
    dynamicRopeMaxPositions: options.dynamicRopeMaxPositions,
    vocabSize: options.vocabSize ?? LIMIT_MAX,
    masks: options.masks,
    nowMs: options.nowMs ?? (() => performance.now()),
    onDefect: options.onDefect ?? ((error) => process.emitWarning(String(error))),
  };
  atLeastOne(settings, 'numBlocks');
  atLeastOne(settings, 'maxModelLen');
  atLeastOne(settings, 'blockSize');
  atLeastOne(settings, 'maxSequences');
  atLeastOne(settings, 'maxTokensPerStep');
  atLeastOne(settings, 'maxLogitRowsPerStep');
  atLeastOne(settings, 'maxQueuedRequests');
  atLeastOne(settings, 'maxConsecutiveStepFailures');
  atLeastOne(settings, 'vocabSize');
  if (settings.dynamicRopeMaxPositions !== undefined)
    atLeastOne(settings, 'dynamicRopeMaxPositions');
  if (!(settings.adapterWaitMsMax >= 0)) {
    fail(`adapterWaitMsMax is ${settings.adapterWaitMsMax}; it must be 0 or more milliseconds`);
  }
  // Every running sequence may decode in the same step.
  for (const limit of ['maxTokensPerStep', 'maxLogitRowsPerStep'] as const) {
    if (settings[limit] >= settings.maxSequences) continue;
    fail(
      `${limit} is ${settings[limit]}; it must be at least maxSequences, ${settings.maxSequences}`,
    );
  }
  if (settings.numBlocks * settings.blockSize > LIMIT_MAX) {
    fail(`numBlocks * blockSize is ${settings.numBlocks * settings.blockSize}, beyond int32 slots`);
  }
  return settings;
}

type NumericLimit = {
  [K in keyof EngineSettings]: EngineSettings[K] extends number | undefined ? K : never;
}[keyof EngineSettings];

function atLeastOne(settings: EngineSettings, name: NumericLimit): void {
  const value = settings[name];
  if (Number.isInteger(value) && value! >= 1 && value! <= LIMIT_MAX) return;
  fail(`${name} is ${value}; it must be a whole number from 1 to ${LIMIT_MAX}`);
}

function fail(message: string): never {
  throw new LoramuxError('config_invalid', `Engine option ${message}.`);
}
