import { describe, expect, it } from 'vitest';
import { createHarness, generation, leftovers, runAlone } from '../../support/engine-harness.ts';

const prompt = (length: number, salt = 0) =>
  Array.from({ length }, (_, i) => (i * 7 + salt * 13 + 3) % 61);

describe('engine', () => {
  it('answers one request with maxTokens tokens and gives everything back', async () => {
    const harness = createHarness();
    const request = harness.submit({ prompt: prompt(9), sampling: { maxTokens: 5 } });
    await harness.engine.idle();
    expect(request.tokens[0]).toHaveLength(5);
    expect(request.finishes[0]).toEqual([
      { index: 0, reason: 'length', stopTokenId: undefined, error: undefined },
    ]);
    expect(leftovers(harness)).toEqual([]);
  });

  it('answers the same in a mixed batch as alone', async () => {
    const harness = createHarness();
    const specs = Array.from({ length: 12 }, (_, i) => ({
      prompt: prompt(3 + i * 3, i % 4),
      adapter: i % 3 === 0 ? undefined : generation(`a${i % 5}`),
      sampling: { maxTokens: 12, temperature: i % 2 },
    }));
    const requests = specs.map((spec) => harness.submit(spec));
    await harness.engine.idle();
    for (const [i, request] of requests.entries()) {
      expect(request.tokens, `request ${i}`).toEqual((await runAlone(specs[i]!)).tokens);
    }
    expect(leftovers(harness)).toEqual([]);
    expect(harness.engine.stats().maxAdaptersInOneStep).toBeGreaterThan(1);
  });
});
