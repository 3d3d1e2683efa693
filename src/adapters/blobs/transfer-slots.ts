/** A bounded number of transfers at once; the others wait in line, also a bounded number. */
import { blobUnavailable } from './io.ts';

const WAITING_MAX = 4096;

export class TransferSlots {
  readonly #slots: number;
  readonly #line: (() => void)[] = [];
  #running = 0;

  constructor(slots: number) {
    this.#slots = slots;
  }

  get running(): number {
    return this.#running;
  }

  get waiting(): number {
    return this.#line.length;
  }

  /** @throws LoramuxError blob_unavailable when too many wait. */
  async run<T>(work: () => Promise<T>): Promise<T> {
    if (this.#running === this.#slots) {
      if (this.#line.length === WAITING_MAX) {
        throw blobUnavailable(`${WAITING_MAX} transfers of adapter files wait; retry later.`);
      }
      // Whoever ends hands over its slot, so that nobody who comes later takes it.
      await new Promise<void>((resolve) => this.#line.push(resolve));
    } else {
      this.#running++;
    }
    try {
      return await work();
    } finally {
      const next = this.#line.shift();
      if (next === undefined) this.#running--;
      else next();
    }
  }
}
