/** One sequence's logical-to-physical block map. Each entry stands for one pool reference. */
import type { BlockPool } from './block-pool.ts';

const NONE = -1;

export class BlockTable {
  /** int32 [>= length]: physical block of each logical block. */
  blocks = new Int32Array(4);
  length = 0;
  /**
   * Referenced block whose content the next allocated block starts as, or -1. Set when a sequence
   * shares only the beginning of a block with others: it must write, so it gets its own copy.
   */
  copySource = NONE;

  push(block: number): void {
    if (this.length === this.blocks.length) {
      const grown = new Int32Array(this.blocks.length * 2);
      grown.set(this.blocks);
      this.blocks = grown;
    }
    this.blocks[this.length++] = block;
  }

  /** Adds a block that others use too, taking a reference. */
  share(pool: BlockPool, block: number): void {
    pool.acquire(block);
    this.push(block);
  }

  /** Arranges for the next allocated block to be a copy of `block`; takes a reference. */
  shareAsCopy(pool: BlockPool, block: number): void {
    pool.acquire(block);
    this.copySource = block;
  }

  /** Gives back the blocks after the first `length`. */
  truncate(pool: BlockPool, length: number): void {
    while (this.length > length) pool.release(this.blocks[--this.length]!);
  }

  /**
   * Gives everything back. The last block is released first, so that of one sequence's cached
   * blocks the deepest, which fewest others can share, is overwritten first.
   */
  free(pool: BlockPool): void {
    if (this.copySource !== NONE) pool.release(this.copySource);
    this.copySource = NONE;
    this.truncate(pool, 0);
  }
}
