/** The input of a response as the messages of a chat. */
import type { ChatMessage } from '../../chat/types.ts';
import type { JsonObject } from '../../importer/json.ts';
import type { CreateResponse } from '../schemas/responses.ts';
import type { WireItem, WireItemPart } from '../schemas/responses-items.ts';
import { callArguments } from './chat-prompt.ts';
import { refuse } from './refuse.ts';

type CallItem = WireItem & { type: 'function_call' };
type OutputItem = WireItem & { type: 'function_call_output' };
type MessageItem = Exclude<WireItem, CallItem | OutputItem>;
type Content = string | { type: 'text'; text: string }[];

const textOf = (part: WireItemPart) => ('text' in part ? part.text : part.refusal);

const contentOf = (content: string | readonly WireItemPart[]): Content =>
  typeof content === 'string'
    ? content
    : content.map((part) => ({ type: 'text', text: textOf(part) }));

const plain = (content: Content) =>
  typeof content === 'string' ? content : content.map(({ text }) => text).join('');

/** What an assistant says in one turn: a chat has its text and its calls in one message. */
interface Turn {
  content: Content | null;
  readonly calls: JsonObject[];
}

class Messages {
  readonly #messages: ChatMessage[] = [];
  readonly #callIds = new Set<string>();
  #turn: Turn | undefined;

  add(item: WireItem, at: string): void {
    if (item.type === 'function_call') this.#addCall(item, at);
    else if (item.type === 'function_call_output') this.#addOutput(item, at);
    else this.addMessage(item);
  }

  addMessage({ role, content: given }: Pick<MessageItem, 'role' | 'content'>): void {
    const content = contentOf(given);
    if (role !== 'assistant') {
      this.#endTurn();
      this.#messages.push({ role, content });
    } else if (this.#turn !== undefined && this.#turn.calls.length > 0) {
      // Between a call and what came of it: still the same turn.
      this.#turn.content = plain(this.#turn.content ?? '') + plain(content);
    } else {
      this.#endTurn();
      this.#turn = { content, calls: [] };
    }
  }

  #addCall({ call_id: id, name, arguments: text }: CallItem, at: string): void {
    const given = callArguments(text, `${at}.arguments`);
    this.#callIds.add(id);
    this.#turn ??= { content: null, calls: [] };
    this.#turn.calls.push({ id, type: 'function', function: { name, arguments: given } });
  }

  #addOutput({ call_id: id, output }: OutputItem, at: string): void {
    if (!this.#callIds.has(id)) {
      const why = 'is of no function_call before it; this server keeps no earlier responses';
      throw refuse(`${at}.call_id ${why}`, `${at}.call_id`);
    }
    this.#endTurn();
    this.#messages.push({ role: 'tool', content: contentOf(output), tool_call_id: id });
  }

  #endTurn(): void {
    if (this.#turn === undefined) return;
    const { content, calls } = this.#turn;
    this.#turn = undefined;
    this.#messages.push({
      role: 'assistant',
      content,
      ...(calls.length > 0 && { tool_calls: calls }),
    });
  }

  end(): ChatMessage[] {
    this.#endTurn();
    return this.#messages;
  }
}

/** @throws LoramuxError invalid_request */
export function messagesOf({
  instructions,
  input,
}: Pick<CreateResponse, 'instructions' | 'input'>): ChatMessage[] {
  const messages = new Messages();
  if (typeof instructions === 'string') {
    messages.addMessage({ role: 'system', content: instructions });
  }
  if (typeof input === 'string') messages.addMessage({ role: 'user', content: input });
  else for (const [i, item] of input.entries()) messages.add(item, `input.${i}`);
  return messages.end();
}
