/** Changes of which it is not known whether they were made: asks until it is. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { RegistryBackend } from './registry/types.ts';

/** Pause after the registry could not say, milliseconds. */
const RETRY_MS = 1000;

export class UnknownOutcomes {
  readonly #backend: Pick<RegistryBackend, 'reconcile'>;
  readonly #stop: AbortSignal;
  /** Called when the registry was read after the change. */
  #waiting: (() => void)[] = [];
  #running: Promise<void> | undefined;

  /** @param stop ends the asking; what waits then is never called. */
  constructor(backend: Pick<RegistryBackend, 'reconcile'>, stop: AbortSignal) {
    this.#backend = backend;
    this.#stop = stop;
  }

  /** Reads the registry, now and again until it can be read; then it is known. */
  ask(whenKnown: () => void = () => undefined): void {
    this.#waiting.push(whenKnown);
    this.#running ??= this.#run().finally(() => {
      this.#running = undefined;
    });
  }

  /** Resolves when nothing is being asked any more. */
  async idle(): Promise<void> {
    await this.#running;
  }

  async #run(): Promise<void> {
    while (this.#waiting.length > 0 && !this.#stop.aborted) {
      const asked = this.#waiting;
      this.#waiting = [];
      try {
        await this.#backend.reconcile();
      } catch {
        // The registry's state says why.
        this.#waiting.unshift(...asked);
        await this.#pause();
        continue;
      }
      for (const whenKnown of asked) whenKnown();
    }
  }

  /** Keeps no process alive. */
  async #pause(): Promise<void> {
    try {
      await sleep(RETRY_MS, undefined, { signal: this.#stop, ref: false });
    } catch {
      // Stopped; the caller looks.
    }
  }
}
