/** Which generation of a split name answers a request. */
import { createHash } from 'node:crypto';
import type { NameEntry } from './types.ts';

/**
 * The digest that answers: the current one, or by its weight that of the split. Sticky by key: equal
 * keys get the same side on every replica, and while the weight grows no key leaves the split.
 * @param key without one (undefined) the side is drawn.
 * @param random uniform in [0, 1).
 */
export function chooseGeneration(
  entry: NameEntry,
  key: string | undefined,
  random: () => number = Math.random,
): string {
  const { split } = entry;
  if (split === undefined) return entry.current;
  const point = key === undefined ? random() : splitPoint(entry.name, key);
  return point < split.weight ? split.digest : entry.current;
}

/**
 * Where a key stands in [0, 1): the first 53 bits of SHA-256 over name, a zero byte and key. With the
 * name in it, a key that is early in one name's canary is not early in all.
 */
export function splitPoint(name: string, key: string): number {
  const hash = createHash('sha256').update(`${name}\0${key}`).digest();
  return Number(hash.readBigUInt64BE() >> 11n) / 2 ** 53;
}
