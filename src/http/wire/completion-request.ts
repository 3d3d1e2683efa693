/** A validated request body to the typed request of the generation layer. */
import { LoramuxError } from '../../errors.ts';
import type { GenerationRequest, Prompt } from '../../generation/types.ts';
import type { CompletionRequest } from '../schemas/completion.ts';

const MAX_TOKENS_DEFAULT = 16;

const isTokenIds = (value: readonly unknown[]): value is number[] => typeof value[0] === 'number';

function promptsOf(prompt: CompletionRequest['prompt']): Prompt[] {
  if (typeof prompt === 'string') return [{ kind: 'text', text: prompt }];
  if (isTokenIds(prompt)) return [{ kind: 'tokens', tokenIds: Int32Array.from(prompt) }];
  return (prompt as readonly (string | number[])[]).map((one) =>
    typeof one === 'string'
      ? { kind: 'text', text: one }
      : { kind: 'tokens', tokenIds: Int32Array.from(one) },
  );
}

function stopsOf(stop: CompletionRequest['stop']): string[] {
  if (stop === undefined || stop === null) return [];
  return typeof stop === 'string' ? [stop] : [...new Set(stop)];
}

function biasOf(bias: CompletionRequest['logit_bias']): ReadonlyMap<number, number> | undefined {
  if (bias === undefined || bias === null) return undefined;
  const entries = Object.entries(bias);
  if (entries.length === 0) return undefined;
  return new Map(entries.map(([id, value]) => [Number(id), value]));
}

const refuse = (message: string, param: string) =>
  new LoramuxError('invalid_request', message, { param });

/** Relations between fields that a schema cannot say. */
function checkRelations(body: CompletionRequest): void {
  const { n, best_of: bestOf, max_tokens: maxTokens, min_tokens: minTokens } = body;
  if (bestOf !== undefined && bestOf !== null && bestOf !== (n ?? 1)) {
    throw new LoramuxError(
      'unsupported_field',
      `best_of is ${bestOf} and n is ${n ?? 1}; this server supports best_of only equal to n`,
      { param: 'best_of' },
    );
  }
  if ((minTokens ?? 0) > (maxTokens ?? MAX_TOKENS_DEFAULT)) {
    throw refuse(
      `min_tokens is ${minTokens}, more than max_tokens, ${maxTokens ?? MAX_TOKENS_DEFAULT}`,
      'min_tokens',
    );
  }
  const { stream, stream_options: streamOptions } = body;
  if (streamOptions !== undefined && streamOptions !== null) {
    if (stream !== true) {
      throw refuse('stream_options has a meaning only with stream: true', 'stream_options');
    }
    if (streamOptions.include_obfuscation === true) {
      throw new LoramuxError(
        'unsupported_field',
        'stream_options.include_obfuscation is not supported by this server; leave it out',
        { param: 'stream_options.include_obfuscation' },
      );
    }
  }
}

/** @throws LoramuxError invalid_request, unsupported_field */
export function toGenerationRequest(body: CompletionRequest, baseName: string): GenerationRequest {
  checkRelations(body);
  const adapter = body.adapter ?? undefined;
  const scale = body.adapter_scale ?? 1;
  if (scale !== 1 && adapter === undefined && body.model === baseName) {
    throw refuse('adapter_scale needs an adapter, but the request names none', 'adapter_scale');
  }
  const topK = body.top_k ?? -1;
  return {
    model: body.model,
    adapter,
    adapterScale: scale,
    // Clients send empty texts for fields they do not use; those are no keys.
    splitKey: body.split_key || body.user || undefined,
    prompts: promptsOf(body.prompt),
    n: body.n ?? 1,
    echo: body.echo ?? false,
    addSpecialTokens: body.add_special_tokens ?? true,
    skipSpecialTokens: body.skip_special_tokens ?? true,
    stop: stopsOf(body.stop),
    includeStopInOutput: body.include_stop_str_in_output ?? false,
    ignoreEos: body.ignore_eos ?? false,
    stopTokenIds: body.stop_token_ids ?? [],
    cacheSalt: body.cache_salt ?? '',
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
      maxTokens: body.max_tokens ?? MAX_TOKENS_DEFAULT,
      minTokens: body.min_tokens ?? 0,
      logprobs: body.logprobs ?? undefined,
    },
  };
}

function toUint64(seed: number): bigint {
  return BigInt.asUintN(64, BigInt(seed));
}
