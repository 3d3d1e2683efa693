/** Log-probabilities of tokens as OpenAI's chats and responses list them. */
import type { TextLogprobs } from '../../generation/types.ts';
import type { ListedLogprob } from '../schemas/answer-fields.ts';

/** What JSON has for a token that cannot come. */
const LOGPROB_MIN = -9999;

/** A token that is half a character is shown as `bytes:\x..`. */
function bytesOf(token: string): number[] {
  if (/^bytes:(?:\\x[0-9a-f]{2})+$/.test(token)) {
    return [...Buffer.from(token.slice('bytes:'.length).replaceAll('\\x', ''), 'hex')];
  }
  return [...Buffer.from(token)];
}

const tokenLogprob = (token: string, logprob: number) => ({
  token,
  logprob: Math.max(logprob, LOGPROB_MIN),
  bytes: bytesOf(token),
});

/** One token with the likeliest ones in its place. */
export function listedLogprob(entry: TextLogprobs, numTop: number): ListedLogprob {
  const top = (entry.top ?? []).slice(0, numTop);
  return {
    ...tokenLogprob(entry.token, entry.logprob ?? 0),
    top_logprobs: top.map(({ token, logprob }) => tokenLogprob(token, logprob)),
  };
}
