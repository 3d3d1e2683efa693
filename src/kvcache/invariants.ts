/**
 * What must always hold of the KV cache between steps, as pure functions over a snapshot. Each
 * reports every violation it finds, as a sentence. Fuzz tests call them after every step.
 */
import type { BlockHash } from './block-hash.ts';
import type { BlockPool } from './block-pool.ts';
import type { BlockTable } from './block-table.ts';
import type { PrefixCache } from './prefix-cache.ts';

export interface TableSnapshot {
  /** Names the holder in messages. */
  holder: string;
  blocks: number[];
  /** -1 for none. */
  copySource: number;
  /** Tokens whose keys and values are in the blocks. */
  numComputedTokens: number;
  /** Hashes the holder expects for its leading full blocks. */
  hashes: BlockHash[];
}

export interface CacheSnapshot {
  numBlocks: number;
  blockSize: number;
  refCount: number[];
  cached: boolean[];
  /** In eviction order. */
  freeList: number[];
  numFree: number;
  numFreeCached: number;
  prefixEntries: [BlockHash, number][];
  tables: TableSnapshot[];
}

export function snapshotTable(
  holder: string,
  table: BlockTable,
  numComputedTokens: number,
  hashes: BlockHash[],
): TableSnapshot {
  const blocks = Array.from(table.blocks.subarray(0, table.length));
  return { holder, blocks, copySource: table.copySource, numComputedTokens, hashes };
}

export function snapshotCache(
  pool: BlockPool,
  prefix: PrefixCache,
  blockSize: number,
  tables: TableSnapshot[],
): CacheSnapshot {
  const all = Array.from({ length: pool.numBlocks }, (_, block) => block);
  return {
    numBlocks: pool.numBlocks,
    blockSize,
    refCount: all.map((block) => pool.refCount(block)),
    cached: all.map((block) => pool.isCached(block)),
    freeList: pool.freeList(),
    numFree: pool.numFree,
    numFreeCached: pool.numFreeCached,
    prefixEntries: [...prefix.entries()],
    tables,
  };
}

/** Every violation of the cache's invariants; empty when all hold. */
export function cacheViolations(snapshot: CacheSnapshot): string[] {
  return [
    ...freeListViolations(snapshot),
    ...prefixViolations(snapshot),
    ...snapshot.tables.flatMap((table) => tableViolations(snapshot, table)),
    ...referenceViolations(snapshot),
  ];
}

/** What must hold on top when no request lives: every block is back. */
export function idleCacheViolations(snapshot: CacheSnapshot): string[] {
  const violations = cacheViolations(snapshot);
  if (snapshot.numFree !== snapshot.numBlocks) {
    violations.push(`idle, but ${snapshot.numBlocks - snapshot.numFree} blocks are in use`);
  }
  for (const table of snapshot.tables) violations.push(`idle, but ${table.holder} has a table`);
  return violations;
}

function freeListViolations(snapshot: CacheSnapshot): string[] {
  const violations: string[] = [];
  const seen = new Set<number>();
  let seenCached = 0;
  for (const block of snapshot.freeList) {
    if (seen.has(block)) violations.push(`block ${block} is in the free list twice`);
    seen.add(block);
    if (snapshot.refCount[block] !== 0) {
      violations.push(`block ${block} is free but has ${snapshot.refCount[block]} references`);
    }
    if (snapshot.cached[block]) seenCached += 1;
    else if (seenCached > 0) violations.push(`uncached free block ${block} is behind cached ones`);
  }
  for (let block = 0; block < snapshot.numBlocks; block++) {
    if (snapshot.refCount[block] === 0 && !seen.has(block)) {
      violations.push(`block ${block} has no reference and is not in the free list`);
    }
  }
  if (snapshot.numFree !== seen.size) {
    violations.push(`numFree is ${snapshot.numFree}, the free list has ${seen.size}`);
  }
  if (snapshot.numFreeCached !== seenCached) {
    violations.push(`numFreeCached is ${snapshot.numFreeCached}, the free list has ${seenCached}`);
  }
  return violations;
}

function prefixViolations(snapshot: CacheSnapshot): string[] {
  const violations: string[] = [];
  const mapped = new Set<number>();
  for (const [, block] of snapshot.prefixEntries) {
    if (mapped.has(block)) violations.push(`block ${block} has two hashes`);
    mapped.add(block);
    if (!snapshot.cached[block]) violations.push(`block ${block} has a hash but is not cached`);
  }
  snapshot.cached.forEach((cached, block) => {
    if (cached && !mapped.has(block)) violations.push(`block ${block} is cached without a hash`);
  });
  return violations;
}

function tableViolations(snapshot: CacheSnapshot, table: TableSnapshot): string[] {
  const violations: string[] = [];
  const { holder, blocks, numComputedTokens } = table;
  if (new Set(blocks).size !== blocks.length) violations.push(`${holder} maps a block twice`);
  for (const block of blocks) {
    if (block < 0 || block >= snapshot.numBlocks) {
      violations.push(`${holder} maps block ${block}, outside the pool`);
    }
  }
  const room = blocks.length + (table.copySource >= 0 ? 1 : 0);
  if (numComputedTokens > room * snapshot.blockSize) {
    violations.push(`${holder} has ${numComputedTokens} tokens in ${room} blocks`);
  }
  const hashByBlock = new Map(snapshot.prefixEntries.map(([hash, block]) => [block, hash]));
  table.hashes.forEach((hash, logical) => {
    const block = blocks[logical];
    if (block === undefined || (logical + 1) * snapshot.blockSize > numComputedTokens) return;
    const registered = hashByBlock.get(block);
    if (registered !== undefined && registered !== hash) {
      violations.push(`${holder} uses block ${block}, which is cached as other content`);
    }
  });
  return violations;
}

function referenceViolations(snapshot: CacheSnapshot): string[] {
  const holders = new Array<number>(snapshot.numBlocks).fill(0);
  for (const table of snapshot.tables) {
    for (const block of table.blocks) holders[block]! += 1;
    if (table.copySource >= 0) holders[table.copySource]! += 1;
  }
  const violations: string[] = [];
  holders.forEach((expected, block) => {
    const actual = snapshot.refCount[block];
    if (actual !== expected) {
      violations.push(`block ${block} has ${actual} references but ${expected} holders`);
    }
  });
  return violations;
}
