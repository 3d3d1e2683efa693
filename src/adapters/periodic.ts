/** Work that is done again and again in the background, never twice at once. */

export interface PeriodicOptions {
  /** Pause after one run before the next, milliseconds. */
  readonly everyMs: number;
  /** Pause after a `touch` before the run it asks for, milliseconds: several become one. */
  readonly settleMs?: number | undefined;
  readonly work: () => Promise<void>;
  readonly onError: (error: unknown) => void;
}

export class Periodic {
  readonly #options: PeriodicOptions;
  #timer: NodeJS.Timeout | undefined;
  #dueMs = Number.POSITIVE_INFINITY;
  #running: Promise<void> | undefined;
  #again = false;
  #closed = false;

  constructor(options: PeriodicOptions) {
    this.#options = options;
    this.#schedule(options.everyMs);
  }

  /** Something changed: run soon. */
  touch(): void {
    if (this.#running !== undefined) this.#again = true;
    else this.#schedule(this.#options.settleMs ?? 0);
  }

  /** No run begins after it; resolves when the present one has ended. Idempotent. */
  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    await this.#running;
  }

  #schedule(delayMs: number): void {
    const dueMs = performance.now() + delayMs;
    if (this.#closed || this.#running !== undefined || dueMs >= this.#dueMs) return;
    clearTimeout(this.#timer);
    this.#dueMs = dueMs;
    this.#timer = setTimeout(() => {
      this.#dueMs = Number.POSITIVE_INFINITY;
      this.#running = this.#run();
    }, delayMs).unref();
  }

  async #run(): Promise<void> {
    const { work, onError, everyMs, settleMs = 0 } = this.#options;
    try {
      await work();
    } catch (error) {
      onError(error);
    }
    this.#running = undefined;
    const soon = this.#again;
    this.#again = false;
    this.#schedule(soon ? settleMs : everyMs);
  }
}
