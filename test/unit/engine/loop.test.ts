import { describe, expect, it, vi } from 'vitest';
import { engineViolations } from '../../../src/engine/index.ts';
import { createHarness, generation, leftovers, runAlone } from '../../support/engine-harness.ts';

const prompt = Array.from({ length: 18 }, (_, i) => (i * 5 + 2) % 61);

describe('log-probabilities', () => {
  it('come per token when asked for, with as many alternatives as asked for', async () => {
    const harness = createHarness();
    const [none, some] = [
      harness.submit({ prompt }),
      harness.submit({ prompt, sampling: { logprobs: 2 } }),
    ];
    await harness.engine.idle();
    expect(none.logprobs[0]!.every((logprobs) => logprobs === undefined)).toBe(true);
    expect(some.logprobs[0]).toHaveLength(8);
    for (const [i, logprobs] of some.logprobs[0]!.entries()) {
      expect(logprobs!.tokenId).toBe(some.tokens[0]![i]);
      expect(logprobs!.rank).toBe(1);
      expect(logprobs!.top).toHaveLength(2);
      expect(logprobs!.top[0]).toEqual({ tokenId: logprobs!.tokenId, logprob: logprobs!.logprob });
    }
  });

  it('cover the whole prompt, in chunks, cached or not, before the first token', async () => {
    const harness = createHarness({ engine: { maxLogitRowsPerStep: 8, maxTokensPerStep: 8 } });
    harness.submit({ prompt });
    await harness.engine.idle();
    const spec = { prompt, sampling: { promptLogprobs: 1, maxTokens: 2 } };
    const request = harness.submit(spec);
    await harness.engine.idle();
    const [scored] = request.promptLogprobs;
    expect(scored).toHaveLength(prompt.length);
    expect(scored![0]).toBeNull();
    expect(scored!.slice(1).map((logprobs) => logprobs!.tokenId)).toEqual(prompt.slice(1));
    expect(request.promptLogprobs).toEqual((await runAlone(spec)).promptLogprobs);
    expect(request.violations).toEqual([]);
    expect(request.handle.cachedPromptTokens).toBe(0);
  });

  it('of a prompt of one token are just the null', async () => {
    const harness = createHarness();
    const request = harness.submit({ prompt: [4], sampling: { promptLogprobs: 5 } });
    await harness.engine.idle();
    expect(request.promptLogprobs).toEqual([[null]]);
  });
});

describe('the loop', () => {
  it('tells listeners while the next step already runs', async () => {
    const harness = createHarness();
    const stepsAtToken: number[] = [];
    harness.submit(
      { prompt, sampling: { maxTokens: 3 } },
      {
        onToken: () => stepsAtToken.push(harness.native.steps),
      },
    );
    await harness.engine.idle();
    // The last token ends the request, so no step follows it.
    expect(stepsAtToken).toEqual([2, 3, 3]);
  });

  it('runs requests that a listener submits', async () => {
    const harness = createHarness();
    const chained: ReturnType<typeof harness.submit>[] = [];
    harness.submit(
      { prompt },
      {
        onFinish: () => void chained.push(harness.submit({ prompt: [1, 2, 3] })),
      },
    );
    await harness.engine.idle();
    expect(chained[0]!.finishes[0]).toHaveLength(1);
  });

  it('batches what is submitted in one turn', async () => {
    const harness = createHarness();
    for (let i = 0; i < 5; i++) harness.submit({ prompt: [i], sampling: { maxTokens: 1 } });
    await harness.engine.idle();
    expect(harness.engine.stats()).toMatchObject({
      steps: 1,
      batchSequencesSum: 5,
      maxSequencesInOneStep: 5,
      generatedTokens: 5,
    });
  });

  it('keeps its invariants in the middle of everything', async () => {
    const harness = createHarness({ engine: { numBlocks: 16 } });
    for (let i = 0; i < 6; i++) {
      harness.submit({ prompt: prompt.slice(i), adapter: generation(`a${i % 2}`), n: 1 + (i % 2) });
    }
    let violations: string[] = [];
    let busy = true;
    const done = harness.engine.idle().then(() => {
      busy = false;
    });
    while (busy) {
      await new Promise((resolve) => setImmediate(resolve));
      violations = violations.concat(engineViolations(harness.engine.snapshot()));
    }
    await done;
    expect(violations).toEqual([]);
    expect(leftovers(harness)).toEqual([]);
  });

  it('does nothing when there is nothing to do', async () => {
    // Not the process's timers: the test runner has some of its own.
    const timers = [vi.spyOn(globalThis, 'setTimeout'), vi.spyOn(globalThis, 'setInterval')];
    const harness = createHarness();
    harness.submit({ prompt });
    await harness.engine.idle();
    const { steps } = harness.native;
    for (let i = 0; i < 5; i++) await new Promise((resolve) => setImmediate(resolve));
    expect(harness.native.steps).toBe(steps);
    for (const timer of timers) {
      expect(timer).not.toHaveBeenCalled();
      timer.mockRestore();
    }
  });
});

