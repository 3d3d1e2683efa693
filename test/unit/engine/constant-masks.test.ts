/** All but a few tokens banned: a mask in memory instead of a list in every step. */
import { describe, expect, it } from 'vitest';
import { BannedTokens } from '../../../src/engine/banned-tokens.ts';
import { MaskMemory } from '../../../src/grammar/mask-memory.ts';
import { GrammarPool } from '../../../src/grammar/pool.ts';
import type { StepPacket } from '../../../src/native/addon-types.ts';
import {
  createHarness,
  type Harness,
  type HarnessOptions,
  leftovers,
  type RequestSpec,
  runAlone,
  SessionFault,
} from '../../support/engine-harness.ts';
import { numFreeMasks } from '../../support/fuzz-grammars.ts';

const VOCAB = 61;
const MAX_SEQUENCES = 4;
const ALLOWED = [3, 31, 32, 60];
const FREE_MASKS = 4 * MAX_SEQUENCES;

const spec = (allowed: number[], sampling: RequestSpec['sampling'] = {}): RequestSpec => ({
  prompt: [3, 1, 4, 1, 5],
  sampling: { maxTokens: 12, bannedTokenIds: new BannedTokens(allowed, VOCAB), ...sampling },
});

function masked(options: HarnessOptions = {}, memory = new MaskMemory(VOCAB, MAX_SEQUENCES)) {
  const setup = { modelDir: '', vocabSize: VOCAB, stopTokenIds: [] };
  // Its threads are never started.
  const pool = new GrammarPool({ setup, masks: memory, compileMsMax: 1, cachedMax: 1 });
  const harness = createHarness({
    ...options,
    engine: { maxSequences: MAX_SEQUENCES, numBlocks: 128, masks: pool, ...options.engine },
    native: { masks: memory },
  });
  harness.native.recording = true;
  return { harness, memory };
}

const numBiases = ({ sampling, numRows }: StepPacket) => sampling.biasStart[numRows]!;
const largest = ({ native }: Harness) => Math.max(...native.packets.map(numBiases));

describe('tokens that are banned as most of the vocabulary', () => {
  it('are listed in no step, and the answer is that of a list', async () => {
    const { harness, memory } = masked();
    for (const sampling of [{}, { temperature: 1, seed: 7n, logprobs: 2 }]) {
      const requests = [0, 1, 2].map(() => harness.submit(spec(ALLOWED, sampling)));
      const other = harness.submit({ ...spec([]), sampling: { maxTokens: 12 } });
      await harness.engine.idle();
      const listed = await runAlone(
        spec([], {
          ...sampling,
          bannedTokenIds: Int32Array.from(new BannedTokens(ALLOWED, VOCAB)),
        }),
      );
      for (const { tokens, logprobs } of requests) {
        expect(tokens).toEqual(listed.tokens);
        expect(logprobs).toEqual(listed.logprobs);
      }
      for (const id of listed.tokens[0]!) expect(ALLOWED).toContain(id);
      expect(other.tokens[0]!.some((id) => !ALLOWED.includes(id))).toBe(true);
    }
    expect(largest(harness)).toBe(0);
    expect(numFreeMasks(memory)).toBe(FREE_MASKS);
    expect(leftovers(harness)).toEqual([]);
  });

  it('stay banned for every choice that is preempted, stopped or cancelled', async () => {
    const { harness, memory } = masked({ engine: { numBlocks: 12 } });
    const requests = Array.from({ length: 30 }, (_, i) => {
      const request = harness.submit(
        { ...spec(ALLOWED, { temperature: 1, seed: BigInt(i) }), n: 1 + (i % 3) },
        {
          onToken: () => {
            if (i % 5 === 0) request.handle.cancel();
            if (i % 7 === 0) request.handle.stop(0);
          },
        },
      );
      return request;
    });
    await harness.engine.idle();
    expect(harness.engine.stats().preemptions).toBeGreaterThan(0);
    for (const { tokens } of requests) {
      for (const id of tokens.flat()) expect(ALLOWED).toContain(id);
    }
    expect(largest(harness)).toBe(0);
    expect(numFreeMasks(memory)).toBe(FREE_MASKS);
    expect(leftovers(harness)).toEqual([]);
  });

  it('go with words that are banned and tokens that end the answer too early', async () => {
    const { harness } = masked();
    const request = harness.submit(
      spec(ALLOWED, {
        stopTokenIds: new Set([31, 60]),
        minTokens: 12,
        bannedSequences: [Int32Array.of(3, 3)],
      }),
    );
    await harness.engine.idle();
    expect(request.tokens[0]).toHaveLength(12);
    expect(request.tokens[0]!.filter((id) => id !== 3 && id !== 32)).toEqual([]);
    expect(` ${request.tokens[0]!.join(' ')} `).not.toContain(' 3 3 ');
    expect(largest(harness)).toBe(3);
  });

  it('are listed where no mask is left, until one is', async () => {
    const memory = new MaskMemory(VOCAB, MAX_SEQUENCES);
    const taken = Array.from({ length: FREE_MASKS }, () => memory.take());
    const { harness } = masked({}, memory);
    const request = harness.submit(spec(ALLOWED));
    await harness.engine.idle();
    const listed = VOCAB - ALLOWED.length;
    expect(harness.native.packets.map(numBiases)).toEqual(Array(12).fill(listed));
    for (const id of request.tokens[0]!) expect(ALLOWED).toContain(id);
    for (const slot of taken) memory.giveBack(slot);
    memory.stepEnded();
    harness.native.packets.length = 0;
    harness.submit(spec(ALLOWED));
    await harness.engine.idle();
    expect(largest(harness)).toBe(0);
  });

  it('go with a grammar: only what both allow is sampled', async () => {
    const { harness, memory } = masked();
    const slot = memory.takeConstant(new BannedTokens([3, 4, 5], VOCAB).allowed);
    const constraint = { open: () => ({ slot, stamp: 1, accept() {}, close() {} }) };
    const request = harness.submit(spec(ALLOWED, { constraint }));
    await harness.engine.idle();
    expect(request.tokens[0]).toEqual(Array(12).fill(3));
  });

  it('leave no mask taken when the session is replaced', async () => {
    const { harness, memory } = masked({ restart: async () => {} });
    harness.native.failure = () =>
      harness.native.steps === 3 ? new SessionFault('broken') : undefined;
    const requests = Array.from({ length: 6 }, () => harness.submit(spec(ALLOWED)));
    await harness.engine.idle();
    const codes = requests.map(({ finishes }) => finishes[0]![0]!.error?.code);
    expect(codes).toContain('session_restarted');
    for (const { tokens } of requests) {
      for (const id of tokens[0]!) expect(ALLOWED).toContain(id);
    }
    expect(numFreeMasks(memory)).toBe(FREE_MASKS);
  });
});
