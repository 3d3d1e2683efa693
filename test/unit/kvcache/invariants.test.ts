import { describe, expect, it } from 'vitest';
import { BlockPool } from '../../../src/kvcache/block-pool.ts';
import { BlockTable } from '../../../src/kvcache/block-table.ts';
import {
  type CacheSnapshot,
  cacheViolations,
  idleCacheViolations,
  snapshotCache,
  snapshotTable,
} from '../../../src/kvcache/invariants.ts';
import { PrefixCache } from '../../../src/kvcache/prefix-cache.ts';

/** Four blocks: 0 and 1 used and the first cached, 2 free and cached, 3 free. */
function sound(): CacheSnapshot {
  const pool = new BlockPool(4);
  const prefix = new PrefixCache(pool);
  const table = new BlockTable();
  for (let i = 0; i < 3; i++) pool.allocate();
  table.push(0);
  table.push(1);
  prefix.register('x', 0);
  prefix.register('y', 2);
  pool.release(2);
  return snapshotCache(pool, prefix, 4, [snapshotTable('s', table, 6, ['x'])]);
}

const CORRUPTIONS: [string, (snapshot: CacheSnapshot) => void, RegExp][] = [
  ['a leaked block', (s) => s.freeList.splice(0, 1), /block 3 has no reference and is not in/],
  ['a block freed twice', (s) => s.freeList.push(2), /block 2 is in the free list twice/],
  ['a used block in the list', (s) => s.freeList.push(1), /block 1 is free but has 1 references/],
  ['a reference too many', (s) => s.refCount.splice(1, 1, 2), /block 1 has 2 references but 1/],
  ['a wrong count of free blocks', (s) => void s.numFree--, /numFree is 1, the free list has 2/],
  ['a wrong count of cached ones', (s) => void s.numFreeCached++, /numFreeCached is 2/],
  ['the wrong order of eviction', (s) => s.freeList.reverse(), /uncached free block 3 is behind/],
  ['a cached mark without a hash', (s) => s.cached.splice(1, 1, true), /1 is cached without/],
  ['a hash without a mark', (s) => s.cached.splice(2, 1, false), /2 has a hash but is not cached/],
  ['two hashes of one block', (s) => s.prefixEntries.push(['z', 0]), /block 0 has two hashes/],
  ['a block mapped twice', (s) => s.tables[0]!.blocks.splice(1, 1, 0), /s maps a block twice/],
  ['a block outside the pool', (s) => s.tables[0]!.blocks.push(9), /block 9, outside the pool/],
  ['more tokens than room', (s) => Object.assign(s.tables[0]!, { numComputedTokens: 9 }), /9 tok/],
  ['foreign content', (s) => s.tables[0]!.hashes.splice(0, 1, 'q'), /cached as other content/],
];

describe('cache invariants', () => {
  it('hold for a sound cache', () => {
    expect(cacheViolations(sound())).toEqual([]);
  });

  for (const [name, corrupt, message] of CORRUPTIONS) {
    it(`report ${name}`, () => {
      const snapshot = sound();
      corrupt(snapshot);
      expect(cacheViolations(snapshot).join('\n')).toMatch(message);
    });
  }

  it('demand that an idle cache has everything back', () => {
    expect(idleCacheViolations(sound())).toEqual([
      'idle, but 2 blocks are in use',
      'idle, but s has a table',
    ]);
  });
});
