/** What the engine does while the native session is replaced. */
import { describe, expect, it } from 'vitest';
import { engineViolations } from '../../../src/engine/snapshot.ts';
import { LoramuxError } from '../../../src/errors.ts';
import {
  createHarness,
  generation,
  type HarnessOptions,
  leftovers,
  type Recorded,
  runAlone,
  SessionFault,
} from '../../support/engine-harness.ts';

const prompt = Array.from({ length: 9 }, (_, i) => i + 1);
const codeOf = (request: Recorded, choice = 0) => request.finishes[choice]![0]?.error?.code;
const turn = () => new Promise<void>((resolve) => setImmediate(resolve));

/** An engine whose restarts end when the test says so. */
function restartable(options: HarnessOptions = {}) {
  const ends: ((error?: Error) => void)[] = [];
  const harness = createHarness({
    restart: () =>
      new Promise((resolve, reject) => {
        ends.push((error) => (error === undefined ? resolve() : reject(error)));
      }),
    ...options,
  });
  let left = 0;
  harness.native.failure = () => (left-- > 0 ? new SessionFault('broken') : undefined);
  return {
    ...harness,
    harness,
    failNext: (steps = 1) => {
      left = steps;
    },
    async untilRestarting() {
      const before = ends.length;
      while (ends.length === before) await turn();
      return ends.at(-1)!;
    },
  };
}

describe('a session at fault', () => {
  it('ends the batch, keeps what waits, refuses what comes, and goes on', async () => {
    const { harness, engine, submit, failNext, faults, untilRestarting } = restartable({
      engine: { maxSequences: 2 },
    });
    failNext();
    const specs = [
      { prompt },
      { prompt, adapter: generation('a') },
      { prompt: [7, 8], adapter: generation('a'), n: 2 },
      { prompt: [4] },
    ];
    const requests = specs.map((spec) => submit(spec));
    const end = await untilRestarting();
    await turn();
    const codes = requests.map((request) => codeOf(request));
    const ended = codes.filter((code) => code === 'session_restarted').length;
    expect(ended).toBeGreaterThan(0);
    expect(codes.filter((code) => code === undefined)).toHaveLength(specs.length - ended);
    expect(engine.stats()).toMatchObject({ running: 0, blocksReferenced: 0, blocksCached: 0 });
    expect(engineViolations(engine.snapshot())).toEqual([]);
    expect(() => submit({ prompt })).toThrow(
      expect.objectContaining({ code: 'session_restarting', status: 503 }),
    );
    end();
    await engine.idle();
    for (const [i, request] of requests.entries()) {
      if (codes[i] !== undefined) continue;
      expect(request.tokens).toEqual((await runAlone(specs[i]!)).tokens);
    }
    const again = submit(specs[1]!);
    await engine.idle();
    expect(again.tokens).toEqual((await runAlone(specs[1]!)).tokens);
    expect(faults.map(({ message }) => message)).toEqual([
      'The native session is at fault: broken.',
    ]);
    expect(engine.failure).toBeUndefined();
    expect(leftovers(harness)).toEqual([]);
    expect(harness.defects).toEqual([]);
  });

  it('is also one whose steps fail again and again', async () => {
    const { harness, engine, submit, faults, untilRestarting } = restartable({
      engine: { maxConsecutiveStepFailures: 2, maxSequences: 1 },
    });
    let failed = 0;
    harness.native.failure = () => (failed++ < 2 ? new Error('out of luck') : undefined);
    const requests = [1, 2, 3].map((first) => submit({ prompt: [first] }));
    const end = await untilRestarting();
    end();
    await engine.idle();
    expect(requests.map((request) => codeOf(request))).toEqual([
      'engine_failed',
      'session_restarted',
      undefined,
    ]);
    expect(faults[0]!.message).toMatch(/2 native steps failed in a row, the last one with/);
    expect(leftovers(harness)).toEqual([]);
  });

  it('takes the prefixes of its cache along', async () => {
    const { engine, submit, failNext, untilRestarting } = restartable();
    submit({ prompt });
    await engine.idle();
    failNext();
    submit({ prompt: [20] });
    (await untilRestarting())();
    await engine.idle();
    const again = submit({ prompt });
    await engine.idle();
    expect(again.handle.cachedPromptTokens).toBe(0);
    expect(again.tokens).toEqual((await runAlone({ prompt })).tokens);
  });

  it('ends all choices of a request of which one is in the batch', async () => {
    const { harness, engine, submit, failNext, untilRestarting } = restartable({
      engine: { numBlocks: 24, maxModelLen: 64 },
    });
    submit({ prompt: [9, 8], sampling: { maxTokens: 40 } });
    const request = submit({ prompt, n: 3, sampling: { maxTokens: 24 } });
    while (engine.stats().preemptions === 0) await turn();
    failNext();
    (await untilRestarting())();
    await engine.idle();
    for (const choice of [0, 1, 2]) expect(codeOf(request, choice)).toBe('session_restarted');
    expect(leftovers(harness)).toEqual([]);
  });

  it('is no reason to keep what was cancelled or to forget why it ended', async () => {
    const { harness, engine, submit, untilRestarting } = restartable({
      engine: { maxSequences: 1 },
    });
    harness.native.failure = () => {
      first.handle.cancel();
      return new SessionFault('late');
    };
    const first = submit({ prompt });
    const waiting = submit({ prompt });
    const end = await untilRestarting();
    harness.native.failure = () => undefined;
    waiting.handle.cancel();
    await engine.idle();
    expect(first.finishes[0]![0]!.reason).toBe('cancelled');
    expect(waiting.finishes[0]![0]!.reason).toBe('cancelled');
    end();
    await turn();
    expect(leftovers(harness)).toEqual([]);
  });
});

