/** The adapters of a request in the one form that all below the engine see. */
import type { WeightedAdapter } from '../adapters/types.ts';

/** Adapters of one request, each counted as often as it is named. */
export const REQUEST_ADAPTERS_MAX = 8;

/**
 * Ordered by digest, and each generation once, with the sum of its weights: equal sums are one lane,
 * one cache identity, and the same arithmetic whatever order they came in.
 */
export function canonicalAdapters(
  adapters: readonly WeightedAdapter[],
): readonly WeightedAdapter[] {
  if (adapters.length < 2) return adapters;
  const sorted = [...adapters].sort(byDigestThenWeight);
  const distinct: WeightedAdapter[] = [];
  for (const adapter of sorted) {
    const last = distinct.at(-1);
    if (last === undefined || last.generation.digest !== adapter.generation.digest) {
      distinct.push(adapter);
    } else {
      const { generation } = last;
      distinct[distinct.length - 1] = { generation, weight: last.weight + adapter.weight };
    }
  }
  return distinct;
}

/** By weight too, so that sums are added up in one order. */
function byDigestThenWeight(a: WeightedAdapter, b: WeightedAdapter): number {
  const [first, second] = [a.generation.digest, b.generation.digest];
  if (first !== second) return first < second ? -1 : 1;
  return a.weight - b.weight;
}
