/** Text events to OpenAI's completion objects, whole or in chunks. */
import type { Generation, GenerationEvent, TextLogprobs, Usage } from '../../generation/types.ts';
import type { AnsweredBy } from '../schemas/adapter-choice.ts';
import type {
  WireChoice,
  WireCompletion,
  WireCompletionChunk,
  WireLogprobs,
  WireUsage,
} from '../schemas/completion.ts';
import { answeredBy } from './adapter-choice.ts';
import { type AnswerOptions, promptMembers, shownEvent } from './answer-options.ts';
import type { ObjectShape } from './sse.ts';

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
export interface CompletionHead extends AnsweredBy {
  readonly id: string;
  readonly object: 'text_completion';
  readonly created: number;
  readonly model: string;
}

export function completionHead(
  generation: Generation,
  model: string,
  requestId: string | undefined,
): CompletionHead {
  return {
    id: `cmpl-${requestId ?? generation.id}`,
    object: 'text_completion',
    created: Math.floor(Date.now() / 1000),
    model,
    ...answeredBy(generation),
  };
}

/** How many choices are made and shown. */
export interface CompletionOptions extends AnswerOptions {
  /** Choices of each prompt in the answer, the likeliest of those that were made. */
  readonly n: number;
  /** The log-probabilities were only to choose by. */
  readonly hideLogprobs: boolean;
}

/** Collects the events of a whole answer. */
export class CompletionCollector {
  readonly #head: CompletionHead;
  readonly #generation: Generation;
  readonly #options: CompletionOptions;
  readonly #choices: WireChoice[];
  /** By choice: the sum of its tokens' log-probabilities. */
  readonly #likelihoods: number[];

  constructor(head: CompletionHead, generation: Generation, options: CompletionOptions) {
    this.#head = head;
    this.#generation = generation;
    this.#options = options;
    this.#choices = Array.from({ length: generation.choices }, (_, index) => ({
      index,
      text: '',
      logprobs: null,
      finish_reason: null,
      stop_reason: null,
      ...(options.tokenIds && { token_ids: [] }),
    }));
    this.#likelihoods = this.#choices.map(() => 0);
  }

  add(raw: ChoiceEvent): void {
    const event = shownEvent(raw, this.#options);
    const choice = this.#choices[event.index]!;
    choice.text += event.text;
    if (event.type === 'finish') {
      choice.finish_reason = event.reason;
      choice.stop_reason = event.stopReason ?? null;
      return;
    }
    if (event.type === 'token') {
      choice.token_ids?.push(event.tokenId);
      this.#likelihoods[event.index]! += event.logprobs?.logprob ?? 0;
    }
    if (event.logprobs === undefined || this.#options.hideLogprobs) return;
    choice.logprobs ??= emptyLogprobs();
    append(choice.logprobs, event.type === 'echo' ? event.logprobs : [event.logprobs]);
  }

  finish(): WireCompletion {
    const numPrompts = this.#generation.prompts.length;
    const made = this.#choices.length / numPrompts;
    const { n } = this.#options;
    const choices: WireChoice[] = [];
    for (let prompt = 0; prompt < numPrompts; prompt++) {
      const members = promptMembers(this.#generation, prompt, this.#options);
      const own = this.#choices.slice(prompt * made, (prompt + 1) * made);
      if (n < made) {
        own.sort((a, b) => this.#likelihoods[b.index]! - this.#likelihoods[a.index]!);
      }
      for (const choice of own.slice(0, n)) {
        choices.push({ ...choice, index: choices.length, ...members });
      }
    }
    return { ...this.#head, choices, usage: wireUsage(this.#generation.usage()) };
  }
}

/** The chunks of a streamed answer. */
export class CompletionStream implements ObjectShape {
  readonly #head: CompletionHead;
  readonly #generation: Generation;
  readonly #options: CompletionOptions;
  /** Choices that have begun. */
  readonly #begun = new Set<number>();

  constructor(head: CompletionHead, generation: Generation, options: CompletionOptions) {
    this.#head = head;
    this.#generation = generation;
    this.#options = options;
  }

  chunks(raw: ChoiceEvent): WireCompletionChunk[] {
    const { includeUsage, continuousUsage } = this.#options;
    const event = shownEvent(raw, this.#options);
    const finished = event.type === 'finish';
    return [
      {
        ...this.#head,
        choices: [
          {
            index: event.index,
            text: event.text,
            logprobs: wireLogprobs(event) ?? null,
            finish_reason: finished ? event.reason : null,
            stop_reason: finished ? (event.stopReason ?? null) : null,
            ...this.#ids(event),
          },
        ],
        ...(includeUsage && {
          usage: continuousUsage ? wireUsage(this.#generation.usage()) : null,
        }),
      },
    ];
  }

  /** Without choices. */
  last(): WireCompletionChunk | undefined {
    if (!this.#options.includeUsage) return undefined;
    return { ...this.#head, choices: [], usage: wireUsage(this.#generation.usage()) };
  }

  #ids(event: ChoiceEvent): Partial<WireChoice> {
    if (!this.#options.tokenIds) return {};
    const { index } = event;
    const ids = { token_ids: event.type === 'token' ? [event.tokenId] : [] };
    if (this.#begun.has(index)) return ids;
    this.#begun.add(index);
    const prompt = Math.floor(index / this.#options.n);
    return { ...ids, ...promptMembers(this.#generation, prompt, this.#options) };
  }
}