describe('a restart that does not succeed', () => {
  it('ends what waits and all that comes', async () => {
    const { harness, engine, submit, failNext, untilRestarting } = restartable({
      engine: { maxSequences: 1 },
    });
    failNext();
    const requests = [submit({ prompt }), submit({ prompt: [3], adapter: generation('a') })];
    (await untilRestarting())(new LoramuxError('engine_failed', 'no memory'));
    await engine.idle();
    expect(requests.map((request) => codeOf(request))).toEqual([
      'session_restarted',
      'engine_failed',
    ]);
    expect(engine.failure?.message).toBe('no memory');
    expect(() => submit({ prompt })).toThrow('no memory');
    expect(leftovers(harness)).toEqual([]);
  });
});

describe('a bad packet', () => {
  it('is a defect that ends its requests, however often it comes', async () => {
    const { harness, engine, submit, faults } = restartable({
      engine: { maxConsecutiveStepFailures: 1 },
    });
    const refused = Object.assign(new Error('bad'), { code: 'native_invalid_argument' });
    harness.native.failure = () => refused;
    for (let i = 0; i < 5; i++) {
      const request = submit({ prompt });
      await engine.idle();
      expect(codeOf(request)).toBe('internal_error');
    }
    expect(faults).toEqual([]);
    expect(engine.failure).toBeUndefined();
    expect(leftovers(harness)).toEqual([]);
  });
});

describe('close', () => {
  it('during a restart ends what waits without waiting for the session', async () => {
    const { harness, engine, submit, failNext, untilRestarting } = restartable({
      engine: { maxSequences: 1 },
    });
    failNext();
    const requests = [submit({ prompt }), submit({ prompt: [2] })];
    const end = await untilRestarting();
    await engine.close();
    expect(requests.map(({ finishes }) => finishes[0]![0]!.reason)).toEqual(['error', 'cancelled']);
    expect(leftovers(harness)).toEqual([]);
    end(new LoramuxError('shutting_down', 'closing'));
    await turn();
    expect(leftovers(harness)).toEqual([]);
  });

  it('with time to drain lets what waits run on the next session', async () => {
    const { harness, engine, submit, failNext, untilRestarting } = restartable({
      engine: { maxSequences: 1 },
    });
    failNext();
    submit({ prompt });
    const waiting = submit({ prompt: [2] });
    const end = await untilRestarting();
    const closed = engine.close({ drainMs: 600_000 });
    end();
    await closed;
    expect(waiting.tokens).toEqual((await runAlone({ prompt: [2] })).tokens);
    expect(leftovers(harness)).toEqual([]);
  });

  it('while it drains, a fault ends everything instead of a restart', async () => {
    const { harness, engine, submit, failNext, faults } = restartable({
      engine: { maxSequences: 1 },
    });
    const requests = [submit({ prompt }), submit({ prompt: [2] })];
    const closed = engine.close({ drainMs: 600_000 });
    failNext();
    await closed;
    expect(requests.map((request) => codeOf(request))).toEqual(['engine_failed', 'engine_failed']);
    expect(faults).toEqual([]);
    expect(leftovers(harness)).toEqual([]);
  });
});
