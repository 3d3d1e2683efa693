import { describe, expect, it } from 'vitest';
import { createEngine, type EngineOptions } from '../../../src/engine/index.ts';
import { LoramuxError } from '../../../src/errors.ts';
import { createHarness, generation, type RequestSpec } from '../../support/engine-harness.ts';

function codeOf(run: () => unknown): string {
  try {
    run();
  } catch (error) {
    if (error instanceof LoramuxError) return `${error.code}: ${error.message}`;
    throw error;
  }
  return 'nothing thrown';
}

describe('engine options', () => {
  const build = (options: Partial<EngineOptions>) =>
    codeOf(() =>
      createEngine({ step: () => Promise.reject(new Error('unused')) }, undefined, {
        numBlocks: 8,
        maxModelLen: 64,
        ...options,
      }),
    );

  it('are refused by name', () => {
    expect(build({})).toBe('nothing thrown');
    expect(build({ numBlocks: 0 })).toMatch(/^config_invalid: .*numBlocks is 0/);
    expect(build({ maxModelLen: 1.5 })).toMatch(/maxModelLen is 1.5/);
    expect(build({ blockSize: Number.NaN })).toMatch(/blockSize is NaN/);
    expect(build({ adapterWaitMsMax: -1 })).toMatch(/adapterWaitMsMax is -1/);
    expect(build({ dynamicRopeMaxPositions: 0 })).toMatch(/dynamicRopeMaxPositions is 0/);
  });

  it('must let every sequence decode in one step', () => {
    expect(build({ maxSequences: 9, maxTokensPerStep: 8 })).toMatch(/maxTokensPerStep is 8.* 9/);
    expect(build({ maxSequences: 9, maxLogitRowsPerStep: 8 })).toMatch(/maxLogitRowsPerStep is 8/);
  });

  it('must keep slots in int32', () => {
    expect(build({ numBlocks: 2 ** 30 })).toMatch(/beyond int32/);
  });
});

describe('submission', () => {
  const submit = (spec: RequestSpec, engine: Partial<EngineOptions> = {}) =>
    codeOf(() => createHarness({ engine: { vocabSize: 61, ...engine } }).submit(spec));

  it('refuses what can never run', () => {
    expect(submit({ prompt: [] })).toMatch(/^prompt_empty/);
    expect(submit({ prompt: [1], sampling: { maxTokens: 256 } })).toMatch(/^context_length_exceed/);
    expect(submit({ prompt: [1], n: 9 })).toMatch(/^capacity_exceeded: n is 9.* 8 sequences/);
    expect(submit({ prompt: [1], n: 0 })).toMatch(/^invalid_request: n is 0/);
    expect(submit({ prompt: [1], sampling: { maxTokens: -1 } })).toMatch(/max_tokens is -1/);
  });

  it('refuses adapters that can never be summed', () => {
    const adapters = (count: number, weight = 1) =>
      Array.from({ length: count }, (_, i) => ({ generation: generation(`a${i}`), weight }));
    expect(submit({ prompt: [1], adapters: adapters(1, Number.NaN) })).toMatch(/adapter is NaN/);
    expect(submit({ prompt: [1], adapters: adapters(2, 1e39) })).toMatch(/adapter is 1e\+39/);
    expect(submit({ prompt: [1], adapters: adapters(9) })).toMatch(/^invalid_request.* 9 adapters/);
    expect(submit({ prompt: [1], adapters: adapters(5) })).toMatch(/^adapter_never_fits.* 4 at/);
    expect(submit({ prompt: [1], adapters: adapters(4) })).toBe('nothing thrown');
    // The same one again and again takes one slot.
    const same = adapters(8).map(({ weight }) => ({ generation: generation('a'), weight }));
    expect(submit({ prompt: [1], adapters: same })).toBe('nothing thrown');
  });

  it('refuses what can never fit the pool, counting choices', () => {
    const engine = { numBlocks: 4 };
    expect(submit({ prompt: [1], sampling: { maxTokens: 16 } }, engine)).toBe('nothing thrown');
    expect(submit({ prompt: [1], sampling: { maxTokens: 17 } }, engine)).toMatch(
      /^capacity_exceeded: The request may need 5 KV blocks of 4 tokens, but this server has 4/,
    );
    expect(submit({ prompt: [1], n: 2, sampling: { maxTokens: 8 } }, engine)).toBe(
      'nothing thrown',
    );
    expect(submit({ prompt: [1], n: 2, sampling: { maxTokens: 9 } }, engine)).toMatch(
      /^capacity_exceeded/,
    );
  });

  it('refuses tokens outside the vocabulary before they can fail a step', () => {
    expect(submit({ prompt: [61] })).toMatch(/^token_out_of_range: prompt has token 61/);
    expect(submit({ prompt: [-1] })).toMatch(/^token_out_of_range/);
    expect(submit({ prompt: [1], sampling: { stopTokenIds: new Set([99]) } })).toMatch(
      /stop_token/,
    );
    expect(submit({ prompt: [1], sampling: { logitBias: new Map([[61, 1]]) } })).toMatch(/logit_b/);
  });

  it('refuses when too many wait, and takes more when one got in', async () => {
    const harness = createHarness({ engine: { maxQueuedRequests: 2, maxSequences: 1 } });
    harness.submit({ prompt: [1] });
    harness.submit({ prompt: [2] });
    expect(codeOf(() => harness.submit({ prompt: [3] }))).toMatch(/^queue_full/);
    await new Promise((resolve) => setImmediate(resolve));
    expect(codeOf(() => harness.submit({ prompt: [3] }))).toBe('nothing thrown');
    await harness.engine.idle();
    expect(harness.engine.limits).toEqual({ maxModelLen: 256, maxQueuedRequests: 2 });
  });

  it('ends a request for an adapter that the engine cannot have', async () => {
    const harness = createHarness();
    harness.residency.failing.add(generation('bad').digest);
    const request = harness.submit({ prompt: [1], adapter: generation('bad'), n: 2 });
    const other = harness.submit({ prompt: [1] });
    await harness.engine.idle();
    for (const finishes of request.finishes) {
      expect(finishes).toHaveLength(1);
      expect(finishes[0]!.error?.code).toBe('adapter_load_failed');
    }
    expect(other.finishes[0]![0]!.reason).toBe('length');
  });
});
