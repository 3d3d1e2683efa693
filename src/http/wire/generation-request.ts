/** The fields that all text routes share, to the typed request of the generation layer. */
import { LoramuxError } from '../../errors.ts';
import type { GenerationRequest } from '../../generation/types.ts';
import type { TextFields } from '../schemas/constraint.ts';
import type { GenerationFields } from '../schemas/generation-fields.ts';
import { adapterChoice } from './adapter-choice.ts';
import { constraintOf } from './constraint.ts';
import { refuse } from './refuse.ts';

function stopsOf(stop: GenerationFields['stop']): string[] {
  if (stop === undefined || stop === null) return [];
  return typeof stop === 'string' ? [stop] : [...new Set(stop)];
}

function biasOf(bias: GenerationFields['logit_bias']): ReadonlyMap<number, number> | undefined {
  if (bias === undefined || bias === null) return undefined;
  const entries = Object.entries(bias);
  if (entries.length === 0) return undefined;
  return new Map(entries.map(([id, value]) => [Number(id), value]));
}

/** Relations between fields that a schema cannot say. */
function checkStreamOptions(body: GenerationFields): void {
  const { stream, stream_options: options } = body;
  if (options === undefined || options === null) return;
  if (stream !== true) {
    throw refuse('stream_options has a meaning only with stream: true', 'stream_options');
  }
  if (options.include_obfuscation === true) {
    throw new LoramuxError(
      'unsupported_field',
      'stream_options.include_obfuscation is not supported by this server; leave it out',
      { param: 'stream_options.include_obfuscation' },
    );
  }
}

function toUint64(seed: number): bigint {
  return BigInt.asUintN(64, BigInt(seed));
}

function truncateOf(body: GenerationFields): GenerationRequest['truncate'] {
  const { truncate_prompt_tokens: tokens, truncation_side: side } = body;
  if (tokens === undefined || tokens === null) {
    if (side === undefined || side === null) return undefined;
    throw refuse('truncation_side needs truncate_prompt_tokens', 'truncation_side');
  }
  return { tokens: tokens === -1 ? 'room' : tokens, side: side ?? 'left' };
}

/** Where the routes differ. */
export type OwnFields = Pick<GenerationRequest, 'prompts' | 'echo' | 'addSpecialTokens'> &
  Pick<GenerationRequest['sampling'], 'maxTokens' | 'logprobs'>;

/** @throws LoramuxError invalid_request, unsupported_field */
export function generationRequest(
  body: GenerationFields & TextFields,
  baseName: string,
  { maxTokens, logprobs, ...own }: OwnFields,
): GenerationRequest {
  checkStreamOptions(body);
  const minTokens = body.min_tokens ?? 0;
  if (maxTokens !== undefined && minTokens > maxTokens) {
    const most = `the ${maxTokens} tokens that the answer may have`;
    throw refuse(`min_tokens is ${minTokens}, more than ${most}`, 'min_tokens');
  }
  const topK = body.top_k ?? -1;
  return {
    ...own,
    ...adapterChoice(body, baseName),
    // Clients send empty texts for fields they do not use; those are no keys.
    splitKey: body.split_key || body.user || undefined,
    n: body.n ?? 1,
    skipSpecialTokens: body.skip_special_tokens ?? true,
    stop: stopsOf(body.stop),
    includeStopInOutput: body.include_stop_str_in_output ?? false,
    ignoreEos: body.ignore_eos ?? false,
    stopTokenIds: body.stop_token_ids ?? [],
    cacheSalt: body.cache_salt ?? '',
    truncate: truncateOf(body),
    allowedTokenIds: body.allowed_token_ids ?? undefined,
    badWords: body.bad_words ?? undefined,
    constraint: constraintOf(body),
    sampling: {
      temperature: body.temperature ?? 1,
      topK: topK === -1 ? 0 : topK,
      topP: body.top_p ?? 1,
      minP: body.min_p ?? 0,
      repetitionPenalty: body.repetition_penalty ?? 1,
      presencePenalty: body.presence_penalty ?? 0,
      frequencyPenalty: body.frequency_penalty ?? 0,
      // Negative seeds are as good as any: their two's complement is taken.
      seed: body.seed === undefined || body.seed === null ? undefined : toUint64(body.seed),
      logitBias: biasOf(body.logit_bias),
      maxTokens,
      minTokens,
      logprobs,
    },
  };
}
