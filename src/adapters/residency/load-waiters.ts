/** Explicit loads that wait until their adapter is resident, each for a bounded time. */
import { LoramuxError } from '../../errors.ts';
import type { SlotEntry } from './slot-book.ts';

/** Explicit loads that wait at once; more are refused with queue_full. */
export const LOAD_WAITERS_MAX = 256;

export interface LoadWaiter {
  readonly settle: (error: LoramuxError | undefined) => void;
}

export class LoadWaiters {
  #waiting = 0;

  /** @throws LoramuxError queue_full. */
  checkRoom(): void {
    if (this.#waiting < LOAD_WAITERS_MAX) return;
    throw new LoramuxError(
      'queue_full',
      `${this.#waiting} adapters are being loaded on request; retry later.`,
    );
  }

  /**
   * Resolves when the entry is settled.
   * @param onTimeout the entry has one waiter less.
   * @throws LoramuxError adapter_load_timeout, or what the load failed with.
   */
  wait(entry: SlotEntry, timeoutMs: number, onTimeout: () => void): Promise<void> {
    this.#waiting++;
    return new Promise((resolve, reject) => {
      const settle = (error: LoramuxError | undefined): void => {
        clearTimeout(timer);
        entry.waiters.delete(waiter);
        this.#waiting--;
        if (error === undefined) resolve();
        else reject(error);
      };
      const waiter: LoadWaiter = { settle };
      const timer = setTimeout(() => {
        const { digest } = entry.generation;
        const doing = entry.state === 'waiting' ? 'it still waits for room' : 'it is being read';
        settle(
          new LoramuxError(
            'adapter_load_timeout',
            `The adapter ${digest} did not become resident within ${timeoutMs} ms: ${doing}.`,
          ),
        );
        onTimeout();
      }, timeoutMs);
      entry.waiters.add(waiter);
    });
  }

  settle(entry: SlotEntry, error: LoramuxError | undefined): void {
    for (const waiter of [...entry.waiters]) waiter.settle(error);
  }
}
