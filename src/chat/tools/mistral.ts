/**
 * `[TOOL_CALLS][{"name": ..., "arguments": {...}}, ...]`, and since version 11 of their tokenizer
 * `[TOOL_CALLS]name[ARGS]{...}` once for each call: Mistral and Mixtral. The marker is a special
 * token; a grammar cannot write it, so an answer that must be calls has the list alone.
 */
import { CallScanner, TOOL_NAME_LENGTH_MAX } from './call-scanner.ts';
import { MarkerSearch } from './marker.ts';
import { movedSchema } from './moved-schema.ts';
import { ToolOutput } from './output.ts';
import type { ToolEvent, ToolFormat, ToolParser } from './types.ts';
import { isSpace, ValueScanner } from './value-scanner.ts';

const MARKER = '[TOOL_CALLS]';
/** Between name and arguments; the id of a call is made anew. */
const NAMED_HEAD = /^\s*([^\s[\]{}"]+)\s*(?:\[CALL_ID\][^[\]{}"]*)?(?:\[ARGS\])?\s*$/;
const HEAD_LENGTH_MAX = TOOL_NAME_LENGTH_MAX + 64;

type Place =
  /** Only space so far: a list without marker may follow. */
  | 'start'
  | 'text'
  /** After the marker: a list, an object or a name. */
  | 'head'
  /** In a list, before an object. */
  | 'list'
  | 'call'
  /** In the arguments of a named call. */
  | 'arguments';

class MistralParser implements ToolParser {
  readonly #output = new ToolOutput();
  readonly #search = new MarkerSearch(MARKER);
  #place: Place = 'start';
  #scanner = new CallScanner(this.#output.emit);
  #value = new ValueScanner({ keep: false });
  #inList = false;
  #numCalls = 0;
  /** What was read since the last call and is not announced as one. */
  #raw = '';

  push(text: string): ToolEvent[] {
    let rest: string | undefined = text;
    while (rest !== undefined && rest !== '') {
      if (this.#place === 'text') {
        const found = this.#search.push(rest);
        this.#output.text(found.text);
        rest = found.rest;
        if (rest !== undefined) this.#enter();
      } else {
        rest = this.#chars(rest);
      }
    }
    return this.#output.take();
  }

  end(): ToolEvent[] {
    if (!(this.#place === 'call' && this.#scanner.announced) && this.#place !== 'list') {
      this.#output.text(this.#raw);
    } else if (this.#place === 'list' && this.#numCalls === 0) {
      this.#output.text(this.#raw);
    }
    this.#output.text(this.#search.flush());
    return this.#output.end();
  }

  #enter(): void {
    this.#place = 'head';
    this.#raw = MARKER;
    this.#inList = false;
    this.#numCalls = 0;
  }

  /** Reads until the place is text; what is left is read as that. */
  #chars(text: string): string | undefined {
    for (let i = 0; i < text.length; i++) {
      const left = this.#step(text[i]!);
      if (left !== undefined) return left + text.slice(i + 1);
    }
    return undefined;
  }

  /** Text to be read again as text, when there is no call any more. */
  #step(char: string): string | undefined {
    switch (this.#place) {
      case 'start':
      case 'head':
        return this.#head(char);
      case 'list':
        return this.#listed(char);
      case 'arguments':
        this.#output.emit({ type: 'arguments', text: char });
        if (this.#value.push(char) === 'more') return undefined;
        this.#raw = '';
        return this.#leave('');
      default:
        return this.#inCall(char);
    }
  }

  #head(char: string): string | undefined {
    const isStart = this.#place === 'start';
    const head = isStart ? this.#raw : this.#raw.slice(MARKER.length);
    if (head.trim() === '') {
      if (char === '[' && !isStart) return this.#open('list', char);
      if (isStart && char === '[') {
        // The marker begins with the same sign.
        this.#raw += char;
        return undefined;
      }
      if (char === '{' && !isStart) return this.#beginCall(char);
    } else if (isStart) {
      return this.#afterBracket(char);
    } else if (char === '{') {
      const name = NAMED_HEAD.exec(head)?.[1];
      if (name === undefined) return this.#leave(char);
      this.#output.emit({ type: 'call', name });
      this.#place = 'arguments';
      this.#value = new ValueScanner({ keep: false });
      return this.#step(char);
    }
    if (isStart && !isSpace(char)) return this.#leave(char);
    this.#raw += char;
    return this.#raw.length > HEAD_LENGTH_MAX + MARKER.length ? this.#leave('') : undefined;
  }

  /** `[` came first: the marker, or a list of calls. */
  #afterBracket(char: string): string | undefined {
    const raw = this.#raw.trimStart();
    if (MARKER.startsWith(raw + char)) {
      this.#raw += char;
      if (raw + char !== MARKER) return undefined;
      this.#output.text(this.#raw.slice(0, -MARKER.length));
      this.#enter();
      return undefined;
    }
    if (raw.trimEnd() !== '[' || !(isSpace(char) || char === '{')) return this.#leave(char);
    if (char !== '{') {
      this.#raw += char;
      return undefined;
    }
    this.#inList = true;
    return this.#beginCall(char);
  }

  #open(place: 'list', char: string): undefined {
    this.#place = place;
    this.#inList = true;
    this.#raw += char;
  }

  #listed(char: string): string | undefined {
    if (char === '{') return this.#beginCall(char);
    if (char === ']' && this.#numCalls > 0) {
      this.#raw = '';
      return this.#leave('');
    }
    if (!isSpace(char) && !(char === ',' && this.#numCalls > 0)) return this.#leave(char);
    this.#raw += char;
    return undefined;
  }

  #beginCall(char: string): string | undefined {
    this.#place = 'call';
    this.#scanner = new CallScanner(this.#output.emit);
    return this.#inCall(char);
  }

  #inCall(char: string): string | undefined {
    const state = this.#scanner.push(char);
    if (state === 'more') {
      this.#raw = this.#scanner.announced ? '' : this.#raw + char;
      return undefined;
    }
    if (state === 'invalid' || !this.#scanner.acceptBare()) return this.#leave(char);
    this.#numCalls += 1;
    this.#raw = '';
    if (!this.#inList) return this.#leave('');
    this.#place = 'list';
    return undefined;
  }

  /** What was held back is text, and so is what follows. */
  #leave(char: string): string {
    const raw = this.#raw;
    this.#raw = '';
    this.#place = 'text';
    this.#output.text(raw);
    return char;
  }
}

export const MISTRAL: ToolFormat = {
  name: 'mistral',
  createParser: () => new MistralParser(),
  calls: (tools, parallel) => ({
    type: 'json_schema',
    json_schema: {
      type: 'array',
      minItems: 1,
      ...(!parallel && { maxItems: 1 }),
      items: {
        anyOf: tools.map(({ name, parameters }, i) => ({
          type: 'object',
          properties: {
            name: { const: name },
            arguments: movedSchema(parameters, `/items/anyOf/${i}/properties/arguments`),
          },
          required: ['name', 'arguments'],
          additionalProperties: false,
        })),
      },
    },
  }),
  // The marker that a model of this family writes is not text.
  textWithCalls: () => undefined,
};
