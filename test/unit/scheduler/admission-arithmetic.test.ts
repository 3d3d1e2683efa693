import { describe, expect, it } from 'vitest';
import {
  admissionBlocks,
  blocksForTokens,
  fitsNow,
  worstCaseBlocks,
  worstCaseCachedTokens,
} from '../../../src/scheduler/admission-arithmetic.ts';

describe('admission arithmetic', () => {
  it('rounds tokens up to blocks', () => {
    expect([0, 1, 16, 17].map((tokens) => blocksForTokens(tokens, 16))).toEqual([0, 1, 1, 2]);
  });

  it('needs no slot for the last generated token, nor for none', () => {
    expect(worstCaseCachedTokens(10, 1)).toBe(10);
    expect(worstCaseCachedTokens(10, 7)).toBe(16);
    expect(worstCaseCachedTokens(10, 0)).toBe(10);
  });

  it('counts the blocks of every choice, the shared ones once', () => {
    expect(worstCaseBlocks(16, 1, 1, 4)).toBe(4);
    // 4 full blocks minus the one of the last prompt token are shared; each choice adds 1 + 2.
    expect(worstCaseBlocks(16, 9, 3, 4)).toBe(3 + 3 * 3);
    expect(worstCaseBlocks(1, 5, 2, 4)).toBe(4);
    // Scoring only: nothing is ever forked.
    expect(worstCaseBlocks(16, 0, 5, 4)).toBe(4);
  });

  it('counts free blocks that sharing would take out of the free list', () => {
    const need = { numTokens: 20, sharedTokens: 8, blockSize: 4, copySourceFreeBlocks: 0 };
    expect(admissionBlocks({ ...need, sharedFreeBlocks: 0 })).toBe(3);
    expect(admissionBlocks({ ...need, sharedFreeBlocks: 2 })).toBe(5);
    expect(admissionBlocks({ ...need, sharedFreeBlocks: 2, copySourceFreeBlocks: 1 })).toBe(6);
  });

  it('keeps a watermark for those that run, and none when nobody runs', () => {
    expect(fitsNow(10, 10, 0, 200, false)).toBe(true);
    expect(fitsNow(9, 10, 0, 200, true)).toBe(false);
    expect(fitsNow(8, 10, 0, 200, true)).toBe(true);
    expect(fitsNow(8, 10, 1, 200, true)).toBe(false);
  });
});
