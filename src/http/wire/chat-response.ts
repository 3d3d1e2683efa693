/** Text events to OpenAI's chat completions, whole or in chunks. */
import type { Generation, TextLogprobs } from '../../generation/types.ts';
import type { AnsweredBy } from '../schemas/adapter-choice.ts';
import type {
  ChatFinishReason,
  WireCall,
  WireChatChoice,
  WireChatChunk,
  WireChatCompletion,
  WireChatLogprobs,
  WireDelta,
} from '../schemas/chat.ts';
import { answeredBy } from './adapter-choice.ts';
import { type AnswerOptions, promptMembers, shownEvent } from './answer-options.ts';
import type { ChatCall } from './chat-request.ts';
import { ChoiceReader, type Piece } from './choice-reader.ts';
import { type ChoiceEvent, wireUsage } from './completion-response.ts';
import type { ObjectShape } from './sse.ts';
import { listedLogprob } from './token-logprobs.ts';

/** What all objects of one answer share, but its kind. */
export interface ChatHead extends AnsweredBy {
  readonly id: string;
  readonly created: number;
  readonly model: string;
  readonly system_fingerprint: string;
}

export function chatHead(
  generation: Generation,
  model: string,
  { version, requestId }: { version: string; requestId: string | undefined },
): ChatHead {
  return {
    id: `chatcmpl-${requestId ?? generation.id}`,
    created: Math.floor(Date.now() / 1000),
    model,
    system_fingerprint: `loramux-${version}`,
    ...answeredBy(generation),
  };
}

const chatLogprobs = (entry: TextLogprobs, numTop: number): WireChatLogprobs => ({
  content: [listedLogprob(entry, numTop)],
  refusal: null,
});

/** What a piece adds to a choice. */
function deltaOf(piece: Piece): WireDelta {
  if (piece.type === 'text') return { content: piece.text };
  const { index } = piece;
  if (piece.type === 'arguments') {
    return { tool_calls: [{ index, function: { arguments: piece.text } }] };
  }
  const { id, name } = piece;
  return { tool_calls: [{ index, id, type: 'function', function: { name, arguments: '' } }] };
}

/** One choice as deltas, and why it ended. */
class ChoiceDeltas {
  readonly #reader: ChoiceReader;
  #finish: { reason: ChatFinishReason; stop: string | number | null } | undefined;

  constructor(call: ChatCall) {
    this.#reader = new ChoiceReader(call);
  }

  /** Set with the last event. */
  get finish() {
    return this.#finish;
  }

  read(event: ChoiceEvent): WireDelta[] {
    const deltas = this.#reader.read(event).map(deltaOf);
    if (event.type !== 'finish') return deltas;
    const calls = this.#reader.numCalls > 0 && event.reason === 'stop';
    this.#finish = {
      reason: calls ? 'tool_calls' : event.reason,
      stop: event.stopReason ?? null,
    };
    return deltas;
  }
}

/** What the request says about the shape of its answer. */
export interface ChatOptions extends AnswerOptions {
  readonly call: ChatCall;
  /** Entries of top_logprobs. */
  readonly numTop: number;
}

interface CollectedChoice {
  content: string;
  readonly calls: WireCall[];
  logprobs: WireChatLogprobs | null;
  readonly tokenIds: number[];
}

/** Collects the events of a whole answer. */
export class ChatCollector {
  readonly #head: ChatHead;
  readonly #generation: Generation;
  readonly #options: ChatOptions;
  readonly #readers: ChoiceDeltas[];
  readonly #choices: readonly CollectedChoice[];

