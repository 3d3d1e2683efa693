/** Text events to OpenAI's completion objects, whole or in chunks. */
import type { Generation, GenerationEvent, TextLogprobs, Usage } from '../../generation/types.ts';
import type {
  WireChoice,
  WireCompletion,
  WireCompletionChunk,
  WireLogprobs,
  WireUsage,
} from '../schemas/completion.ts';
import { generationOf } from './adapter-choice.ts';
import type { StreamShape } from './sse.ts';

export type ChoiceEvent = Exclude<GenerationEvent, { type: 'error' }>;

const emptyLogprobs = (): WireLogprobs => ({
  tokens: [],
  token_logprobs: [],
  top_logprobs: [],
  text_offset: [],
});

/** The sampled token is always listed, also when it is not among the likeliest. */
function topOf(entry: TextLogprobs): Record<string, number> | null {
  if (entry.logprob === null || entry.top === null) return null;
  // Without a prototype: "constructor" and "toString" are tokens like any other.
  const top: Record<string, number> = Object.create(null);
  for (const { token, logprob } of entry.top) top[token] ??= logprob;
  top[entry.token] ??= entry.logprob;
  return top;
}

function append(target: WireLogprobs, entries: readonly TextLogprobs[]): void {
  for (const entry of entries) {
    target.tokens.push(entry.token);
    target.token_logprobs.push(entry.logprob);
    target.top_logprobs.push(topOf(entry));
    target.text_offset.push(entry.textOffset);
  }
}

/** The log-probabilities that come with one event, in OpenAI's columns. */
export function wireLogprobs(event: ChoiceEvent): WireLogprobs | undefined {
  if (event.type === 'finish' || event.logprobs === undefined) return undefined;
  const columns = emptyLogprobs();
  append(columns, event.type === 'echo' ? event.logprobs : [event.logprobs]);
  return columns;
}

export function wireUsage(usage: Usage): WireUsage {
  return {
    prompt_tokens: usage.promptTokens,
    completion_tokens: usage.completionTokens,
    total_tokens: usage.promptTokens + usage.completionTokens,
    prompt_tokens_details: { cached_tokens: usage.cachedTokens },
  };
}

/** What all objects of one answer share. */
export interface CompletionHead {
  readonly id: string;
  readonly object: 'text_completion';
  readonly created: number;
  readonly model: string;
  readonly adapter_generation?: string;
}

export function completionHead(generation: Generation, model: string): CompletionHead {
  return {
    id: `cmpl-${generation.id}`,
    object: 'text_completion',
    created: Math.floor(Date.now() / 1000),
    model,
    ...generationOf(generation),
  };
}

/** Collects the events of a whole answer. */
export class CompletionCollector {
  readonly #choices: WireChoice[];

  constructor(numChoices: number) {
    this.#choices = Array.from({ length: numChoices }, (_, index) => ({
      index,
      text: '',
      logprobs: null,
      finish_reason: null,
      stop_reason: null,
    }));
  }

  add(event: ChoiceEvent): void {
    const choice = this.#choices[event.index]!;
    choice.text += event.text;
    if (event.type === 'finish') {
      choice.finish_reason = event.reason;
      choice.stop_reason = event.stopReason ?? null;
      return;
    }
    if (event.logprobs === undefined) return;
    choice.logprobs ??= emptyLogprobs();
    append(choice.logprobs, event.type === 'echo' ? event.logprobs : [event.logprobs]);
  }

  finish(head: CompletionHead, usage: Usage): WireCompletion {
    return { ...head, choices: this.#choices, usage: wireUsage(usage) };
  }
}

function completionChunk(
  head: CompletionHead,
  event: ChoiceEvent,
  includeUsage: boolean,
): WireCompletionChunk {
  const finished = event.type === 'finish';
  return {
    ...head,
    choices: [
      {
        index: event.index,
        text: event.text,
        logprobs: wireLogprobs(event) ?? null,
        finish_reason: finished ? event.reason : null,
        stop_reason: finished ? (event.stopReason ?? null) : null,
      },
    ],
    ...(includeUsage && { usage: null }),
  };
}

/** The chunks of a streamed answer. */
export function completionStream(
  head: CompletionHead,
  generation: Generation,
  includeUsage: boolean,
): StreamShape {
  return {
    chunks: (event) => [completionChunk(head, event, includeUsage)],
    // Without choices.
    last: () =>
      includeUsage ? { ...head, choices: [], usage: wireUsage(generation.usage()) } : undefined,
  };
}
