/** A step that is packed while the one before it runs must not show in anything but time. */
import { describe, expect, it } from 'vitest';
import { engineViolations } from '../../../src/engine/index.ts';
import {
  createHarness,
  generation,
  type Harness,
  type HarnessOptions,
  leftovers,
  type Recorded,
  type RequestSpec,
  runAlone,
} from '../../support/engine-harness.ts';

const MAX_TOKENS = 40;

/** Requests of different lengths over the base and two adapters. */
function specs(count: number): RequestSpec[] {
  return Array.from({ length: count }, (_, i) => ({
    prompt: Array.from({ length: 5 + i }, (_, k) => (i * 17 + k * 7 + 1) % 61),
    adapter: i % 3 === 0 ? undefined : generation(`a${i % 3}`),
    sampling: { maxTokens: MAX_TOKENS - 3 * i, temperature: 1, seed: BigInt(i + 1) << 31n },
  }));
}

async function expectAsAlone(requests: Recorded[], except: Recorded[] = []): Promise<void> {
  for (const request of requests) {
    expect(request.violations).toEqual([]);
    if (except.includes(request)) continue;
    const alone = await runAlone(request.spec);
    expect(request.tokens).toEqual(alone.tokens);
    expect(request.finishes).toEqual(alone.finishes);
  }
}

/** Runs the requests; `after` is called in the middle of the step that follows the n-th token. */
async function run(
  all: RequestSpec[],
  options: HarnessOptions,
  after: Record<number, (harness: Harness, requests: Recorded[]) => void> = {},
): Promise<{ harness: Harness; requests: Recorded[] }> {
  const harness = createHarness({ ...options, engine: { numBlocks: 128, ...options.engine } });
  harness.native.recording = true;
  const requests: Recorded[] = [];
  let heard = 0;
  for (const [i, spec] of all.entries()) {
    const onToken = () => {
      if (i > 0) return;
      heard += 1;
      after[heard]?.(harness, requests);
    };
    requests.push(harness.submit(spec, { onToken }));
  }
  await harness.engine.idle();
  expect(harness.defects).toEqual([]);
  expect(leftovers(harness)).toEqual([]);
  return { harness, requests };
}

