/**
 * `{"name": ..., "parameters": {...}}` as the whole answer, several joined by `;`: Llama 3.1 and
 * later. A text that begins otherwise has no calls.
 */
import { CallScanner } from './call-scanner.ts';
import { ToolOutput } from './output.ts';
import { type CallFrame, callList } from './structure.ts';
import type { ToolEvent, ToolFormat, ToolParser } from './types.ts';
import { isSpace } from './value-scanner.ts';

const PYTHON_TAG = '<|python_tag|>';

class Llama3JsonParser implements ToolParser {
  readonly #output = new ToolOutput();
  /** Before the first call, between calls, in a call, or in text to the end. */
  #place: 'start' | 'between' | 'call' | 'text' = 'start';
  #scanner = new CallScanner(this.#output.emit);
  /** What was read since the last call and is not announced as one. */
  #raw = '';

  push(text: string): ToolEvent[] {
    for (let i = 0; i < text.length; i++) {
      if (this.#place === 'text') {
        this.#output.text(text.slice(i));
        break;
      }
      this.#step(text[i]!);
    }
    return this.#output.take();
  }

  end(): ToolEvent[] {
    if (this.#place === 'call' ? !this.#scanner.announced : this.#place === 'start') {
      this.#output.text(this.#raw);
    }
    return this.#output.end();
  }

  #step(char: string): void {
    if (this.#place !== 'call' && !this.#opens(char)) return;
    const state = this.#scanner.push(char);
    this.#raw += char;
    if (state === 'more') return;
    if (state === 'done' && this.#scanner.announced) {
      this.#place = 'between';
      this.#raw = '';
      return;
    }
    this.#giveUp(this.#scanner.announced ? char : this.#raw);
  }

  /** False when the character belongs to what stands before a call, or to no call at all. */
  #opens(char: string): boolean {
    if (char === '{') {
      this.#place = 'call';
      this.#scanner = new CallScanner(this.#output.emit);
      return true;
    }
    this.#raw += char;
    const raw = this.#raw.trimStart();
    const fits =
      this.#place === 'start' ? PYTHON_TAG.startsWith(raw.trimEnd()) : char === ';' || char === ',';
    if (!fits && !isSpace(char)) this.#giveUp(this.#raw);
    return false;
  }

  #giveUp(raw: string): void {
    this.#place = 'text';
    this.#output.text(raw);
    this.#raw = '';
  }
}

/** What begins a text that has no calls. */
const NO_CALL = '[^{<\\s]';

const FRAME: CallFrame = (name) => ({ begin: `{"name": ${name}, "parameters": `, end: '}' });

export const LLAMA3_JSON: ToolFormat = {
  name: 'llama3_json',
  createParser: () => new Llama3JsonParser(),
  calls: (tools, parallel) => callList(tools, FRAME, { separator: '; ', parallel }),
  // Calls after the first one are left out by whoever reads them, where there may be only one.
  textWithCalls: (tools) => ({
    type: 'or',
    elements: [
      { type: 'sequence', elements: [{ type: 'regex', pattern: NO_CALL }, { type: 'any_text' }] },
      callList(tools, FRAME, { separator: '; ', parallel: true }),
    ],
  }),
};
