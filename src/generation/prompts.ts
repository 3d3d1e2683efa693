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

/** The field that a prompt came in. */
const paramOf = ({ kind }: Prompt) => (kind === 'chat' ? 'messages' : 'prompt');

/** What a prompt's ids depend on besides itself. */
export interface Encoding {
  /** What the request resolved to: it chooses the template of a chat. */
  readonly adapter: AdapterRecord | undefined;
  /** To a text; a chat says so itself. */
  readonly addSpecialTokens: boolean;
  readonly vocabSize: number;
}

async function encoded(
  tokenizer: Tokenizer,
  prompt: Prompt,
  { adapter, addSpecialTokens }: Encoding,
  signal: AbortSignal,
): Promise<{ tokenIds: Int32Array; text: string | undefined }> {
  if (prompt.kind === 'tokens') return { tokenIds: prompt.tokenIds, text: undefined };
  const isChat = prompt.kind === 'chat';
  const text = isChat ? await prompt.render(adapter, signal) : prompt.text;
  signal.throwIfAborted();
  const options = { addSpecialTokens: isChat ? prompt.addSpecialTokens : addSpecialTokens };
  return { tokenIds: await tokenizer.encode(text, options), text };
}

/**
 * The ids of a prompt, and its text where it came as one.
 * @throws LoramuxError token_out_of_range, those of a chat's `render`; the reason of an aborted signal
 */
export async function encodePrompt(
  tokenizer: Tokenizer,
  prompt: Prompt,
  encoding: Encoding,
  signal: AbortSignal,
): ReturnType<typeof encoded> {
  const whole = await encoded(tokenizer, prompt, encoding, signal);
  // A tokenizer with more tokens than the model has embeddings would read past the weights.
  checkTokenIds(whole.tokenIds, encoding.vocabSize, paramOf(prompt));
  return whole;
}

async function encodeOne(
  tokenizer: Tokenizer,
  prompt: Prompt,
  limits: { vocabSize: number; maxModelLen: number },
  request: GenerationRequest,
  adapter: AdapterRecord | undefined,
  signal: AbortSignal,
): Promise<EncodedPrompt> {
  const { addSpecialTokens } = request;
  const encoding = { adapter, addSpecialTokens, vocabSize: limits.vocabSize };
  const whole = await encodePrompt(tokenizer, prompt, encoding, signal);
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
    const param = paramOf(prompt);
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
