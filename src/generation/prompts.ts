/** Prompts to token ids, checked against the vocabulary and the context length. */
import type { AdapterRecord } from '../adapters/types.ts';
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

/** The part of the prompt that is kept. */
function cut(
  tokenIds: Int32Array,
  { truncate, sampling }: GenerationRequest,
  maxModelLen: number,
): Int32Array {
  if (truncate === undefined) return tokenIds;
  const room = Math.max(0, maxModelLen - (sampling.maxTokens ?? 1));
  const keep = truncate.tokens === 'room' ? room : truncate.tokens;
  if (tokenIds.length <= keep) return tokenIds;
  return truncate.side === 'right'
    ? tokenIds.slice(0, keep)
    : tokenIds.slice(tokenIds.length - keep);
}

async function idsOf(
  tokenizer: Tokenizer,
  prompt: Prompt,
  request: GenerationRequest,
  adapter: AdapterRecord | undefined,
  signal: AbortSignal,
): Promise<{ tokenIds: Int32Array; text: string | undefined }> {
  if (prompt.kind === 'tokens') return { tokenIds: prompt.tokenIds, text: undefined };
  const isChat = prompt.kind === 'chat';
  const text = isChat ? await prompt.render(adapter, signal) : prompt.text;
  signal.throwIfAborted();
  const { addSpecialTokens } = isChat ? prompt : request;
  return { tokenIds: await tokenizer.encode(text, { addSpecialTokens }), text };
}

async function encodeOne(
  tokenizer: Tokenizer,
  prompt: Prompt,
  limits: { vocabSize: number; maxModelLen: number },
  request: GenerationRequest,
  adapter: AdapterRecord | undefined,
  signal: AbortSignal,
): Promise<EncodedPrompt> {
  const whole = await idsOf(tokenizer, prompt, request, adapter, signal);
  // A tokenizer with more tokens than the model has embeddings would read past the weights.
  checkTokenIds(whole.tokenIds, limits.vocabSize, prompt.kind === 'chat' ? 'messages' : 'prompt');
  const tokenIds = cut(whole.tokenIds, request, limits.maxModelLen);
  if (whole.text !== undefined && tokenIds === whole.tokenIds) {
    return { tokenIds, text: whole.text };
  }
  if (!request.echo) return { tokenIds, text: '' };
  const { skipSpecialTokens } = request;
  return { tokenIds, text: await tokenizer.decode(tokenIds, { skipSpecialTokens }) };
}

/**
 * @param adapter what the request resolved to: it chooses the template of a chat
 * @throws LoramuxError token_out_of_range, prompt_empty, context_length_exceeded (the engine checks
 *   prompt and output together again); the reason of an aborted signal
 */
export async function encodePrompts(
  tokenizer: Tokenizer,
  request: GenerationRequest,
  limits: { vocabSize: number; maxModelLen: number },
  adapter: AdapterRecord | undefined,
  signal: AbortSignal,
): Promise<EncodedPrompt[]> {
  const encoded: EncodedPrompt[] = [];
  for (const prompt of request.prompts) {
    const one = await encodeOne(tokenizer, prompt, limits, request, adapter, signal);
    const param = prompt.kind === 'chat' ? 'messages' : 'prompt';
    const length = one.tokenIds.length;
    if (length === 0) {
      throw new LoramuxError(
        'prompt_empty',
        'the prompt has no tokens; send at least one character or token id',
        { param },
      );
    }
    const { maxTokens } = request.sampling;
    // Without max_tokens there must be room for one.
    if (length + (maxTokens ?? 1) > limits.maxModelLen) {
      throw new LoramuxError(
        'context_length_exceeded',
        maxTokens === undefined
          ? `the prompt has ${length} tokens, which leaves none for the answer in the context ` +
              `length of ${limits.maxModelLen}; shorten the prompt`
          : `the prompt has ${length} tokens and max_tokens is ${maxTokens}, together more than ` +
              `the context length of ${limits.maxModelLen}; shorten the prompt or lower max_tokens`,
        { param },
      );
    }
    encoded.push(one);
  }
  return encoded;
}
