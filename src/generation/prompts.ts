/** Prompts to token ids, checked against the vocabulary and the context length. */
import { LoramuxError } from '../errors.ts';
import type { Tokenizer } from '../tokenizer/tokenizer.ts';
import type { GenerationRequest, Prompt } from './types.ts';

export interface EncodedPrompt {
  readonly tokenIds: Int32Array;
  /** The prompt as text: what the client sent, or the decoded ids. Set when it is echoed. */
  readonly text: string;
}

/** @throws LoramuxError token_out_of_range */
export function checkTokenIds(tokenIds: Iterable<number>, vocabSize: number, param: string): void {
  for (const id of tokenIds) {
    if (id >= 0 && id < vocabSize) continue;
    throw new LoramuxError(
      'token_out_of_range',
      `${param} has token id ${id}; the vocabulary has the ids 0 to ${vocabSize - 1}`,
      { param },
    );
  }
}

async function encodeOne(
  tokenizer: Tokenizer,
  prompt: Prompt,
  vocabSize: number,
  request: GenerationRequest,
): Promise<EncodedPrompt> {
  if (prompt.kind === 'text') {
    const { addSpecialTokens } = request;
    const tokenIds = await tokenizer.encode(prompt.text, { addSpecialTokens });
    // A tokenizer with more tokens than the model has embeddings would read past the weights.
    checkTokenIds(tokenIds, vocabSize, 'prompt');
    return { tokenIds, text: prompt.text };
  }
  checkTokenIds(prompt.tokenIds, vocabSize, 'prompt');
  if (!request.echo) return { tokenIds: prompt.tokenIds, text: '' };
  const { skipSpecialTokens } = request;
  return {
    tokenIds: prompt.tokenIds,
    text: await tokenizer.decode(prompt.tokenIds, { skipSpecialTokens }),
  };
}

/**
 * @throws LoramuxError token_out_of_range, prompt_empty, context_length_exceeded (the engine checks
 *   prompt and output together again)
 */
export async function encodePrompts(
  tokenizer: Tokenizer,
  request: GenerationRequest,
  limits: { vocabSize: number; maxModelLen: number },
): Promise<EncodedPrompt[]> {
  const encoded: EncodedPrompt[] = [];
  for (const prompt of request.prompts) {
    const one = await encodeOne(tokenizer, prompt, limits.vocabSize, request);
    const length = one.tokenIds.length;
    if (length === 0) {
      throw new LoramuxError(
        'prompt_empty',
        'the prompt has no tokens; send at least one character or token id',
        { param: 'prompt' },
      );
    }
    const { maxTokens } = request.sampling;
    if (length + maxTokens > limits.maxModelLen) {
      throw new LoramuxError(
        'context_length_exceeded',
        `the prompt has ${length} tokens and max_tokens is ${maxTokens}, together more than the ` +
          `context length of ${limits.maxModelLen}; shorten the prompt or lower max_tokens`,
        { param: 'prompt' },
      );
    }
    encoded.push(one);
  }
  return encoded;
}
