import { describe, expect, it } from 'vitest';
import { BlockPool } from '../../../src/kvcache/block-pool.ts';
import { Random } from '../../support/random.ts';

describe('BlockPool', () => {
  it('hands out every block once and then says it has none', () => {
    const pool = new BlockPool(3);
    expect([pool.allocate(), pool.allocate(), pool.allocate(), pool.allocate()]).toEqual([
      0, 1, 2, -1,
    ]);
    expect(pool.numFree).toBe(0);
  });

  it('overwrites blocks without content first, then cached ones, oldest first', () => {
    const pool = new BlockPool(4);
    const evicted: number[] = [];
    pool.onEvict((block) => evicted.push(block));
    for (let i = 0; i < 4; i++) pool.allocate();
    pool.markCached(0);
    pool.markCached(2);
    for (const block of [2, 1, 0, 3]) pool.release(block);
    expect(pool.freeList()).toEqual([3, 1, 2, 0]);
    expect(pool.numFreeCached).toBe(2);
    expect([pool.allocate(), pool.allocate()]).toEqual([3, 1]);
    expect(evicted).toEqual([]);
    expect(pool.allocate()).toBe(2);
    expect(evicted).toEqual([2]);
    expect(pool.isCached(2)).toBe(false);
  });

  it('saves a free cached block from eviction while it is referenced', () => {
    const pool = new BlockPool(2);
    pool.allocate();
    pool.markCached(0);
    pool.release(0);
    pool.acquire(0);
    expect(pool.refCount(0)).toBe(1);
    expect([pool.allocate(), pool.allocate()]).toEqual([1, -1]);
  });

  it('frees a block with its last reference only', () => {
    const pool = new BlockPool(1);
    pool.allocate();
    pool.acquire(0);
    pool.release(0);
    expect(pool.numFree).toBe(0);
    pool.release(0);
    expect(pool.numFree).toBe(1);
    expect(() => pool.release(0)).toThrow(/no reference/);
  });

  it('moves a free block that loses its content to the front', () => {
    const pool = new BlockPool(2);
    pool.allocate();
    pool.markCached(0);
    pool.release(0);
    expect(pool.freeList()).toEqual([1, 0]);
    pool.unmarkCached(0);
    expect(pool.freeList()).toEqual([0, 1]);
    expect(pool.numFreeCached).toBe(0);
    expect(() => pool.markCached(0)).toThrow(/while free/);
  });

  it('agrees with a naive model over random operations', () => {
    for (let seed = 1; seed <= 20; seed++) {
      const random = new Random(seed);
      const pool = new BlockPool(8);
      const references = new Array<number>(8).fill(0);
      for (let i = 0; i < 500; i++) {
        const used = references.flatMap((count, block) => (count > 0 ? [block] : []));
        const operation = random.int(0, 3);
        if (operation === 0) {
          const block = pool.allocate();
          expect(block === -1, `seed ${seed}`).toBe(used.length === 8);
          if (block >= 0) {
            expect(references[block], `seed ${seed}`).toBe(0);
            references[block] = 1;
          }
        } else if (used.length > 0) {
          const block = random.pick(used);
          if (operation === 1) {
            pool.release(block);
            references[block]! -= 1;
          } else if (operation === 2) {
            pool.acquire(block);
            references[block]! += 1;
          } else {
            pool.markCached(block);
          }
        }
        const free = references.flatMap((count, block) => (count === 0 ? [block] : []));
        expect(pool.freeList().sort(), `seed ${seed}`).toEqual(free);
        expect(pool.numFree, `seed ${seed}`).toBe(free.length);
        const cached = free.filter((block) => pool.isCached(block));
        expect(pool.numFreeCached, `seed ${seed}`).toBe(cached.length);
      }
    }
  });
});
