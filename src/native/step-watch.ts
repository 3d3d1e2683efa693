/** Notices a step that does not come back. */

/** A step is late after so many ticks of the clock. */
const TICKS = 8;

/**
 * Counts ticks instead of reading the clock: a process that was stopped, or whose event loop was
 * busy, comes back to one tick, however long it was away, and accuses nobody. Ticks only while steps
 * are taken, and costs a step nothing but two assignments.
 */
export class StepWatch {
  readonly #tickMs: number;
  #timer: NodeJS.Timeout | undefined;
  #ticks = 0;
  #onLate: (() => void) | undefined;

  /** @param timeoutMs a step may take so long, and an eighth of it more */
  constructor(timeoutMs: number) {
    this.#tickMs = timeoutMs / TICKS;
  }

  /**
   * A step begins; one is watched at a time.
   * @param onLate called once, if it has not ended in time
   * @returns to be called when it ends
   */
  begin(onLate: () => void): () => void {
    this.#ticks = 0;
    this.#onLate = onLate;
    this.#timer ??= setInterval(() => this.#tick(), this.#tickMs).unref();
    return () => {
      if (this.#onLate === onLate) this.#onLate = undefined;
    };
  }

  close(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
    this.#onLate = undefined;
  }

  #tick(): void {
    const onLate = this.#onLate;
    if (onLate === undefined) {
      this.close();
      return;
    }
    this.#ticks += 1;
    if (this.#ticks <= TICKS) return;
    this.close();
    onLate();
  }
}