describe('fairness', () => {
  it('counts what was generated: a long answer waits behind short ones of another adapter', async () => {
    const harness = createHarness({ engine: { maxSequences: 1 } });
    const order: string[] = [];
    const submit = (name: string, maxTokens: number) =>
      harness.submit(
        { prompt: [1], adapter: generation(name), sampling: { maxTokens } },
        {
          onFinish: () => void order.push(name),
        },
      );
    // Both adapters are resident before the race begins.
    submit('long', 1);
    submit('short', 1);
    await harness.engine.idle();
    order.length = 0;
    for (let i = 0; i < 2; i++) submit('long', 20);
    for (let i = 0; i < 4; i++) submit('short', 2);
    await harness.engine.idle();
    expect(order).toEqual(['long', 'short', 'short', 'short', 'short', 'long']);
  });
});

describe('starvation', () => {
  it('a request for a cold adapter gets in past a stream for a warm one', async () => {
    const harness = createHarness({
      maxSlots: 1,
      engine: { adapterWaitMsMax: 0, maxSequences: 2 },
    });
    const [warm, cold] = [generation('warm'), generation('cold')];
    let submitted = 0;
    let coldDone = false;
    // Two streams that always overlap: the slot would never be free of references.
    const feed = () => {
      if (coldDone || submitted > 500) return;
      submitted += 1;
      harness.submit(
        { prompt: [submitted % 60], adapter: warm, sampling: { maxTokens: 3 + (submitted % 2) } },
        { onFinish: feed },
      );
    };
    feed();
    feed();
    await new Promise((resolve) => setImmediate(resolve));
    await new Promise((resolve) => setImmediate(resolve));
    const request = harness.submit(
      { prompt, adapter: cold },
      {
        onFinish: () => {
          coldDone = true;
        },
      },
    );
    await harness.engine.idle();
    expect(request.finishes[0]![0]!.reason).toBe('length');
    expect(submitted).toBeLessThan(20);
  });

  it('ends with the load that failed: what had to wait behind it goes on by itself', async () => {
    let nowMs = 0;
    const harness = createHarness({ engine: { adapterWaitMsMax: 0, nowMs: () => nowMs } });
    const cold = generation('cold');
    const failed = harness.submit({ prompt, adapter: cold });
    await Promise.resolve();
    // Its load began and will turn out to have failed.
    harness.residency.failing.add(cold.digest);
    nowMs = 1;
    const behind = harness.submit({ prompt, sampling: { maxTokens: 2 } });
    for (let turn = 0; turn < 100 && behind.finishes[0]!.length === 0; turn++) {
      await new Promise((resolve) => setImmediate(resolve));
    }
    expect(failed.finishes[0]![0]!.reason).toBe('error');
    expect(behind.finishes[0]![0]?.reason).toBe('length');
  });
});
