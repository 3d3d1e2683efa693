/** The text of one choice, read as content and calls. */
import { randomBytes } from 'node:crypto';
import type { ToolEvent, ToolParser } from '../../chat/tools/types.ts';
import type { ChatCall } from './chat-request.ts';
import type { ChoiceEvent } from './completion-response.ts';

const CALL_ID_BYTES = 12;
/** Mistral's templates take ids of exactly nine letters and digits. */
const MISTRAL_ID_LENGTH = 9;

function callId(call: ChatCall): string {
  const random = randomBytes(CALL_ID_BYTES).toString('hex');
  const isMistral = call.toolFormat().name === 'mistral';
  return isMistral ? random.slice(0, MISTRAL_ID_LENGTH) : `call_${random}`;
}

/** A part of an answer; `index` numbers its calls. */
export type Piece =
  | { readonly type: 'text'; readonly text: string }
  /** A call begins; its arguments follow. */
  | { readonly type: 'call'; readonly index: number; readonly id: string; readonly name: string }
  | { readonly type: 'arguments'; readonly index: number; readonly text: string };

export class ChoiceReader {
  readonly #call: ChatCall;
  #made: ToolParser | undefined;
  #numCalls = 0;

  constructor(call: ChatCall) {
    this.#call = call;
  }

  /** Made for the first text: a chat whose client left was never rendered and has no format. */
  get #parser(): ToolParser | undefined {
    if (this.#call.tools === undefined) return undefined;
    this.#made ??= this.#call.toolFormat().createParser();
    return this.#made;
  }

  /** Calls so far, those that are left out included. */
  get numCalls(): number {
    return this.#numCalls;
  }

  read(event: ChoiceEvent): Piece[] {
    const pieces = this.#text(event.text);
    if (event.type === 'finish' && this.#parser !== undefined) {
      pieces.push(...this.#pieces(this.#parser.end()));
    }
    return pieces;
  }

  #text(text: string): Piece[] {
    if (text === '') return [];
    if (this.#parser === undefined) return [{ type: 'text', text }];
    return this.#pieces(this.#parser.push(text));
  }

  #pieces(events: readonly ToolEvent[]): Piece[] {
    const pieces: Piece[] = [];
    for (const event of events) {
      if (event.type === 'call') this.#numCalls += 1;
      const index = this.#numCalls - 1;
      const isTooMany = index > 0 && this.#call.tools?.parallel === false;
      if (event.type === 'text') {
        pieces.push(event);
      } else if (isTooMany) {
        // The request allows one call, and a grammar could not see to it.
      } else if (event.type === 'call') {
        pieces.push({ type: 'call', index, id: callId(this.#call), name: event.name });
      } else {
        pieces.push({ type: 'arguments', index, text: event.text });
      }
    }
    return pieces;
  }
}
