/**
 * Physical KV blocks as numbers: reference counts and the free list. No memory lives here; the
 * native session owns the bytes. All state is in typed arrays, so nothing is allocated per step.
 *
 * A block is free when its reference count is 0. Free blocks form one doubly linked list in
 * eviction order: blocks without reusable content at the head, then cached blocks, least recently
 * used first. `allocate` takes the head, so cached content is only lost when nothing else is left.
 */

const NONE = -1;

export class BlockPool {
  readonly numBlocks: number;
  /** int32 [numBlocks] */
  readonly #refCount: Int32Array;
  /** int32 [numBlocks]: neighbours in the free list, -1 at the ends and for blocks in use. */
  readonly #next: Int32Array;
  readonly #previous: Int32Array;
  /** uint8 [numBlocks]: 1 when the prefix cache maps a hash to this block. */
  readonly #cached: Uint8Array;
  #head = NONE;
  #tail = NONE;
  #numFree = 0;
  #numFreeCached = 0;
  #onEvict: (block: number) => void = () => {};

  constructor(numBlocks: number) {
    this.numBlocks = numBlocks;
    this.#refCount = new Int32Array(numBlocks);
    this.#next = new Int32Array(numBlocks).fill(NONE);
    this.#previous = new Int32Array(numBlocks).fill(NONE);
    this.#cached = new Uint8Array(numBlocks);
    for (let block = 0; block < numBlocks; block++) this.#append(block);
  }

  get numFree(): number {
    return this.#numFree;
  }

  /** Free blocks that still hold reusable prefix content. */
  get numFreeCached(): number {
    return this.#numFreeCached;
  }

  /** Called with a block whose cached content is about to be overwritten. */
  onEvict(listener: (block: number) => void): void {
    this.#onEvict = listener;
  }

  refCount(block: number): number {
    return this.#refCount[block]!;
  }

  isCached(block: number): boolean {
    return this.#cached[block] === 1;
  }

  /** Takes the best block to overwrite, with one reference; -1 when none is free. */
  allocate(): number {
    const block = this.#head;
    if (block === NONE) return NONE;
    this.#unlink(block);
    if (this.#cached[block] === 1) {
      this.#onEvict(block);
      this.#cached[block] = 0;
    }
    this.#refCount[block] = 1;
    return block;
  }

  /** Adds a reference; a free cached block leaves the free list. */
  acquire(block: number): void {
    if (this.#refCount[block] === 0) this.#unlink(block);
    this.#refCount[block]! += 1;
  }

  /** Gives a reference back; the last one makes the block free. */
  release(block: number): void {
    const count = this.#refCount[block]!;
    if (count <= 0) throw new RangeError(`KV block ${block} is released but has no reference`);
    this.#refCount[block] = count - 1;
    if (count > 1) return;
    if (this.#cached[block] === 1) this.#append(block);
    else this.#prepend(block);
  }

  /** Marks the content of a referenced block as reusable. */
  markCached(block: number): void {
    if (this.#refCount[block] === 0) throw new RangeError(`KV block ${block} is cached while free`);
    this.#cached[block] = 1;
  }

  /** Withdraws the mark; a free block becomes the first to be overwritten. */
  unmarkCached(block: number): void {
    if (this.#cached[block] === 0) return;
    if (this.#refCount[block] === 0) {
      this.#unlink(block);
      this.#cached[block] = 0;
      this.#prepend(block);
    } else {
      this.#cached[block] = 0;
    }
  }

  /** Free blocks in eviction order. For snapshots; O(free). */
  freeList(): number[] {
    const blocks: number[] = [];
    for (let block = this.#head; block !== NONE; block = this.#next[block]!) {
      blocks.push(block);
      if (blocks.length > this.numBlocks) break;
    }
    return blocks;
  }

  #append(block: number): void {
    this.#previous[block] = this.#tail;
    this.#next[block] = NONE;
    if (this.#tail === NONE) this.#head = block;
    else this.#next[this.#tail] = block;
    this.#tail = block;
    this.#count(block, 1);
  }

  #prepend(block: number): void {
    this.#next[block] = this.#head;
    this.#previous[block] = NONE;
    if (this.#head === NONE) this.#tail = block;
    else this.#previous[this.#head] = block;
    this.#head = block;
    this.#count(block, 1);
  }

  #unlink(block: number): void {
    const previous = this.#previous[block]!;
    const next = this.#next[block]!;
    if (previous === NONE) this.#head = next;
    else this.#next[previous] = next;
    if (next === NONE) this.#tail = previous;
    else this.#previous[next] = previous;
    this.#previous[block] = NONE;
    this.#next[block] = NONE;
    this.#count(block, -1);
  }

  #count(block: number, sign: 1 | -1): void {
    this.#numFree += sign;
    if (this.#cached[block] === 1) this.#numFreeCached += sign;
  }
}
