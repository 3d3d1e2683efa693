/** Masks of allowed tokens in shared memory: kept to, waited for, and missed by their own row only. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { MASK_HEADER_WORDS, MASK_NEVER, MaskMemory } from '../../src/grammar/mask-memory.ts';
import { ROW_STATUS } from '../../src/native/addon-types.ts';
import type { NativeSession } from '../../src/native/index.ts';
import { fixtureSession } from '../support/native-fixtures.ts';
import { packStep, type RowSpec } from '../support/step-packets.ts';

const VOCAB = 304;
const WAIT_MS = 300;
const masks = new MaskMemory(VOCAB, 4);
let session: NativeSession;

beforeAll(async () => {
  const { words, slots, stride } = masks;
  const tokenMasks = { words, slots, stride, waitMs: WAIT_MS };
  session = await fixtureSession('llama3', { tokenMasks });
});
afterAll(() => session.close());

/** Writes a mask that allows these tokens alone. */
function allow(slot: number, stamp: number, ...tokens: number[]): void {
  const at = slot * masks.stride;
  masks.words.fill(0, at + 1, at + masks.stride);
  for (const id of tokens) masks.words[at + MASK_HEADER_WORDS + (id >> 5)]! |= 1 << (id & 31);
  Atomics.store(masks.words, at, stamp);
}

const step = (...rows: RowSpec[]) =>
  session.step(
    packStep(
      rows.map((row, i) => ({
        tokens: [5, 6, 7],
        cached: 0,
        blocks: [i],
        rows: [{ at: 2, row }],
      })),
    ),
  );

describe('a mask', () => {
  it('leaves only its tokens, greedy and not; log-probabilities stay those of the model', async () => {
    const slot = masks.take();
    const free = await step({ numTopLogprobs: 20 });
    const other = free.topIds[7]!;
    allow(slot, 3, other);
    for (const temperature of [0, 1]) {
      const mask = { slot, stamp: 3 };
      const { tokenIds, logprobs, ranks } = await step({ temperature, numTopLogprobs: 1, mask });
      expect(tokenIds[0]).toBe(other);
      expect(logprobs[0]).toBe(free.topLogprobs[7]);
      expect(ranks[0]).toBe(8);
    }
  });

  it('is waited for, and says how long', async () => {
    const slot = masks.take();
    const result = step({ mask: { slot, stamp: 1 } });
    setTimeout(() => allow(slot, 1, 42), WAIT_MS / 10);
    const { tokenIds, maskWaitMs, rowStatus } = await result;
    expect(tokenIds[0]).toBe(42);
    expect(rowStatus).toBeUndefined();
    expect(maskWaitMs).toBeGreaterThan(0);
  });

  it('that does not come fails its row, and the others are answered', async () => {
    const [late, never, there] = [masks.take(), masks.take(), masks.take()];
    masks.fail(never);
    allow(late, 4, 9);
    allow(there, 5, 11);
    const plain = await step({});
    const { tokenIds, rowStatus } = await step(
      { mask: { slot: late, stamp: 5 } },
      { mask: { slot: never, stamp: 1 } },
      { mask: { slot: there, stamp: 5 } },
      {},
    );
    expect([...rowStatus!]).toEqual([ROW_STATUS.noMask, ROW_STATUS.noMask, 0, 0]);
    expect(tokenIds[2]).toBe(11);
    expect(tokenIds[3]).toBe(plain.tokenIds[0]);
    expect(MASK_NEVER).toBe(-1);
  });

  it('that allows nothing fails its row', async () => {
    const slot = masks.take();
    allow(slot, 1);
    const { rowStatus } = await step({ mask: { slot, stamp: 1 } });
    expect([...rowStatus!]).toEqual([ROW_STATUS.notFinite]);
  });

  it.each([
    [{ slot: masks.slots, stamp: 1 }, /maskSlots/],
    [{ slot: -2, stamp: 1 }, /maskSlots/],
    [{ slot: 1, stamp: 0 }, /maskStamps/],
  ])('of %j is refused', async (mask, message) => {
    await expect(step({ mask })).rejects.toThrow(message);
  });
});

describe('memory of masks', () => {
  it('must be as large as it says, and wide enough for the vocabulary', async () => {
    const { words, slots, stride } = masks;
    const open = (tokenMasks: object) =>
      fixtureSession('llama3', { tokenMasks: { words, slots, stride, waitMs: 1, ...tokenMasks } });
    await expect(open({ slots: slots + 1 })).rejects.toThrow(/tokenMasks.words/);
    await expect(open({ words: words.subarray(0, 4), slots: 1, stride: 4 })).rejects.toThrow(
      /tokenMasks.stride/,
    );
    await expect(open({ waitMs: -1 })).rejects.toThrow(/tokenMasks.waitMs/);
  });
});
