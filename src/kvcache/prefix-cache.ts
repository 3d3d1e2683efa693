/** Which block holds the content of which hash. Entries of free blocks live until overwritten. */
import type { BlockHash } from './block-hash.ts';
import type { BlockPool } from './block-pool.ts';

export class PrefixCache {
  readonly #pool: BlockPool;
  readonly #blockByHash = new Map<BlockHash, number>();
  readonly #hashByBlock: (BlockHash | undefined)[];

  constructor(pool: BlockPool) {
    this.#pool = pool;
    this.#hashByBlock = new Array<BlockHash | undefined>(pool.numBlocks).fill(undefined);
    pool.onEvict((block) => this.#drop(block));
  }

  /** The block with this content, or undefined. Takes no reference. */
  find(hash: BlockHash): number | undefined {
    return this.#blockByHash.get(hash);
  }

  /**
   * Makes a full, referenced block reusable. The first block with a content stays the shared one:
   * a twin computed at the same time is not entered and is simply freed with its sequence.
   */
  register(hash: BlockHash, block: number): void {
    if (this.#blockByHash.has(hash)) return;
    if (this.#hashByBlock[block] !== undefined) {
      throw new RangeError(`KV block ${block} is registered under two hashes`);
    }
    this.#pool.markCached(block);
    this.#blockByHash.set(hash, block);
    this.#hashByBlock[block] = hash;
  }

  /** Forgets a block whose content turned out to be bad; no-op for blocks without an entry. */
  forget(block: number): void {
    if (this.#hashByBlock[block] === undefined) return;
    this.#drop(block);
    this.#pool.unmarkCached(block);
  }

  /** Forgets every block: the memory behind them is gone. */
  clear(): void {
    for (const block of this.#blockByHash.values()) this.forget(block);
  }

  hashOf(block: number): BlockHash | undefined {
    return this.#hashByBlock[block];
  }

  entries(): IterableIterator<[BlockHash, number]> {
    return this.#blockByHash.entries();
  }

  #drop(block: number): void {
    const hash = this.#hashByBlock[block];
    if (hash === undefined) return;
    this.#blockByHash.delete(hash);
    this.#hashByBlock[block] = undefined;
  }
}
