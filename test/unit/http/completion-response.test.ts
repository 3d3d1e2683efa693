import { describe, expect, it } from 'vitest';
import { wireLogprobs } from '../../../src/http/wire/completion-response.ts';

describe('log-probabilities on the wire', () => {
  it('list tokens that are names of inherited properties', () => {
    const names = ['constructor', 'toString', '__proto__', 'a'];
    const wire = wireLogprobs({
      type: 'token',
      index: 0,
      tokenId: 1,
      text: 'constructor',
      logprobs: {
        token: 'valueOf',
        tokenId: 1,
        rank: 1,
        logprob: -3,
        textOffset: 0,
        top: names.map((token, i) => ({ token, tokenId: i, logprob: -i })),
      },
    });
    const sent = JSON.parse(JSON.stringify(wire)) as { top_logprobs: object[] };
    expect(Object.entries(sent.top_logprobs[0]!)).toEqual([
      ...names.map((token, i) => [token, -i + 0]),
      ['valueOf', -3],
    ]);
  });
});
