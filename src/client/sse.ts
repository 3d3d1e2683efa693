/** Server-sent events as the HTML standard parses them, from bytes that are cut anywhere. */
import { LoramuxError } from './errors.ts';

/** Characters of one event; a longer one is not from this server. */
export const EVENT_CHARS_MAX = 16 * 2 ** 20;

const LINE_END = /\r\n|\r|\n/g;

/**
 * Takes bytes, gives the data of complete events. Comments and fields other than `data` carry
 * nothing for us; an event that the end of the stream cuts off is dropped, as the standard says.
 */
export class SseParser {
  readonly #decoder = new TextDecoder('utf-8');
  /** The line that has no end yet. */
  #line = '';
  /** The last piece ended with CR: a LF that follows belongs to it. */
  #afterReturn = false;
  #data: string[] = [];
  #dataChars = 0;

  /** @throws LoramuxError answer_malformed when an event exceeds the limit */
  push(bytes: Uint8Array): string[] {
    let text = this.#decoder.decode(bytes, { stream: true });
    if (text === '') return [];
    if (this.#afterReturn && text.startsWith('\n')) text = text.slice(1);
    if (text !== '') this.#afterReturn = text.endsWith('\r');
    else this.#afterReturn = false;
    const events: string[] = [];
    let start = 0;
    for (const { 0: end, index } of text.matchAll(LINE_END)) {
      this.#take(this.#line + text.slice(start, index), events);
      this.#line = '';
      start = index + end.length;
    }
    this.#line += text.slice(start);
    if (this.#line.length + this.#dataChars > EVENT_CHARS_MAX) {
      throw new LoramuxError('answer_malformed', 'an event of the stream is too long');
    }
    return events;
  }

  #take(line: string, events: string[]): void {
    if (line === '') {
      // Without a data line there is no event; an empty one counts.
      if (this.#data.length > 0) events.push(this.#data.join('\n'));
      this.#data = [];
      this.#dataChars = 0;
      return;
    }
    const colon = line.indexOf(':');
    const field = colon < 0 ? line : line.slice(0, colon);
    if (field !== 'data') return;
    const value = colon < 0 ? '' : line.slice(colon + 1);
    const data = value.startsWith(' ') ? value.slice(1) : value;
    this.#data.push(data);
    this.#dataChars += data.length + 1;
  }
}
