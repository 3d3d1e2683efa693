/** The state of a registry in Redis, and since when and why. */
import type { RegistryState, RegistryStatus } from '../types.ts';

export class StatusBoard {
  state: RegistryState = 'connecting';
  reconciles = 0;
  events = 0;
  readonly #now: () => number;
  readonly #errors: () => number;
  readonly #onStatus: (status: RegistryStatus) => void;
  #reason: string | undefined;
  #warning: string | undefined;
  #sinceMs: number;
  #completeAtMs: number;

  constructor(now: () => number, errors: () => number, onStatus: (status: RegistryStatus) => void) {
    this.#now = now;
    this.#errors = errors;
    this.#onStatus = onStatus;
    this.#sinceMs = now();
    this.#completeAtMs = this.#sinceMs;
  }

  status(): RegistryStatus {
    return {
      kind: 'redis',
      state: this.state,
      reason: this.state === 'ok' ? this.#warning : this.#reason,
      sinceMs: this.#sinceMs,
      lagMs: Math.max(0, this.#now() - this.#completeAtMs),
      reconciles: this.reconciles,
      events: this.events,
      errors: this.#errors(),
    };
  }

  /** What is known was complete at this time, milliseconds since the epoch. */
  complete(atMs: number): void {
    this.#completeAtMs = atMs;
  }

  set(state: RegistryState, reason: string | undefined): void {
    if (state === this.state && reason === this.#reason) return;
    if (state !== this.state) this.#sinceMs = this.#now();
    this.state = state;
    this.#reason = reason;
    this.#onStatus(this.status());
  }

  /** Redis cannot be asked. */
  away(reason: string): void {
    this.set(this.state === 'connecting' ? 'connecting' : 'degraded', reason);
  }

  /** What is unsafe while all is well; undefined for nothing. */
  warn(warning: string | undefined): void {
    if (warning === this.#warning) return;
    this.#warning = warning;
    if (this.state === 'ok') this.#onStatus(this.status());
  }
}
