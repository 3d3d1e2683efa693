/**
 * The blocks one step takes, as a transaction: `extend` while planning, then `commit` when the step
 * ran or `release` when it failed. Either way the pool and the tables are consistent afterwards.
 */
import type { BlockPool } from './block-pool.ts';
import type { BlockTable } from './block-table.ts';

const NONE = -1;

interface Extension {
  table: BlockTable;
  lengthBefore: number;
  /** Copy to make before the step runs; -1 for none. */
  copySource: number;
  copyDestination: number;
}

export class StepReservation {
  readonly #pool: BlockPool;
  readonly #blockSize: number;
  readonly #extensions: Extension[] = [];
  #length = 0;

  constructor(pool: BlockPool, blockSize: number) {
    this.#pool = pool;
    this.#blockSize = blockSize;
  }

  /** Tables extended in this step so far. */
  get length(): number {
    return this.#length;
  }

  /**
   * Makes room for the first `numTokens` tokens of a sequence. All or nothing: false, with nothing
   * taken, when the pool has too few free blocks. Call at most once per table and step.
   */
  extend(table: BlockTable, numTokens: number): boolean {
    const target = Math.ceil(numTokens / this.#blockSize);
    const missing = target - table.length;
    if (missing <= 0) return true;
    if (missing > this.#pool.numFree) return false;
    const extension = this.#next(table);
    for (let i = 0; i < missing; i++) table.push(this.#pool.allocate());
    if (table.copySource !== NONE) {
      extension.copySource = table.copySource;
      extension.copyDestination = table.blocks[extension.lengthBefore]!;
    }
    return true;
  }

  /** Takes a table out of the transaction; the caller frees the whole table. */
  drop(table: BlockTable): void {
    for (let i = 0; i < this.#length; i++) {
      if (this.#extensions[i]!.table !== table) continue;
      const last = this.#extensions[this.#length - 1]!;
      this.#extensions[this.#length - 1] = this.#extensions[i]!;
      this.#extensions[i] = last;
      this.#length -= 1;
      return;
    }
  }

  /** Writes (source, destination) pairs into `out` and returns how many. */
  copies(out: Int32Array): number {
    let count = 0;
    for (let i = 0; i < this.#length; i++) {
      const extension = this.#extensions[i]!;
      if (extension.copySource === NONE) continue;
      out[count * 2] = extension.copySource;
      out[count * 2 + 1] = extension.copyDestination;
      count += 1;
    }
    return count;
  }

  /** The step ran: copies are made, so their sources are given back. */
  commit(): void {
    for (let i = 0; i < this.#length; i++) {
      const { table, copySource } = this.#extensions[i]!;
      if (copySource === NONE) continue;
      this.#pool.release(copySource);
      table.copySource = NONE;
    }
    this.#length = 0;
  }

  /** The step failed: every block it took goes back, pending copies stay pending. */
  release(): void {
    for (let i = 0; i < this.#length; i++) {
      const { table, lengthBefore } = this.#extensions[i]!;
      table.truncate(this.#pool, lengthBefore);
    }
    this.#length = 0;
  }

  #next(table: BlockTable): Extension {
    let extension = this.#extensions[this.#length];
    if (extension === undefined) {
      extension = { table, lengthBefore: 0, copySource: NONE, copyDestination: NONE };
      this.#extensions.push(extension);
    }
    this.#length += 1;
    extension.table = table;
    extension.lengthBefore = table.length;
    extension.copySource = NONE;
    extension.copyDestination = NONE;
    return extension;
  }
}
