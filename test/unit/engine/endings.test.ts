import { describe, expect, it } from 'vitest';
import {
  createHarness,
  generation,
  leftovers,
  type Recorded,
  runAlone,
} from '../../support/engine-harness.ts';

const reasons = (request: Recorded) =>
  request.finishes.map((events) => events.map(({ reason }) => reason).join());
const turn = () => new Promise((resolve) => setImmediate(resolve));
const prompt = [3, 1, 4, 1, 5, 9];

describe('endings', () => {
  it('stop at a stop token, which is delivered', async () => {
    const alone = (await runAlone({ prompt, sampling: { maxTokens: 8 } })).tokens[0]!;
    const stop = alone[3]!;
    const harness = createHarness();
    const request = harness.submit({ prompt, sampling: { stopTokenIds: new Set([stop]) } });
    await harness.engine.idle();
    expect(request.tokens[0]).toEqual(alone.slice(0, alone.indexOf(stop) + 1));
    expect(request.finishes[0]![0]).toMatchObject({ reason: 'stop', stopTokenId: stop });
  });

  it('do not honour a stop token before minTokens', async () => {
    const first = (await runAlone({ prompt })).tokens[0]![0]!;
    const harness = createHarness();
    const request = harness.submit({
      prompt,
      sampling: { stopTokenIds: new Set([first]), minTokens: 3, maxTokens: 3 },
    });
    await harness.engine.idle();
    expect(request.tokens[0]).toHaveLength(3);
    expect(request.tokens[0]).not.toContain(first);
  });

  it('cancel drops the token in flight and gives everything back', async () => {
    const harness = createHarness();
    const request = harness.submit(
      { prompt, adapter: generation('a'), n: 2 },
      {
        onToken() {
          if (request.tokens[0]!.length === 3) {
            request.interruptedAt ??= request.tokens.map((tokens) => tokens.length);
            request.handle.cancel();
            request.handle.cancel();
          }
        },
      },
    );
    await harness.engine.idle();
    expect(reasons(request)).toEqual(['cancelled', 'cancelled']);
    expect(request.tokens.map((tokens) => tokens.length)).toEqual(request.interruptedAt);
    expect(leftovers(harness)).toEqual([]);
  });

  it('cancel reaches a request that waits, without any step', async () => {
    const harness = createHarness({ maxSlots: 1 });
    const stuck = createHarness({ maxSlots: 1 });
    const request = harness.submit({ prompt });
    request.handle.cancel();
    await harness.engine.idle();
    expect(reasons(request)).toEqual(['cancelled']);
    expect(harness.native.steps).toBe(0);
    const cold = stuck.submit({ prompt, adapter: generation('a') });
    cold.handle.cancel();
    cold.handle.stop(0);
    await stuck.engine.idle();
    expect(reasons(cold)).toEqual(['cancelled']);
    expect(leftovers(stuck)).toEqual([]);
  });

  it('stop ends one choice and leaves the others alone', async () => {
    const spec = { prompt, n: 3, sampling: { temperature: 1, maxTokens: 6 } };
    const alone = await runAlone(spec);
    const harness = createHarness();
    const request = harness.submit(spec, {
      onToken({ index }) {
        if (index === 1 && request.tokens[1]!.length === 2) request.handle.stop(1);
      },
    });
    await harness.engine.idle();
    expect(reasons(request)).toEqual(['length', 'stop', 'length']);
    expect(request.finishes[1]![0]!.stopTokenId).toBeUndefined();
    expect(request.tokens).toEqual([
      alone.tokens[0],
      alone.tokens[1]!.slice(0, 2),
      alone.tokens[2],
    ]);
    expect(() => request.handle.stop(3)).toThrow(/Choice 3 does not exist/);
  });

  it('stop wins over length when it is called in the last token', async () => {
    const harness = createHarness();
    const request = harness.submit(
      { prompt, sampling: { maxTokens: 2 } },
      {
        onToken() {
          if (request.tokens[0]!.length === 2) request.handle.stop(0);
        },
      },
    );
    await harness.engine.idle();
    expect(reasons(request)).toEqual(['stop']);
  });

  it('stop of the choice that computes the prompt lets another one take over', async () => {
    const spec = { prompt: Array.from({ length: 60 }, (_, i) => i), n: 3 };
    const alone = await runAlone(spec);
    const harness = createHarness({ engine: { maxTokensPerStep: 16 } });
    const request = harness.submit(spec);
    request.handle.stop(0);
    await turn();
    await turn();
    request.handle.stop(1);
    await harness.engine.idle();
    expect(reasons(request)).toEqual(['stop', 'stop', 'length']);
    expect(request.tokens).toEqual([[], [], alone.tokens[2]]);
    expect(leftovers(harness)).toEqual([]);
  });

  it('drop tokens of the same delivery after a cancel', async () => {
    const harness = createHarness();
    const request = harness.submit(
      { prompt, n: 2, sampling: { maxTokens: 9 } },
      {
        onToken() {
          if (request.tokens.every((tokens) => tokens.length > 0)) request.handle.cancel();
        },
      },
    );
    await harness.engine.idle();
    // Choice 0 spoke first and choice 1, one token behind, second: that is when all was cancelled.
    expect(request.tokens.map((tokens) => tokens.length)).toEqual([2, 1]);
    const again = harness.submit(
      { prompt, n: 2, sampling: { maxTokens: 9 } },
      {
        onToken({ index }) {
          if (index === 0 && again.tokens[0]!.length === 2) again.handle.cancel();
        },
      },
    );
    await harness.engine.idle();
    expect(again.tokens.map((tokens) => tokens.length)).toEqual([2, 0]);
    expect(reasons(again)).toEqual(['cancelled', 'cancelled']);
  });

  it('end a request whose listener throws, and nobody else', async () => {
    const harness = createHarness();
    const bad = harness.submit(
      { prompt },
      {
        onToken() {
          throw new Error('listener');
        },
      },
    );
    const good = harness.submit({ prompt });
    await harness.engine.idle();
    expect(reasons(bad)).toEqual(['cancelled']);
    expect(reasons(good)).toEqual(['length']);
    expect(harness.defects).toHaveLength(1);
  });

  it('take a request with maxTokens 0 to the end of its prompt', async () => {
    const harness = createHarness();
    const request = harness.submit({ prompt, n: 2, sampling: { maxTokens: 0, promptLogprobs: 0 } });
    await harness.engine.idle();
    expect(reasons(request)).toEqual(['length', 'length']);
    expect(request.tokens).toEqual([[], []]);
    expect(request.promptLogprobs[0]).toHaveLength(prompt.length);
    expect(leftovers(harness)).toEqual([]);
  });
});

describe('close', () => {
  it('cancels everything at once by default and refuses what comes later', async () => {
    const harness = createHarness();
    const request = harness.submit({ prompt, sampling: { maxTokens: 200 } });
    await turn();
    await harness.engine.close();
    expect(reasons(request)).toEqual(['cancelled']);
    expect(() => harness.submit({ prompt })).toThrow(/shutting down/);
    expect(leftovers(harness)).toEqual([]);
    await harness.engine.close();
  });

  it('lets requests finish while it drains, and no longer than they need', async () => {
    const harness = createHarness();
    const request = harness.submit({ prompt });
    await harness.engine.close({ drainMs: 1_000_000 });
    expect(reasons(request)).toEqual(['length']);
  });

  it('cancels what is left when draining takes too long', async () => {
    const harness = createHarness();
    harness.native.schedule = (run) => setTimeout(run, 5);
    const request = harness.submit({ prompt, sampling: { maxTokens: 200 } });
    await harness.engine.close({ drainMs: 20 });
    expect(reasons(request)).toEqual(['cancelled']);
  });
});
