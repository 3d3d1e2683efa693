/** Text events to OpenAI's chat completions, whole or in chunks. */
import { randomBytes } from 'node:crypto';
import type { ToolEvent, ToolParser } from '../../chat/tools/types.ts';
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
import { type ChoiceEvent, wireUsage } from './completion-response.ts';
import type { StreamShape } from './sse.ts';

const CALL_ID_BYTES = 12;
/** Mistral's templates take ids of exactly nine letters and digits. */
const MISTRAL_ID_LENGTH = 9;
/** What JSON has for a token that cannot come. */
const LOGPROB_MIN = -9999;

function callId(call: ChatCall): string {
  const random = randomBytes(CALL_ID_BYTES).toString('hex');
  const isMistral = call.toolFormat().name === 'mistral';
  return isMistral ? random.slice(0, MISTRAL_ID_LENGTH) : `call_${random}`;
}

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

function chatLogprobs(entry: TextLogprobs, numTop: number): WireChatLogprobs {
  const top = (entry.top ?? []).slice(0, numTop);
  return {
    content: [
      {
        ...tokenLogprob(entry.token, entry.logprob ?? 0),
        top_logprobs: top.map(({ token, logprob }) => tokenLogprob(token, logprob)),
      },
    ],
    refusal: null,
  };
}

/** One choice: its text becomes content and calls, in pieces. */
class ChoiceReader {
  readonly #call: ChatCall;
  readonly #parser: ToolParser | undefined;
  #numCalls = 0;
  #finish: { reason: ChatFinishReason; stop: string | number | null } | undefined;

  constructor(call: ChatCall) {
    this.#call = call;
    this.#parser = call.tools === undefined ? undefined : call.toolFormat().createParser();
  }

  /** Set with the last event. */
  get finish() {
    return this.#finish;
  }

  read(event: ChoiceEvent): WireDelta[] {
    const deltas = this.#text(event.text);
    if (event.type !== 'finish') return deltas;
    if (this.#parser !== undefined) deltas.push(...this.#deltas(this.#parser.end()));
    const calls = this.#numCalls > 0 && event.reason === 'stop';
    this.#finish = {
      reason: calls ? 'tool_calls' : event.reason,
      stop: event.stopReason ?? null,
    };
    return deltas;
  }

  #text(text: string): WireDelta[] {
    if (text === '') return [];
    if (this.#parser === undefined) return [{ content: text }];
    return this.#deltas(this.#parser.push(text));
  }

  #deltas(events: readonly ToolEvent[]): WireDelta[] {
    const deltas: WireDelta[] = [];
    for (const event of events) {
      if (event.type === 'call') this.#numCalls += 1;
      const index = this.#numCalls - 1;
      const isTooMany = index > 0 && this.#call.tools?.parallel === false;
      if (event.type === 'text') {
        deltas.push({ content: event.text });
      } else if (isTooMany) {
        // The request allows one call, and a grammar could not see to it.
      } else if (event.type === 'call') {
        const id = callId(this.#call);
        const { name } = event;
        deltas.push({
          tool_calls: [{ index, id, type: 'function', function: { name, arguments: '' } }],
        });
      } else {
        deltas.push({ tool_calls: [{ index, function: { arguments: event.text } }] });
      }
    }
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
  readonly #generation: Generation;
  readonly #options: ChatOptions;
  readonly #readers: ChoiceReader[];
  readonly #choices: readonly CollectedChoice[];

  constructor(generation: Generation, options: ChatOptions) {
    this.#generation = generation;
    this.#options = options;
    const { choices: length } = generation;
    this.#readers = Array.from({ length }, () => new ChoiceReader(options.call));
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

  finish(head: ChatHead): WireChatCompletion {
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
      ...head,
      object: 'chat.completion',
      choices,
      usage: wireUsage(this.#generation.usage()),
      ...promptMembers(this.#generation, 0, this.#options),
    };
  }
}

/** The chunks of a streamed answer. */
export class ChatStream implements StreamShape {
  readonly #head: ChatHead;
  readonly #generation: Generation;
  readonly #options: ChatOptions;
  readonly #readers: (ChoiceReader | undefined)[] = [];

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
      reader = new ChoiceReader(this.#options.call);
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
