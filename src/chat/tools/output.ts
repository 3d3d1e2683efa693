/** The events of one answer: pieces of the same kind are joined, space around calls is left out. */
import type { ToolEvent } from './types.ts';

/** Whitespace in Python's and JavaScript's sense alike. */
const ONLY_SPACE = /^\s*$/;

export class ToolOutput {
  #events: ToolEvent[] = [];
  /** Space at the beginning or after a call: text only if text follows. */
  #space = '';
  #nothingYet = true;
  #afterCall = false;

  readonly emit = (event: ToolEvent): void => {
    if (event.type === 'text') {
      this.text(event.text);
      return;
    }
    if (event.type === 'call') {
      this.#space = '';
      this.#nothingYet = false;
      this.#afterCall = true;
    }
    this.#add(event);
  };

  text(text: string): void {
    if (text === '') return;
    const atBorder = this.#nothingYet || this.#afterCall;
    if (atBorder && ONLY_SPACE.test(text)) {
      this.#space += text;
      return;
    }
    this.#add({ type: 'text', text: this.#space + text });
    this.#space = '';
    this.#nothingYet = false;
    this.#afterCall = false;
  }

  /** What came since the last call. */
  take(): ToolEvent[] {
    const events = this.#events;
    this.#events = [];
    return events;
  }

  /** Nothing follows: an answer of nothing but space is that. */
  end(): ToolEvent[] {
    if (this.#nothingYet && this.#space !== '') this.#add({ type: 'text', text: this.#space });
    this.#space = '';
    return this.take();
  }

  #add(event: ToolEvent): void {
    const last = this.#events.at(-1);
    if (last !== undefined && last.type === event.type && last.type !== 'call') {
      const text = last.text + (event as { text: string }).text;
      this.#events[this.#events.length - 1] = { type: last.type, text };
      return;
    }
    this.#events.push(event);
  }
}
