/** What a request wants its answer to show besides text. */
import type { Generation, TextLogprobs } from '../../generation/types.ts';
import type { AnswerFields, WirePromptLogprob } from '../schemas/answer-fields.ts';
import type { GenerationFields } from '../schemas/generation-fields.ts';
import type { ChoiceEvent } from './completion-response.ts';
import { refuse } from './refuse.ts';

export interface AnswerOptions {
  /** Likely tokens in prompt_logprobs; undefined without it. */
  readonly promptLogprobs: number | undefined;
  readonly tokenIds: boolean;
  /** Tokens of log-probabilities as `token_id:N`. */
  readonly tokensAsIds: boolean;
  /** The end of the answer's id. */
  readonly requestId: string | undefined;
  readonly includeUsage: boolean;
  /** The usage so far in every chunk. */
  readonly continuousUsage: boolean;
}

/** @throws LoramuxError invalid_request */
export function answerOptions(body: AnswerFields & GenerationFields): AnswerOptions {
  const promptLogprobs = body.prompt_logprobs ?? undefined;
  if (promptLogprobs !== undefined && body.stream === true) {
    throw refuse('prompt_logprobs are not part of streams', 'prompt_logprobs');
  }
  const { include_usage: atEnd = false, continuous_usage_stats: always = false } =
    body.stream_options ?? {};
  return {
    promptLogprobs,
    tokenIds: body.return_token_ids ?? false,
    tokensAsIds: body.return_tokens_as_token_ids ?? false,
    requestId: body.request_id ?? undefined,
    includeUsage: atEnd,
    // As vLLM has it: only beside the usage at the end.
    continuousUsage: atEnd && always,
  };
}

const idText = (tokenId: number) => `token_id:${tokenId}`;

function byId(entry: TextLogprobs): TextLogprobs {
  const top = entry.top?.map((one) => ({ ...one, token: idText(one.tokenId) })) ?? null;
  return { ...entry, token: idText(entry.tokenId), top };
}

/** The event with its tokens as the answer shows them. */
export function shownEvent(event: ChoiceEvent, { tokensAsIds }: AnswerOptions): ChoiceEvent {
  if (!tokensAsIds || event.type === 'finish' || event.logprobs === undefined) return event;
  return event.type === 'echo'
    ? { ...event, logprobs: event.logprobs.map(byId) }
    : { ...event, logprobs: byId(event.logprobs) };
}

type PromptLogprobs = (Record<string, WirePromptLogprob> | null)[];

/** vLLM's shape: the prompt's token first, then the likeliest ones. */
export function wirePromptLogprobs(
  entries: readonly TextLogprobs[],
  numTop: number,
): PromptLogprobs {
  return entries.map(({ token, tokenId, logprob, rank, top }) => {
    if (logprob === null || rank === null) return null;
    const shown = { [tokenId]: { logprob, rank, decoded_token: token } };
    for (const [i, one] of (top ?? []).slice(0, numTop).entries()) {
      const entry = { logprob: one.logprob, rank: i + 1, decoded_token: one.token };
      shown[one.tokenId] ??= entry;
    }
    return shown;
  });
}

/** Of one prompt, for a whole answer; nothing that was not asked for. */
export function promptMembers(
  generation: Generation,
  prompt: number,
  { promptLogprobs, tokenIds }: AnswerOptions,
): { prompt_logprobs?: PromptLogprobs; prompt_token_ids?: number[] } {
  const { tokenIds: ids, logprobs } = generation.prompts[prompt]!;
  return {
    ...(promptLogprobs !== undefined && {
      // A prompt of one token has nothing to score.
      prompt_logprobs:
        logprobs === undefined ? [null] : wirePromptLogprobs(logprobs, promptLogprobs),
    }),
    ...(tokenIds && { prompt_token_ids: [...ids] }),
  };
}
