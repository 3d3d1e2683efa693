/** The prompt as part of the answer: its text and the log-probabilities of its tokens. */
import type { TokenLogprobs } from '../engine/types.ts';
import type { Tokenizer } from '../tokenizer/tokenizer.ts';
import { codePoints, textLogprobs } from './choice.ts';
import type { EncodedPrompt } from './prompts.ts';
import type { TextLogprobs } from './types.ts';

/**
 * One entry per prompt token. Offsets come from detokenising the prompt, so they point into the
 * prompt's text wherever tokenising kept it as it was; never beyond its end.
 */
export function promptTextLogprobs(
  tokenizer: Tokenizer,
  prompt: EncodedPrompt,
  logprobs: readonly (TokenLogprobs | null)[],
  skipSpecialTokens: boolean,
): TextLogprobs[] {
  const stream = tokenizer.createDetokenizer({ skipSpecialTokens });
  const end = codePoints(prompt.text);
  let offset = 0;
  return Array.from(prompt.tokenIds, (tokenId, i) => {
    const at = Math.min(offset, end);
    offset += codePoints(stream.push(tokenId));
    const entry = logprobs[i];
    if (entry) return textLogprobs(tokenizer, entry, at);
    const token = tokenizer.tokenText(tokenId);
    return { token, tokenId, logprob: null, rank: null, top: null, textOffset: at };
  });
}
