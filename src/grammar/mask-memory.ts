/**
 * Masks in memory that threads share: slots of a header and one bit for each token. A grammar thread
 * writes the mask of output token k and then the stamp k + 1; the native sampler waits for that
 * stamp. Layout: kernels/session/config.h.
 */

/** As kMaskHeaderWords. */
export const MASK_HEADER_WORDS = 16;
/** As kMaskNever: no mask will come, do not wait. */
export const MASK_NEVER = -1;
/** Of a mask that does not depend on the tokens before it. */
export const CONSTANT_STAMP = 1;
/** A slot whose stamp is always MASK_NEVER. */
export const NEVER_SLOT = 0;
/**
 * Slots for each sequence in a batch: its own, one more while it moves between threads, and those of
 * sequences that have ended and whose thread has yet to say that it writes there no more.
 */
const SLOTS_PER_SEQUENCE = 4;

export class MaskMemory {
  /** int32 [slots, stride] */
  readonly words: Int32Array;
  readonly stride: number;
  readonly slots: number;
  readonly #free: number[] = [];
  /** Given back while a step that may read them was in flight. */
  #resting: number[] = [];

  constructor(vocabSize: number, maxSequences: number) {
    const words = MASK_HEADER_WORDS + Math.ceil(vocabSize / 32);
    this.stride = Math.ceil(words / MASK_HEADER_WORDS) * MASK_HEADER_WORDS;
    this.slots = 1 + SLOTS_PER_SEQUENCE * maxSequences;
    this.words = new Int32Array(new SharedArrayBuffer(this.slots * this.stride * 4));
    this.words[NEVER_SLOT] = MASK_NEVER;
    for (let slot = this.slots - 1; slot > NEVER_SLOT; slot--) this.#free.push(slot);
  }

  /** Slots that can be taken now. */
  get numFree(): number {
    return this.#free.length;
  }

  /** A slot without a mask yet; NEVER_SLOT when there is none left. */
  take(): number {
    const slot = this.#free.pop();
    if (slot === undefined) return NEVER_SLOT;
    Atomics.store(this.words, slot * this.stride, 0);
    return slot;
  }

  /** A slot with a mask that stays as it is, a bit for each token; NEVER_SLOT when none is left. */
  takeConstant(allowed: Int32Array): number {
    const slot = this.take();
    if (slot === NEVER_SLOT) return slot;
    const at = slot * this.stride;
    if (allowed.length > this.stride - MASK_HEADER_WORDS) {
      throw new RangeError(`A mask of ${allowed.length} words does not fit its slot`);
    }
    this.words.set(allowed, at + MASK_HEADER_WORDS);
    Atomics.store(this.words, at, CONSTANT_STAMP);
    return slot;
  }

  /** Nobody writes there any more; a step in flight may still read it. */
  giveBack(slot: number): void {
    if (slot !== NEVER_SLOT) this.#resting.push(slot);
  }

  /** No mask will come here. */
  fail(slot: number): void {
    Atomics.store(this.words, slot * this.stride, MASK_NEVER);
  }

  /** The step in flight has ended: nobody reads what was given back before. */
  stepEnded(): void {
    if (this.#resting.length === 0) return;
    this.#free.push(...this.#resting);
    this.#resting = [];
  }
}
