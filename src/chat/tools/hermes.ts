/**
 * `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, anywhere in the text: Hermes 2 Pro,
 * Qwen 2.5 and 3, and what is trained on ChatML.
 */
import { CallScanner } from './call-scanner.ts';
import { MarkerSearch } from './marker.ts';
import { ToolOutput } from './output.ts';
import { type CallFrame, callList, triggeredCalls } from './structure.ts';
import type { ToolEvent, ToolFormat, ToolParser } from './types.ts';
import { isSpace } from './value-scanner.ts';

const OPEN = '<tool_call>';
const CLOSE = '</tool_call>';

class HermesParser implements ToolParser {
  readonly #output = new ToolOutput();
  readonly #search = new MarkerSearch(OPEN);
  #scanner: CallScanner | undefined;
  /** The call as it was written, until it is announced. */
  #raw = '';
  /** After a call, up to the end of the closing marker; undefined elsewhere. */
  #closing: string | undefined;

  push(text: string): ToolEvent[] {
    this.#read(text);
    return this.#output.take();
  }

  end(): ToolEvent[] {
    if (this.#scanner !== undefined && !this.#scanner.announced) this.#output.text(this.#raw);
    this.#output.text(this.#search.flush());
    this.#output.text((this.#closing ?? '').trim());
    return this.#output.end();
  }

  #read(text: string): void {
    let rest: string | undefined = text;
    while (rest !== undefined && rest !== '') {
      if (this.#scanner !== undefined) rest = this.#call(this.#scanner, rest);
      else if (this.#closing !== undefined) rest = this.#close(this.#closing, rest);
      else rest = this.#text(rest);
    }
  }

  #text(text: string): string | undefined {
    const found = this.#search.push(text);
    this.#output.text(found.text);
    if (found.rest === undefined) return undefined;
    this.#scanner = new CallScanner(this.#output.emit);
    this.#raw = OPEN;
    return found.rest;
  }

  #call(scanner: CallScanner, text: string): string | undefined {
    for (let i = 0; i < text.length; i++) {
      const char = text[i]!;
      const state = scanner.push(char);
      if (state === 'more') {
        if (!scanner.announced) this.#raw += char;
        continue;
      }
      this.#scanner = undefined;
      if (state === 'done' && scanner.acceptBare()) {
        this.#closing = '';
        return text.slice(i + 1);
      }
      if (!scanner.announced) this.#output.text(this.#raw);
      return text.slice(i);
    }
    return undefined;
  }

  #close(before: string, text: string): string | undefined {
    for (let i = 0; i < text.length; i++) {
      const char = text[i]!;
      if (before === '' && isSpace(char)) continue;
      if (!CLOSE.startsWith(before + char)) {
        // The marker was forgotten: what follows the call is text, or the next call.
        this.#closing = undefined;
        return before + text.slice(i);
      }
      before += char;
      if (before === CLOSE) {
        this.#closing = undefined;
        return text.slice(i + 1);
      }
    }
    this.#closing = before;
    return undefined;
  }
}

const FRAME: CallFrame = (name) => ({
  begin: `${OPEN}\n{"name": ${name}, "arguments": `,
  end: `}\n${CLOSE}`,
});

export const HERMES: ToolFormat = {
  name: 'hermes',
  createParser: () => new HermesParser(),
  calls: (tools, parallel) => callList(tools, FRAME, { separator: '\n', parallel }),
  textWithCalls: (tools, parallel) => triggeredCalls(tools, FRAME, { trigger: OPEN, parallel }),
};
