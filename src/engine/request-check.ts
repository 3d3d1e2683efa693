/** What can be said about a request before it waits: "never" is said here, "not now" later. */
import type { WeightedAdapter } from '../adapters/types.ts';
import { LoramuxError } from '../errors.ts';
import { worstCaseBlocks } from '../scheduler/admission-arithmetic.ts';
import { REQUEST_ADAPTERS_MAX } from './adapter-set.ts';
import { BannedTokens } from './banned-tokens.ts';
import type { EngineSettings } from './options.ts';
import type { EngineRequest } from './types.ts';

/**
 * Throws a LoramuxError when the engine can never run the request.
 * @param request with its adapters in canonical order
 * @param maxAdapters that can be resident at once
 */
export function checkRequest(
  request: EngineRequest,
  settings: EngineSettings,
  maxAdapters: number,
): void {
  const { promptTokenIds, sampling, n } = request;
  const length = promptTokenIds.length;
  if (length === 0) throw new LoramuxError('prompt_empty', 'The prompt has no tokens.');
  checkCount('n', n, 1);
  checkCount('max_tokens', sampling.maxTokens, 0);
  checkCount('min_tokens', sampling.minTokens, 0);
  checkAdapters(request.adapters, maxAdapters);
  checkTokens(request, settings.vocabSize);
  if (length + sampling.maxTokens > settings.maxModelLen) {
    throw new LoramuxError(
      'context_length_exceeded',
      `The prompt has ${length} tokens and max_tokens is ${sampling.maxTokens}; together they ` +
        `exceed the context length of ${settings.maxModelLen}. Shorten one of them.`,
      { param: 'max_tokens' },
    );
  }
  if (n > settings.maxSequences) {
    throw new LoramuxError(
      'capacity_exceeded',
      `n is ${n}, but this server runs at most ${settings.maxSequences} sequences at once.`,
      { param: 'n' },
    );
  }
  const blocks = worstCaseBlocks(length, sampling.maxTokens, n, settings.blockSize);
  if (blocks > settings.numBlocks) {
    throw new LoramuxError(
      'capacity_exceeded',
      `The request may need ${blocks} KV blocks of ${settings.blockSize} tokens, but this server ` +
        `has ${settings.numBlocks}. Lower max_tokens or n, or shorten the prompt.`,
      { param: 'max_tokens' },
    );
  }
}

function checkAdapters(adapters: readonly WeightedAdapter[], maxAdapters: number): void {
  for (const { weight } of adapters) {
    if (Number.isFinite(Math.fround(weight))) continue;
    throw invalid('adapter_scale', `The weight of an adapter is ${weight}; it must be finite.`);
  }
  if (adapters.length > REQUEST_ADAPTERS_MAX) {
    throw invalid(
      'adapters',
      `The request names ${adapters.length} adapters; it may name ${REQUEST_ADAPTERS_MAX}.`,
    );
  }
  // An engine without any says so when it is to open the first one.
  if (adapters.length > Math.max(maxAdapters, 1)) {
    throw new LoramuxError(
      'adapter_never_fits',
      `The request names ${adapters.length} adapters, but this server holds ${maxAdapters} at ` +
        'once (--max-loras).',
      { param: 'adapters' },
    );
  }
}

/** A token outside the vocabulary would be refused with the whole step, and all others in it. */
function checkTokens(request: EngineRequest, vocabSize: number): void {
  const { promptTokenIds, sampling } = request;
  const check = (tokenId: number, param: string) => {
    if (Number.isInteger(tokenId) && tokenId >= 0 && tokenId < vocabSize) return;
    throw new LoramuxError(
      'token_out_of_range',
      `${param} has token ${tokenId}; the vocabulary ends at ${vocabSize - 1}.`,
      { param },
    );
  };
  for (let i = 0; i < promptTokenIds.length; i++) check(promptTokenIds[i]!, 'prompt');
  for (const tokenId of sampling.stopTokenIds) check(tokenId, 'stop_token_ids');
  for (const tokenId of sampling.logitBias?.keys() ?? []) check(tokenId, 'logit_bias');
  const { bannedTokenIds = [] } = sampling;
  if (!(bannedTokenIds instanceof BannedTokens)) {
    for (const tokenId of bannedTokenIds) check(tokenId, 'bad_words');
  }
  for (const sequence of sampling.bannedSequences ?? []) {
    for (const tokenId of sequence) check(tokenId, 'bad_words');
  }
}

function checkCount(param: string, value: number, least: number): void {
  if (Number.isInteger(value) && value >= least) return;
  throw invalid(param, `${param} is ${value}; it must be a whole number of at least ${least}.`);
}

function invalid(param: string, message: string): LoramuxError {
  return new LoramuxError('invalid_request', message, { param });
}
