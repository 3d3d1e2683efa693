/** A validated body of /v1/completions to the typed request of the generation layer. */
import { LoramuxError } from '../../errors.ts';
import type { GenerationRequest, Prompt } from '../../generation/types.ts';
import type { CompletionRequest } from '../schemas/completion.ts';
import { generationRequest } from './generation-request.ts';

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

function checkBestOf({ n, best_of: bestOf }: CompletionRequest): void {
  if (bestOf === undefined || bestOf === null || bestOf === (n ?? 1)) return;
  throw new LoramuxError(
    'unsupported_field',
    `best_of is ${bestOf} and n is ${n ?? 1}; this server supports best_of only equal to n`,
    { param: 'best_of' },
  );
}

/** @throws LoramuxError invalid_request, unsupported_field */
export function toGenerationRequest(body: CompletionRequest, baseName: string): GenerationRequest {
  checkBestOf(body);
  return generationRequest(body, baseName, {
    prompts: promptsOf(body.prompt),
    echo: body.echo ?? false,
    addSpecialTokens: body.add_special_tokens ?? true,
    maxTokens: body.max_tokens ?? MAX_TOKENS_DEFAULT,
    logprobs: body.logprobs ?? undefined,
  });
}
