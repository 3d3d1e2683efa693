/** Tokens that a request does not want: all but the allowed ones, and words. */

import { BannedTokens } from '../engine/banned-tokens.ts';
import type { SamplingParams } from '../engine/types.ts';
import { LoramuxError } from '../errors.ts';
import type { Tokenizer } from '../tokenizer/tokenizer.ts';
import { checkTokenIds } from './prompts.ts';
import type { GenerationRequest } from './types.ts';

export type Bans = Pick<SamplingParams, 'bannedTokenIds' | 'bannedSequences'>;

const NONE: Bans = { bannedTokenIds: undefined, bannedSequences: undefined };

/**
 * The token sequences of a word: as it is, and after a space where the tokenizer then has as many
 * other tokens for it, as vLLM does.
 */
async function sequencesOf(tokenizer: Tokenizer, word: string): Promise<Int32Array[]> {
  const encode = (text: string) => tokenizer.encode(text, { addSpecialTokens: false });
  const bare = word.trimStart();
  const [first, spaced] = await Promise.all([encode(bare), encode(` ${bare}`)]);
  if (first.length === 0) return [];
  const isOther = spaced.length === first.length && spaced[0] !== first[0];
  return isOther ? [first, spaced] : [first];
}

function checkSomethingIsLeft(
  allowed: ReadonlySet<number>,
  sequences: readonly Int32Array[],
  stopTokenIds: ReadonlySet<number> | undefined,
): void {
  const lastOf = new Set(sequences.map((sequence) => sequence.at(-1)!));
  const free = [...allowed].some((id) => !lastOf.has(id) && !stopTokenIds?.has(id));
  if (free) return;
  throw new LoramuxError(
    'invalid_request',
    'bad_words, and min_tokens for tokens that end the answer, leave none of allowed_token_ids',
    { param: 'allowed_token_ids' },
  );
}

/**
 * What the engine must not sample.
 * @param stopTokenIds tokens that end the answer
 * @throws LoramuxError token_out_of_range, invalid_request
 */
export async function bansOf(
  request: GenerationRequest,
  tokenizer: Tokenizer,
  vocabSize: number,
  stopTokenIds: ReadonlySet<number>,
): Promise<Bans> {
  const { allowedTokenIds, badWords = [] } = request;
  if (allowedTokenIds === undefined && badWords.length === 0) return NONE;
  checkTokenIds(allowedTokenIds ?? [], vocabSize, 'allowed_token_ids');
  const words = await Promise.all(badWords.map((word) => sequencesOf(tokenizer, word)));
  const sequences = words.flat();
  checkTokenIds(
    sequences.flatMap((sequence) => [...sequence]),
    vocabSize,
    'bad_words',
  );
  const banned = new Set<number>();
  const longer: Int32Array[] = [];
  for (const sequence of sequences) {
    if (sequence.length === 1) banned.add(sequence[0]!);
    else longer.push(sequence);
  }
  const bannedSequences = longer.length === 0 ? undefined : longer;
  if (allowedTokenIds === undefined) {
    const bannedTokenIds = banned.size === 0 ? undefined : Int32Array.from(banned);
    return { bannedTokenIds, bannedSequences };
  }
  const allowed = new Set(allowedTokenIds);
  const early = request.sampling.minTokens > 0 ? stopTokenIds : undefined;
  checkSomethingIsLeft(allowed, sequences, early);
  for (const id of banned) allowed.delete(id);
  return { bannedTokenIds: new BannedTokens(allowed, vocabSize), bannedSequences };
}
