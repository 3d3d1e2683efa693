import { describe, expect, it } from 'vitest';
import { Choice, codePoints } from '../../../src/generation/choice.ts';
import { compileStop } from '../../../src/generation/stop-matcher.ts';
import type { Tokenizer } from '../../../src/tokenizer/tokenizer.ts';
import { characters } from './support.ts';

/** Token 1 is half of an emoji, token 2 the other half; the rest as usual. */
const halves: Tokenizer = {
  ...characters,
  createDetokenizer: () => {
    let half = false;
    return {
      push: (id) => {
        if (id === 1) {
          half = true;
          return '';
        }
        if (id === 2 && half) {
          half = false;
          return '😀';
        }
        return String.fromCharCode(id);
      },
      flush: () => (half ? '\ufffd' : ''),
    };
  },
};

const choice = (stop: string[] = []) =>
  new Choice(halves, {
    index: 3,
    stops: stop.map(compileStop),
    includeStopInOutput: false,
    skipSpecialTokens: true,
    stopTokenIds: new Set(),
    minTokens: 0,
    promptTokenIds: new Int32Array(),
    textStart: 10,
  });

const token = (tokenId: number) => ({
  index: 0,
  tokenId,
  logprobs: { tokenId, logprob: -1, rank: 1, top: [] },
});

describe('Choice', () => {
  it('counts offsets in code points from the start of the text', () => {
    const one = choice();
    const offsets = [1, 2, 65].map((id) => {
      const [event] = one.token(token(id));
      return event?.type === 'token' ? event.logprobs?.textOffset : undefined;
    });
    expect(offsets).toEqual([10, 10, 11]);
    expect(codePoints('a😀é')).toBe(3);
  });

  it('emits what stayed incomplete at the end, and finds a stop text there', () => {
    const one = choice();
    one.token(token(1));
    expect(one.end('length', undefined)).toMatchObject({ text: '\ufffd', reason: 'length' });
    const two = choice(['\ufffd']);
    two.token(token(1));
    expect(two.end('length', undefined)).toMatchObject({
      text: '',
      reason: 'stop',
      stopReason: '\ufffd',
      index: 3,
    });
  });
});
