/** The parser of server-sent events: the standard's examples, and every way to cut the bytes. */
import { describe, expect, it } from 'vitest';
import { EVENT_CHARS_MAX, SseParser } from '../../../src/client/sse.ts';
import { fc } from '../../support/properties.ts';

const bytes = (text: string) => new TextEncoder().encode(text);

function parse(...pieces: Uint8Array[]): string[] {
  const parser = new SseParser();
  return pieces.flatMap((piece) => parser.push(piece));
}

describe('SseParser', () => {
  it.each([
    ['data: a\n\n', ['a']],
    ['data: a\r\n\r\n', ['a']],
    ['data: a\r\rdata: b\r\r', ['a', 'b']],
    ['data: a\r\n\rdata: b\n\r\n', ['a', 'b']],
    ['data:a\n\n', ['a']],
    ['data:  a\n\n', [' a']],
    ['data: YHOO\ndata: +2\ndata: 10\n\n', ['YHOO\n+2\n10']],
    [': keep-alive\n\ndata: a\n\n', ['a']],
    ['data: a\n: in between\ndata: b\n\n', ['a\nb']],
    ['event: x\nid: 7\nretry: 10\ndata: a\n\n', ['a']],
    ['data\n\ndata\ndata\n\ndata:', ['', '\n']],
    ['event: nothing\n\n', []],
    ['data: cut off', []],
    ['data: cut off\n', []],
    ['\ufeffdata: a\n\n', ['a']],
    ['data: {"a": "b: c"}\n\n', ['{"a": "b: c"}']],
    ['data: [DONE]\n\n', ['[DONE]']],
    ['database: a\n\n data: b\n\n', []],
  ])('%j', (text, events) => {
    expect(parse(bytes(text))).toEqual(events);
  });

  it('gives the same events wherever the bytes are cut in two or three', () => {
    const all = bytes(
      '\ufeff: 💬\r\ndata: é💬\r\ndata: x\r\n\r\n\r\ndata: 語\r\rdata: z\n\ndata: 4\n\r\n',
    );
    const whole = parse(all);
    expect(whole).toEqual(['é💬\nx', '語', 'z', '4']);
    for (let i = 0; i <= all.length; i++) {
      for (let j = i; j <= all.length; j++) {
        const cut = parse(all.subarray(0, i), all.subarray(i, j), all.subarray(j));
        expect(cut, `${i}, ${j}`).toEqual(whole);
      }
    }
    expect(parse(...Array.from(all, (byte) => Uint8Array.of(byte)))).toEqual(whole);
  });

  it('reads back what was written, in any line ends and any pieces', () => {
    const end = fc.constantFrom('\n', '\r', '\r\n');
    const line = fc
      .string({ unit: 'grapheme' })
      .map((text) => text.replaceAll(/[\r\n\ufeff]/g, ''));
    const event = fc.record({ lines: fc.array(line, { minLength: 1 }), comment: line });
    const cuts = fc.array(fc.nat());
    fc.assert(
      fc.property(fc.array(fc.tuple(event, end)), cuts, (events, at) => {
        let text = '';
        for (const [{ lines, comment }, newline] of events) {
          text += `:${comment}${newline}`;
          for (const each of lines) text += `data: ${each}${newline}`;
          text += newline;
          // A CR and a LF of two events would be one line end.
          text += `:${newline}`;
        }
        const all = bytes(text);
        const places = at.map((place) => place % (all.length + 1)).sort((a, b) => a - b);
        const pieces = [0, ...places].map((from, i) => all.subarray(from, places[i] ?? all.length));
        expect(parse(...pieces)).toEqual(events.map(([{ lines }]) => lines.join('\n')));
      }),
    );
  });

  it('refuses an event without end', () => {
    const parser = new SseParser();
    const piece = bytes(`data: ${'x'.repeat(2 ** 20)}`);
    const flood = () => {
      for (let i = 0; i * 2 ** 20 <= EVENT_CHARS_MAX; i++) parser.push(piece);
    };
    expect(flood).toThrow(expect.objectContaining({ code: 'answer_malformed' }));
  });
});
