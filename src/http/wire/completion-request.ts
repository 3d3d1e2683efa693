/** A validated body of /v1/completions to the typed request of the generation layer. */
import { LoramuxError } from '../../errors.ts';
import type { GenerationRequest, Prompt } from '../../generation/types.ts';
import type { CompletionRequest } from '../schemas/completion.ts';
import { generationRequest } from './generation-request.ts';
import { refuse } from './refuse.ts';

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

/**
 * Choices to make of each prompt.
 * @throws LoramuxError invalid_request, unsupported_field
 */
function choicesToMake(body: CompletionRequest, isStream: boolean): number {
  const n = body.n ?? 1;
  const bestOf = body.best_of ?? n;
  if (bestOf < n) throw refuse(`best_of is ${bestOf}, less than n, ${n}`, 'best_of');
  if (bestOf === n || !isStream) return bestOf;
  throw new LoramuxError(
    'unsupported_field',
    `best_of is ${bestOf} and n is ${n}; which choices are best is not known while they are ` +
      'streamed',
    { param: 'best_of' },
  );
}

/**
 * @param isStream the answer is sent while it is made
 * @throws LoramuxError invalid_request, unsupported_field
 */
export function toGenerationRequest(
  body: CompletionRequest,
  baseName: string,
  isStream: boolean,
): GenerationRequest {
  const n = choicesToMake(body, isStream);
  const isChosen = n !== (body.n ?? 1);
  const request = generationRequest(body, baseName, {
    prompts: promptsOf(body.prompt),
    echo: body.echo ?? false,
    addSpecialTokens: body.add_special_tokens ?? true,
    maxTokens: body.max_tokens ?? MAX_TOKENS_DEFAULT,
    // The likeliest choices are known by the log-probabilities of their tokens.
    logprobs: body.logprobs ?? (isChosen ? 0 : undefined),
  });
  return { ...request, n, promptLogprobs: body.prompt_logprobs ?? undefined };
}
