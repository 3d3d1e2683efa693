/** The items of a response as they grow; each change is an event. */

import type { ListedLogprob } from '../schemas/answer-fields.ts';
import type { ItemStatus, WireOutputItem, WireOutputText } from '../schemas/responses.ts';
import type { WireResponseEvent } from '../schemas/responses-events.ts';
import type { ChatCall } from './chat-request.ts';
import { ChoiceReader, type Piece } from './choice-reader.ts';
import type { ChoiceEvent } from './completion-response.ts';
import { listedLogprob } from './token-logprobs.ts';

type Unnumbered<T> = T extends unknown ? Omit<T, 'sequence_number'> : never;
/** An event that has no number yet. */
export type OutputEvent = Unnumbered<WireResponseEvent>;

type MessageItem = WireOutputItem & { type: 'message' };
type CallItem = WireOutputItem & { type: 'function_call' };

export interface OutputOptions {
  readonly call: ChatCall;
  /** Begins the ids of items. */
  readonly id: string;
  /** Entries of top_logprobs. */
  readonly numTop: number;
}

const outputText = (text: string, logprobs: ListedLogprob[]): WireOutputText => ({
  ...{ type: 'output_text', text, annotations: [], logprobs },
});

export class ResponseOutput {
  readonly #options: OutputOptions;
  readonly #reader: ChoiceReader;
  readonly #items: WireOutputItem[] = [];
  /** The last item is not complete. */
  #isOpen = false;
  /** Of tokens whose text is not known to be a message's or a call's yet. */
  #logprobs: { readonly listed: ListedLogprob; readonly length: number }[] = [];
  #events: OutputEvent[] = [];
  #reason: 'stop' | 'length' | undefined;

  constructor(options: OutputOptions) {
    this.#options = options;
    this.#reader = new ChoiceReader(options.call);
  }

  get items(): readonly WireOutputItem[] {
    return this.#items;
  }

  /** Why the answer ended; set with its last event. */
  get reason(): 'stop' | 'length' | undefined {
    return this.#reason;
  }

  read(event: ChoiceEvent): OutputEvent[] {
    if (event.type === 'token' && event.logprobs !== undefined) {
      const listed = listedLogprob(event.logprobs, this.#options.numTop);
      this.#logprobs.push({ listed, length: event.text.length });
    }
    for (const piece of this.#reader.read(event)) this.#add(piece);
    if (event.type === 'finish') {
      this.#reason = event.reason;
      this.#end(event.reason === 'length' ? 'incomplete' : 'completed');
    }
    const events = this.#events;
    this.#events = [];
    return events;
  }

  get #index(): number {
    return this.#items.length - 1;
  }

  #open<T extends WireOutputItem['type']>(type: T): (WireOutputItem & { type: T }) | undefined {
    const last = this.#items.at(-1);
    return this.#isOpen && last?.type === type ? (last as WireOutputItem & { type: T }) : undefined;
  }

  #add(piece: Piece): void {
    if (piece.type === 'text') {
      this.#text(piece.text);
      return;
    }
    // These tokens are a call's, and calls list no log-probabilities.
    this.#logprobs = [];
    if (piece.type === 'call') this.#begin(piece.id, piece.name);
    else this.#arguments(piece.text);
  }

  #text(delta: string): void {
    const logprobs = this.#logprobsOf(delta);
    const message = this.#open('message') ?? this.#beginMessage();
    const part = message.content[0]!;
    part.text += delta;
    part.logprobs.push(...logprobs);
    this.#events.push({
      type: 'response.output_text.delta',
      ...this.#part(message),
      delta,
      logprobs,
    });
  }

  /** Of the text's tokens: after a call they are the last ones, before them the call's end came. */
  #logprobsOf(text: string): ListedLogprob[] {
    const waiting = this.#logprobs;
    this.#logprobs = [];
    let first = 0;
    if (this.#open('function_call') !== undefined) {
      first = waiting.length;
      for (let length = 0; first > 0 && length < text.length; ) {
        first -= 1;
        length += waiting[first]!.length;
      }
    }
    return waiting.slice(first).map(({ listed }) => listed);
  }

  #beginMessage(): MessageItem {
    this.#close('completed');
    const id = `msg_${this.#options.id}_${this.#items.length}`;
    const message: MessageItem = {
      ...{ type: 'message', id, status: 'in_progress', role: 'assistant', content: [] },
    };
    this.#items.push(message);
    this.#isOpen = true;
    const item = { ...message, content: [] };
    const part = outputText('', []);
    this.#events.push(
      { type: 'response.output_item.added', output_index: this.#index, item },
      { type: 'response.content_part.added', ...this.#part(message), part },
    );
    message.content.push(outputText('', []));
    return message;
  }

  #begin(callId: string, name: string): void {
    this.#close('completed');
    const id = `fc_${this.#options.id}_${this.#items.length}`;
    const call: CallItem = {
      ...{ type: 'function_call', id, call_id: callId, name, arguments: '', status: 'in_progress' },
    };
    this.#items.push(call);
    this.#isOpen = true;
    const item = { ...call };
    this.#events.push({ type: 'response.output_item.added', output_index: this.#index, item });
  }

  #arguments(delta: string): void {
    const call = this.#open('function_call')!;
    call.arguments += delta;
    const type = 'response.function_call_arguments.delta';
    this.#events.push({ type, ...this.#place(call), delta });
  }

  /** An answer without a call has a message, be it an empty one. */
  #end(status: ItemStatus): void {
    const isEmpty = this.#items.length === 0;
    const hasMore = this.#logprobs.length > 0 && this.#open('message') !== undefined;
    if (isEmpty || hasMore) this.#text('');
    this.#close(status);
  }

  #close(status: ItemStatus): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    const item = this.#items.at(-1)!;
    item.status = status;
    if (item.type === 'message') {
      const [part] = item.content;
      const { text, logprobs } = part!;
      this.#events.push(
        { type: 'response.output_text.done', ...this.#part(item), text, logprobs },
        { type: 'response.content_part.done', ...this.#part(item), part: part! },
      );
    } else {
      const { name, arguments: text } = item;
      const type = 'response.function_call_arguments.done';
      this.#events.push({ type, ...this.#place(item), name, arguments: text });
    }
    this.#events.push({ type: 'response.output_item.done', output_index: this.#index, item });
  }

  #place({ id }: WireOutputItem) {
    return { item_id: id, output_index: this.#index };
  }

  #part(item: MessageItem) {
    return { ...this.#place(item), content_index: 0 };
  }
}
