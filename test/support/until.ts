/** Polling with a bound, for what servers do in their own time. */
import { setTimeout as sleep } from 'node:timers/promises';

const POLL_MS = 20;
/** Far above what anything takes, also on a machine that does much other work. */
export const PATIENCE_MS = 180_000;

/**
 * Reads until a condition holds and resolves to what was read then.
 * @throws Error with what was seen last, after `limitMs`.
 */
export async function until<T>(
  what: string,
  read: () => Promise<T> | T,
  holds: (value: T) => boolean,
  limitMs = PATIENCE_MS,
): Promise<T> {
  const endMs = performance.now() + limitMs;
  for (;;) {
    const value = await read();
    if (holds(value)) return value;
    if (performance.now() > endMs) {
      throw new Error(`not within ${limitMs} ms: ${what}; last seen: ${JSON.stringify(value)}`);
    }
    await sleep(POLL_MS);
  }
}
