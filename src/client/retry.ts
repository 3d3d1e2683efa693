/** When a request is sent again, and after how long. */
import { LoramuxError } from './errors.ts';

export const RETRIES_DEFAULT = 2;
export const RETRIES_MAX = 20;
const BACK_OFF_FIRST_MS = 250;
const BACK_OFF_MAX_MS = 8_000;
/** A server that asks for more is not waited for: its error is the caller's. */
export const RETRY_AFTER_MAX_MS = 60_000;

/**
 * What repeating a request may do. `repeatable`: nothing, also when the first one was carried out.
 * `refused-only`: it is sent again only when the server says that it did not carry it out.
 */
export type Repeats = 'repeatable' | 'refused-only';

/** The change may have been made. */
const OUTCOME_UNKNOWN = new Set(['registry_outcome_unknown']);

/** Whether the same request may succeed on the next try without doing anything twice. */
export function isRetryable(error: unknown, repeats: Repeats): error is LoramuxError {
  if (!(error instanceof LoramuxError)) return false;
  if (error.code === 'connection_failed') return repeats === 'repeatable';
  if (error.status !== 429 && error.status !== 503) return false;
  if ((error.retryAfterMs ?? 0) > RETRY_AFTER_MAX_MS) return false;
  return repeats === 'repeatable' || !OUTCOME_UNKNOWN.has(error.code);
}

/**
 * Wait before try `attempt` + 1, from 0: doubles each time, half of it at random, so that clients
 * that were refused together do not come back together. Never less than the server asked for.
 */
export function backOffMs(
  attempt: number,
  askedMs = 0,
  random: () => number = Math.random,
): number {
  const fullMs = Math.min(BACK_OFF_MAX_MS, BACK_OFF_FIRST_MS * 2 ** attempt);
  return Math.max(askedMs, fullMs * (0.5 + random() / 2));
}

/** Resolves after `ms`; rejects with the signal's reason when it is aborted first. */
export function delay(ms: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted === true) {
      reject(signal.reason);
      return;
    }
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', onAbort);
      resolve();
    }, ms);
    const onAbort = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    signal?.addEventListener('abort', onAbort, { once: true });
  });
}

/** @throws LoramuxError invalid_option */
export function checkRetries(retries: number): number {
  if (Number.isInteger(retries) && retries >= 0 && retries <= RETRIES_MAX) return retries;
  throw new LoramuxError('invalid_option', `retries must be an integer of 0 to ${RETRIES_MAX}`);
}