  constructor(head: ChatHead, generation: Generation, options: ChatOptions) {
    this.#head = head;
    this.#generation = generation;
    this.#options = options;
    const { choices: length } = generation;
    this.#readers = Array.from({ length }, () => new ChoiceDeltas(options.call));
    this.#choices = this.#readers.map(() => ({
      content: options.call.prefix,
      calls: [],
      logprobs: null,
      tokenIds: [],
    }));
  }

  add(raw: ChoiceEvent): void {
    const event = shownEvent(raw, this.#options);
    const choice = this.#choices[event.index]!;
    for (const delta of this.#readers[event.index]!.read(event)) {
      choice.content += delta.content ?? '';
      for (const { index, id, function: part } of delta.tool_calls ?? []) {
        if (id !== undefined) {
          choice.calls.push({
            id,
            type: 'function',
            function: { name: part.name!, arguments: '' },
          });
        }
        choice.calls[index]!.function.arguments += part.arguments ?? '';
      }
    }
    if (event.type !== 'token') return;
    choice.tokenIds.push(event.tokenId);
    if (event.logprobs === undefined) return;
    choice.logprobs ??= { content: [], refusal: null };
    choice.logprobs.content.push(...chatLogprobs(event.logprobs, this.#options.numTop).content);
  }

  finish(): WireChatCompletion {
    const choices = this.#choices.map((choice, index): WireChatChoice => {
      const { content, calls, logprobs, tokenIds } = choice;
      const { reason, stop } = this.#readers[index]!.finish!;
      return {
        index,
        message: {
          role: 'assistant',
          content: content === '' && calls.length > 0 ? null : content,
          refusal: null,
          ...(calls.length > 0 && { tool_calls: calls }),
        },
        logprobs,
        finish_reason: reason,
        stop_reason: stop,
        ...(this.#options.tokenIds && { token_ids: tokenIds }),
      };
    });
    return {
      ...this.#head,
      object: 'chat.completion',
      choices,
      usage: wireUsage(this.#generation.usage()),
      ...promptMembers(this.#generation, 0, this.#options),
    };
  }
}

/** The chunks of a streamed answer. */
export class ChatStream implements ObjectShape {
  readonly #head: ChatHead;
  readonly #generation: Generation;
  readonly #options: ChatOptions;
  readonly #readers: (ChoiceDeltas | undefined)[] = [];

  constructor(head: ChatHead, generation: Generation, options: ChatOptions) {
    this.#head = head;
    this.#generation = generation;
    this.#options = options;
  }

  chunks(raw: ChoiceEvent): WireChatChunk[] {
    const event = shownEvent(raw, this.#options);
    const { index } = event;
    const chunks: WireChatChunk[] = [];
    const isFirst = this.#readers.length === 0;
    let reader = this.#readers[index];
    if (reader === undefined) {
      reader = new ChoiceDeltas(this.#options.call);
      this.#readers[index] = reader;
      const { prefix } = this.#options.call;
      chunks.push(this.#chunk(index, { role: 'assistant', content: '', refusal: null }));
      if (prefix !== '') chunks.push(this.#chunk(index, { content: prefix }));
    }
    const deltas = reader.read(event);
    let logprobs: WireChatLogprobs | null = null;
    if (event.type === 'token') {
      const { tokenIds, numTop } = this.#options;
      if (event.logprobs !== undefined) logprobs = chatLogprobs(event.logprobs, numTop);
      // The token's text may be held back, or be none.
      if (deltas.length === 0 && (tokenIds || logprobs !== null)) deltas.push({});
    }
    let ids = event.type === 'token' ? [event.tokenId] : [];
    for (const delta of deltas) {
      chunks.push(this.#chunk(index, delta, logprobs, ids));
      logprobs = null;
      ids = [];
    }
    if (reader.finish !== undefined) {
      const { reason, stop } = reader.finish;
      const [choice] = this.#chunk(index, {}).choices;
      const end = { ...choice!, finish_reason: reason, stop_reason: stop };
      chunks.push({ ...this.#envelope(), choices: [end] });
    }
    if (isFirst) Object.assign(chunks[0]!, promptMembers(this.#generation, 0, this.#options));
    return chunks;
  }

  last(): WireChatChunk | undefined {
    if (!this.#options.includeUsage) return undefined;
    return { ...this.#envelope(), choices: [], usage: wireUsage(this.#generation.usage()) };
  }

  #envelope(): Omit<WireChatChunk, 'choices'> {
    const { includeUsage, continuousUsage } = this.#options;
    const usage = continuousUsage ? wireUsage(this.#generation.usage()) : null;
    return {
      ...this.#head,
      object: 'chat.completion.chunk',
      ...(includeUsage && { usage }),
    };
  }

  #chunk(
    index: number,
    delta: WireDelta,
    logprobs: WireChatLogprobs | null = null,
    tokenIds: number[] = [],
  ): WireChatChunk {
    const ids = this.#options.tokenIds ? { token_ids: tokenIds } : {};
    const choice = { index, delta, logprobs, finish_reason: null, ...ids };
    return { ...this.#envelope(), choices: [choice] };
  }
}
