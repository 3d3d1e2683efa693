import { describe, expect, it } from 'vitest';
import { BlockPool } from '../../../src/kvcache/block-pool.ts';
import { PrefixCache } from '../../../src/kvcache/prefix-cache.ts';

describe('PrefixCache', () => {
  it('finds a block until it is overwritten', () => {
    const pool = new BlockPool(1);
    const cache = new PrefixCache(pool);
    const block = pool.allocate();
    cache.register('x', block);
    pool.release(block);
    expect(cache.find('x')).toBe(block);
    expect(pool.allocate()).toBe(block);
    expect(cache.find('x')).toBeUndefined();
    expect(cache.hashOf(block)).toBeUndefined();
  });

  it('keeps the first of two blocks with the same content', () => {
    const pool = new BlockPool(2);
    const cache = new PrefixCache(pool);
    const [first, twin] = [pool.allocate(), pool.allocate()];
    cache.register('x', first);
    cache.register('x', twin);
    expect(cache.find('x')).toBe(first);
    expect(pool.isCached(twin)).toBe(false);
    expect([...cache.entries()]).toEqual([['x', first]]);
  });

  it('refuses a second content for one block', () => {
    const pool = new BlockPool(1);
    const cache = new PrefixCache(pool);
    const block = pool.allocate();
    cache.register('x', block);
    expect(() => cache.register('y', block)).toThrow(/two hashes/);
  });

  it('forgets bad content, in use or free', () => {
    const pool = new BlockPool(2);
    const cache = new PrefixCache(pool);
    const [used, free] = [pool.allocate(), pool.allocate()];
    cache.register('x', used);
    cache.register('y', free);
    pool.release(free);
    cache.forget(used);
    cache.forget(free);
    cache.forget(free);
    expect([...cache.entries()]).toEqual([]);
    expect(pool.numFreeCached).toBe(0);
    pool.release(used);
    expect(pool.numFree).toBe(2);
  });
});
