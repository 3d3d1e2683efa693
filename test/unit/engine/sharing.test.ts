import { describe, expect, it } from 'vitest';
import { createHarness, generation, leftovers, runAlone } from '../../support/engine-harness.ts';

const prompt = Array.from({ length: 18 }, (_, i) => (i * 5 + 2) % 61);

describe('prefix reuse', () => {
  it('never crosses adapters: A, then B, then A', async () => {
    const harness = createHarness();
    const cached: number[] = [];
    for (const adapter of [generation('a'), generation('b'), generation('a'), undefined]) {
      const request = harness.submit({ prompt, adapter });
      await harness.engine.idle();
      expect(request.tokens).toEqual((await runAlone({ prompt, adapter })).tokens);
      cached.push(request.handle.cachedPromptTokens);
    }
    expect(cached).toEqual([0, 0, 16, 0]);
  });

  it('never crosses generations, salts or scales', async () => {
    const harness = createHarness();
    const adapter = generation('a');
    const specs = [
      { prompt, adapter },
      { prompt, adapter: { ...adapter, digest: 'same name, other bytes' } },
      { prompt, adapter, salt: 'tenant' },
      { prompt, adapter, scale: 0.25 },
    ];
    for (const spec of specs) {
      const request = harness.submit(spec);
      await harness.engine.idle();
      expect(request.tokens).toEqual((await runAlone(spec)).tokens);
      expect(request.handle.cachedPromptTokens).toBe(0);
    }
  });

  it('survives eviction and reload of the adapter', async () => {
    const harness = createHarness({ maxSlots: 1 });
    const [a, b] = [generation('a'), generation('b')];
    const first = harness.submit({ prompt, adapter: a });
    await harness.engine.idle();
    harness.submit({ prompt, adapter: b });
    await harness.engine.idle();
    const again = harness.submit({ prompt, adapter: a });
    await harness.engine.idle();
    expect(harness.residency.evictions).toBe(2);
    expect(again.tokens).toEqual(first.tokens);
    expect(again.handle.cachedPromptTokens).toBe(16);
  });

  it('also finds what was generated', async () => {
    const harness = createHarness();
    const first = harness.submit({ prompt, sampling: { maxTokens: 8 } });
    await harness.engine.idle();
    const turn = [...prompt, ...first.tokens[0]!, 7];
    const second = harness.submit({ prompt: turn });
    await harness.engine.idle();
    expect(second.handle.cachedPromptTokens).toBe(24);
    expect(second.tokens).toEqual((await runAlone({ prompt: turn })).tokens);
  });

  it('copies the last block when a whole prompt is cached, for many at once', async () => {
    const harness = createHarness();
    const spec = { prompt: prompt.slice(0, 16), sampling: { temperature: 1, maxTokens: 6 } };
    harness.submit(spec);
    await harness.engine.idle();
    const requests = [1n, 2n, 3n].map((seed) =>
      harness.submit({ ...spec, sampling: { ...spec.sampling, seed } }),
    );
    await harness.engine.idle();
    for (const request of requests) {
      expect(request.handle.cachedPromptTokens).toBe(15);
      expect(request.tokens).toEqual((await runAlone(request.spec)).tokens);
    }
  });

  it('can be switched off', async () => {
    const harness = createHarness({ engine: { prefixCaching: false } });
    for (let i = 0; i < 2; i++) {
      const request = harness.submit({ prompt });
      await harness.engine.idle();
      expect(request.handle.cachedPromptTokens).toBe(0);
    }
    expect(harness.engine.stats()).toMatchObject({ blocksCached: 0, prefixQueryTokens: 0 });
  });
});

describe('choices', () => {
  it('answer as separate requests with consecutive seeds would', async () => {
    const sampling = { temperature: 1, seed: 40n, maxTokens: 10 };
    const harness = createHarness();
    const request = harness.submit({ prompt, n: 3, adapter: generation('a'), sampling });
    await harness.engine.idle();
    for (const index of [0, 1, 2]) {
      const single = await runAlone({
        prompt,
        adapter: generation('a'),
        sampling: { ...sampling, seed: sampling.seed + BigInt(index) },
      });
      expect(request.tokens[index]).toEqual(single.tokens[0]);
    }
    expect(new Set(request.tokens.map((tokens) => tokens.join())).size).toBe(3);
    expect(leftovers(harness)).toEqual([]);
  });

  it('compute the prompt once', async () => {
    const harness = createHarness({ engine: { prefixCaching: false } });
    harness.native.recording = true;
    harness.submit({ prompt, n: 4, sampling: { maxTokens: 1 } });
    await harness.engine.idle();
    const tokens = harness.native.packets.map(({ numTokens }) => numTokens);
    expect(tokens).toEqual([18, 3]);
    expect(harness.engine.stats().promptTokens).toBe(18);
  });
});
