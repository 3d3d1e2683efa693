import { describe, expect, it } from 'vitest';
import { compileStop, StopMatcher } from '../../../src/generation/stop-matcher.ts';
import { fc } from '../../support/properties.ts';

/** The definition: the earliest end wins, then the longest stop string. */
function cut(text: string, stops: readonly string[], include: boolean) {
  for (let end = 1; end <= text.length; end++) {
    const found = stops
      .filter((stop) => text.slice(0, end).endsWith(stop))
      .sort((a, b) => b.length - a.length)[0];
    if (found !== undefined) {
      return { text: text.slice(0, include ? end : end - found.length), stop: found };
    }
  }
  return { text, stop: undefined };
}

const matcherOf = (stops: readonly string[], include: boolean) =>
  new StopMatcher(stops.map(compileStop), include);

function feed(matcher: StopMatcher, pieces: readonly string[]) {
  let text = '';
  for (const piece of pieces) {
    const result = matcher.push(piece);
    text += result.text;
    if (result.stop !== undefined) return { text, stop: result.stop };
  }
  return { text: text + matcher.flush(), stop: undefined };
}

describe('StopMatcher', () => {
  it('shares compiled stop strings without sharing how far they matched', () => {
    const stops = ['abc'].map(compileStop);
    const [one, other] = [new StopMatcher(stops, false), new StopMatcher(stops, false)];
    expect(one!.push('ab')).toEqual({ text: '', stop: undefined });
    expect(other!.push('c')).toEqual({ text: 'c', stop: undefined });
    expect(one!.push('c')).toEqual({ text: '', stop: 'abc' });
  });

  it('finds a stop string across pieces and leaves it out', () => {
    const matcher = matcherOf(['\n\n'], false);
    expect(matcher.push('one\n')).toEqual({ text: 'one', stop: undefined });
    expect(matcher.push('\ntwo')).toEqual({ text: '', stop: '\n\n' });
  });

  it('keeps it when asked', () => {
    const matcher = matcherOf(['END'], true);
    expect(matcher.push('a E')).toEqual({ text: 'a ', stop: undefined });
    expect(matcher.push('ND b')).toEqual({ text: 'END', stop: 'END' });
  });

  it('gives held text back when it turns out to be something else', () => {
    const matcher = matcherOf(['abc'], false);
    expect(matcher.push('ab')).toEqual({ text: '', stop: undefined });
    expect(matcher.push('ab')).toEqual({ text: 'ab', stop: undefined });
    expect(matcher.flush()).toBe('ab');
  });

  it('agrees with the definition however the text is cut into pieces', () => {
    const letter = fc.constantFrom('a', 'b', '\n');
    const word = (max: number) => fc.string({ unit: letter, minLength: 1, maxLength: max });
    fc.assert(
      fc.property(
        fc.array(fc.string({ unit: letter, maxLength: 4 }), { maxLength: 12 }),
        fc.array(word(4), { maxLength: 4 }),
        fc.boolean(),
        (pieces, stops, include) => {
          const got = feed(matcherOf(stops, include), pieces);
          expect(got).toEqual(cut(pieces.join(''), stops, include));
        },
      ),
      { numRuns: 2000 },
    );
  });

  it('never holds back more than a beginning of a stop string', () => {
    const stops = ['aab', 'ba'];
    const begins = new Set(stops.flatMap((s) => [...s].map((_, i) => s.slice(0, i))));
    fc.assert(
      fc.property(fc.string({ unit: fc.constantFrom('a', 'b', 'c'), maxLength: 20 }), (text) => {
        const matcher = matcherOf(stops, false);
        let out = '';
        let fed = '';
        for (const char of text) {
          const result = matcher.push(char);
          fed += char;
          out += result.text;
          if (result.stop !== undefined) return;
          expect(begins).toContain(fed.slice(out.length));
        }
      }),
    );
  });
});
