/** Loads that failed a moment ago: whoever asks again at once hears the same, instead of a new try. */
import { LoramuxError } from '../../errors.ts';

/** Failed loads remembered; beyond it the oldest is forgotten. */
export const FAILURES_MAX = 1024;

interface Failure {
  readonly error: LoramuxError;
  readonly untilMs: number;
  /** Somebody waits for this load and has not been told; then the failure outlives its time. */
  untold: boolean;
}

export class LoadFailures {
  readonly #retryMs: number;
  readonly #now: () => number;
  readonly #byDigest = new Map<string, Failure>();

  constructor(retryMs: number, now: () => number) {
    this.#retryMs = retryMs;
    this.#now = now;
  }

  /** @param untold somebody waits for it; an error that is not `lasting` is only for them. */
  remember(digest: string, error: LoramuxError, untold: boolean, lasting: boolean): void {
    this.#byDigest.delete(digest);
    if (!lasting && !untold) return;
    const untilMs = this.#now() + (lasting ? this.#retryMs : 0);
    this.#byDigest.set(digest, { error, untilMs, untold });
    const oldest = this.#byDigest.keys().next().value;
    if (this.#byDigest.size > FAILURES_MAX && oldest !== undefined) this.#byDigest.delete(oldest);
  }

  /** What to answer instead of a new try, if anything. */
  tell(digest: string): LoramuxError | undefined {
    const failure = this.#byDigest.get(digest);
    if (failure === undefined) return undefined;
    // A step may take longer than the pause: whoever waited would only start the load anew.
    if (failure.untold || this.#now() < failure.untilMs) {
      failure.untold = false;
      return failure.error;
    }
    this.#byDigest.delete(digest);
    return undefined;
  }

  has(digest: string): boolean {
    return this.#byDigest.has(digest);
  }

  /** Nobody waits for it any more. */
  nobodyWaits(digest: string): void {
    const failure = this.#byDigest.get(digest);
    if (failure !== undefined) failure.untold = false;
  }

  forget(digest: string): void {
    this.#byDigest.delete(digest);
  }

  digests(): string[] {
    return [...this.#byDigest.keys()];
  }
}

/** What a waiting request is told; errors with a code of their own keep it. */
export function loadError(error: unknown): LoramuxError {
  if (error instanceof LoramuxError && error.code !== 'internal_error') return error;
  const message = error instanceof Error ? error.message : String(error);
  return new LoramuxError('adapter_load_failed', `The adapter could not be loaded: ${message}`, {
    cause: error,
  });
}
