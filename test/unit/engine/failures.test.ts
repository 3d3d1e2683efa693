import { describe, expect, it } from 'vitest';
import { EngineLoop } from '../../../src/engine/engine.ts';
import type { LoramuxError } from '../../../src/errors.ts';
import {
  createHarness,
  engineRequest,
  generation,
  leftovers,
  type Recorded,
  runAlone,
} from '../../support/engine-harness.ts';

const errorOf = (request: Recorded, choice = 0) => request.finishes[choice]![0]!.error;
const prompt = Array.from({ length: 9 }, (_, i) => i + 1);

describe('a failed step', () => {
  it('ends the sequences that were in it and no others', async () => {
    const harness = createHarness({ engine: { maxSequences: 1 } });
    let left = 1;
    harness.native.failure = () => (left-- > 0 ? new Error('out of luck') : undefined);
    const failed = harness.submit({ prompt, adapter: generation('a'), n: 1 });
    const waiting = harness.submit({ prompt });
    await harness.engine.idle();
    const requests = [failed, waiting].map((request) => errorOf(request)?.code);
    expect(requests.filter((code) => code === 'engine_failed')).toHaveLength(1);
    expect(leftovers(harness)).toEqual([]);
  });

  it('leaves nothing of its blocks in the prefix cache', async () => {
    const harness = createHarness();
    harness.native.failure = () => new Error('once');
    const failed = harness.submit({ prompt, n: 2 });
    await harness.engine.idle();
    expect(errorOf(failed, 0)?.code).toBe('engine_failed');
    expect(errorOf(failed, 1)?.code).toBe('engine_failed');
    expect(errorOf(failed)?.message).toMatch(/native step failed: once/);
    expect(harness.engine.stats().blocksCached).toBe(0);
    harness.native.failure = () => undefined;
    const again = harness.submit({ prompt });
    await harness.engine.idle();
    expect(again.tokens).toEqual((await runAlone({ prompt })).tokens);
    expect(again.handle.cachedPromptTokens).toBe(0);
  });

  it('keeps a reason that was asked for', async () => {
    const harness = createHarness();
    harness.native.failure = () => {
      request.handle.cancel();
      return new Error('late');
    };
    const request = harness.submit({ prompt });
    await harness.engine.idle();
    expect(request.finishes[0]).toEqual([
      { index: 0, reason: 'cancelled', stopTokenId: undefined, error: undefined },
    ]);
  });

  it('closes the engine when too many follow each other', async () => {
    const harness = createHarness({ engine: { maxConsecutiveStepFailures: 2, maxSequences: 1 } });
    harness.native.failure = () => new Error('broken');
    const requests = [1, 2, 3].map((first) => harness.submit({ prompt: [first] }));
    await harness.engine.idle();
    expect(harness.native.steps).toBe(2);
    for (const request of requests) expect(errorOf(request)?.code).toBe('engine_failed');
    expect(errorOf(requests[2]!)?.message).toMatch(/2 native steps failed in a row/);
    expect(() => harness.submit({ prompt })).toThrow(/in a row/);
    expect(harness.engine.failure?.code).toBe('engine_failed');
    expect(leftovers(harness)).toEqual([]);
    await harness.engine.close();
  });

  it('counts failures in a row only', async () => {
    const harness = createHarness({ engine: { maxConsecutiveStepFailures: 2 } });
    let step = 0;
    harness.native.failure = () => (step++ % 2 === 0 ? new Error('flaky') : undefined);
    for (let i = 0; i < 4; i++) {
      harness.submit({ prompt, sampling: { maxTokens: 1 } });
      await harness.engine.idle();
    }
    expect(harness.engine.failure).toBeUndefined();
  });

  it('may also be thrown by step itself', async () => {
    const engine = new EngineLoop(
      {
        step() {
          throw new Error('thrown');
        },
      },
      undefined,
      { numBlocks: 4, maxModelLen: 16 },
    );
    const errors: (LoramuxError | undefined)[] = [];
    engine.submit(engineRequest({ prompt: [1] }, 'x'), {
      onToken() {},
      onFinish: ({ error }) => errors.push(error),
    });
    await engine.idle();
    expect(errors.map((error) => error?.code)).toEqual(['engine_failed']);
  });
});

describe('logits that are not finite', () => {
  it('end only that request, and its blocks are never reused', async () => {
    // The block with the bad value is computed, and cached, a step before a row shows it.
    const harness = createHarness({
      native: { nanTokenId: 5 },
      engine: { maxTokensPerStep: 8 },
    });
    const logitBias = new Map([[5, Number.NEGATIVE_INFINITY]]);
    const bad = harness.submit({ prompt, n: 2 });
    const good = harness.submit({ prompt: [1, 2, 3], sampling: { logitBias } });
    await harness.engine.idle();
    for (const choice of [0, 1]) expect(errorOf(bad, choice)?.code).toBe('logits_not_finite');
    expect(good.finishes[0]![0]!.reason).toBe('length');
    harness.native.nanTokenId = undefined;
    const healed = harness.submit({ prompt });
    await harness.engine.idle();
    expect(healed.handle.cachedPromptTokens).toBe(0);
    expect(healed.tokens).toEqual((await runAlone({ prompt })).tokens);
    expect(leftovers(harness)).toEqual([]);
  });
});