describe('a step packed ahead', () => {
  it('is the rule while a batch decodes, over borders of blocks', async () => {
    const all = specs(3).map((spec) => ({
      ...spec,
      adapter: undefined,
      sampling: { ...spec.sampling, maxTokens: MAX_TOKENS },
    }));
    const { harness, requests } = await run(all, {});
    const { steps, preparedSteps } = harness.engine.stats();
    // All prompts fit into the first step, and a first token is never followed by a prepared one.
    expect(steps).toBe(MAX_TOKENS);
    expect(preparedSteps).toBe(MAX_TOKENS - 2);
    await expectAsAlone(requests);
  });

  it('is dropped where a sequence reaches its last token', async () => {
    const { harness, requests } = await run(specs(4), {});
    expect(harness.engine.stats().preparedSteps).toBeGreaterThan(MAX_TOKENS / 2);
    await expectAsAlone(requests);
  });

  it('is dropped where a sequence samples a stop token', async () => {
    const all = specs(3);
    const { tokens } = await runAlone(all[1]!);
    const stopTokenIds = new Set([tokens[0]![12]!]);
    const stopping = { ...all[1]!, sampling: { ...all[1]!.sampling, stopTokenIds } };
    const { harness, requests } = await run([all[0]!, stopping, all[2]!], {});
    expect(requests[1]!.finishes[0]![0]!.reason).toBe('stop');
    expect(requests[1]!.tokens[0]!.length).toBeLessThan(14);
    expect(harness.engine.stats().preparedSteps).toBeGreaterThan(MAX_TOKENS / 2);
    await expectAsAlone(requests);
  });

  it('goes on where a stop token is masked by min_tokens', async () => {
    const [spec] = specs(1);
    const stopTokenIds = new Set(Array.from({ length: 30 }, (_, id) => id));
    const sampling = { ...spec!.sampling, stopTokenIds, minTokens: 10 };
    const { harness, requests } = await run([{ ...spec!, sampling }], {});
    expect(harness.engine.stats().preparedSteps).toBeGreaterThan(5);
    expect(requests[0]!.tokens[0]!.length).toBeGreaterThan(10);
    await expectAsAlone(requests);
  });

  it('is dropped where a request is cancelled or stopped', async () => {
    let heard = 0;
    const { harness, requests } = await run(
      specs(4),
      {},
      {
        9: (_, all) => {
          heard = all[1]!.tokens[0]!.length;
          all[1]!.handle.cancel();
        },
        15: (_, all) => all[2]!.handle.stop(0),
      },
    );
    expect(requests[1]!.finishes[0]![0]!.reason).toBe('cancelled');
    expect(requests[2]!.finishes[0]![0]!.reason).toBe('stop');
    // The token of the step that ran then is not delivered.
    expect(requests[1]!.tokens[0]).toHaveLength(heard);
    expect(harness.engine.stats().preparedSteps).toBeGreaterThan(10);
    await expectAsAlone(requests, [requests[1]!, requests[2]!]);
  });

  it('gives way to an arrival, which is in the very next step', async () => {
    let late: Recorded | undefined;
    let stepsBefore = 0;
    const { harness, requests } = await run(
      specs(2),
      {},
      {
        10: (it) => {
          stepsBefore = it.native.steps;
          late = it.submit({ prompt: [9, 8, 7], adapter: generation('new') });
        },
      },
    );
    const withBase = harness.native.packets[stepsBefore]!;
    // Its adapter is loaded while others go on; it enters at the first border after that.
    expect(withBase.numSequences).toBe(2);
    const entered = harness.native.packets.findIndex(({ numSequences }) => numSequences === 3);
    expect(entered).toBeGreaterThanOrEqual(stepsBefore);
    expect(harness.native.packets[entered]!.numTokens).toBe(2 + 3);
    await expectAsAlone([...requests, late!]);
  });

  it('gives way to an arrival on the base at once', async () => {
    let late: Recorded | undefined;
    let stepsBefore = 0;
    const { harness, requests } = await run(
      specs(2),
      {},
      {
        10: (it) => {
          stepsBefore = it.native.steps;
          late = it.submit({ prompt: [9, 8, 7] });
        },
      },
    );
    expect(harness.native.packets[stepsBefore]!.numSequences).toBe(3);
    await expectAsAlone([...requests, late!]);
  });

  it('gives way to preemption', async () => {
    const all = specs(4).map((spec) => ({ ...spec, adapter: undefined }));
    const { harness, requests } = await run(all, { engine: { numBlocks: 24 } });
    const { preemptions, preparedSteps } = harness.engine.stats();
    expect(preemptions).toBeGreaterThan(0);
    expect(preparedSteps).toBeGreaterThan(0);
    await expectAsAlone(requests);
  });

  it('holds the sampled token in the history that penalties look at', async () => {
    const all = specs(3).map((spec, i) => ({
      ...spec,
      sampling: { ...spec.sampling, ...(i === 1 ? {} : { repetitionPenalty: 1.3 }) },
    }));
    const { harness, requests } = await run(all, {});
    expect(harness.engine.stats().preparedSteps).toBeGreaterThan(MAX_TOKENS / 2);
    for (const packet of harness.native.packets) {
      const { history, historyStart } = packet.sampling;
      for (let row = 0; row < packet.numRows; row++) {
        const end = historyStart[row + 1]!;
        if (end === historyStart[row]) continue;
        expect(history[end - 1]).toBe(packet.inputIds[packet.logitRows[row]!]);
      }
    }
    await expectAsAlone(requests);
  });

  it('fails as any other', async () => {
    const { harness, requests } = await run(
      specs(2),
      {},
      {
        10: (it) => {
          let left = 1;
          it.native.failure = () => (left-- > 0 ? new Error('out of luck') : undefined);
        },
      },
    );
    for (const { finishes } of requests) expect(finishes[0]![0]!.error?.code).toBe('engine_failed');
    expect(harness.engine.failure).toBeUndefined();
    const again = harness.submit(specs(1)[0]!);
    await harness.engine.idle();
    await expectAsAlone([again]);
  });

  it('is dropped where a row is not finite', async () => {
    const all = specs(2);
    const { tokens } = await runAlone(all[1]!);
    const { requests } = await run(all, { native: { nanTokenId: tokens[0]![11]! } });
    expect(requests[1]!.finishes[0]![0]!.error?.code).toBe('logits_not_finite');
  });

  it('keeps the adapters of its sequences and lets go of them with the last one', async () => {
    const { harness, requests } = await run(
      specs(4),
      { maxSlots: 2 },
      {
        12: (it, all) => {
          expect(it.residency.references.get('digest-a1')).toBe(1);
          all[1]!.handle.cancel();
        },
        14: (it) => expect(it.residency.references.get('digest-a1') ?? 0).toBe(0),
      },
    );
    expect(harness.engine.stats().preparedSteps).toBeGreaterThan(0);
    await expectAsAlone(requests, [requests[1]!]);
  });

  it('leaves the invariants as they are, in the middle of everything', async () => {
    const harness = createHarness({ engine: { numBlocks: 24 } });
    const requests = specs(5).map((spec) => harness.submit({ ...spec, n: 2 }));
    const violations: string[] = [];
    let busy = true;
    const done = harness.engine.idle().then(() => {
      busy = false;
    });
    while (busy) {
      await new Promise((resolve) => setImmediate(resolve));
      violations.push(...engineViolations(harness.engine.snapshot()));
    }
    await done;
    expect(violations).toEqual([]);
    expect(leftovers(harness)).toEqual([]);
    await expectAsAlone(requests);
  });
});
