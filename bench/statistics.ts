/** Figures of rounds. */

/** The middle value; the mean of the middle two for even counts. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  if (sorted.length === 0) throw new RangeError('no values');
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

/** The smallest value that at least this share of the values does not exceed. */
export function quantile(values: readonly number[], share: number): number {
  if (values.length === 0) throw new RangeError('no values');
  const sorted = Float64Array.from(values).sort();
  return sorted[Math.min(sorted.length - 1, Math.max(0, Math.ceil(sorted.length * share) - 1))]!;
}

/** Half the distance between the quartiles, over the median: 0.05 reads as "5 % either way". */
export function spread(values: readonly number[]): number {
  return (quantile(values, 0.75) - quantile(values, 0.25)) / 2 / median(values);
}

/**
 * The ratio of two contenders that took turns: the median of the rounds' own ratios, so that what
 * slowed a round down counts on both sides.
 */
export function pairedRatio(above: readonly number[], below: readonly number[]): number {
  if (above.length !== below.length) throw new RangeError('rounds do not pair up');
  return median(above.map((value, i) => value / below[i]!));
}
