/** What every benchmark scenario gives. */
export interface ScenarioResult {
  /** For people, in order. */
  readonly lines: readonly string[];
  readonly results: readonly { readonly name: string; readonly [figure: string]: unknown }[];
  readonly ratios: Readonly<Record<string, number>>;
}

export interface Scenario {
  readonly name: string;
  readonly summary: string;
  /** @param args options after the scenario's name, without --json */
  run(args: readonly string[]): Promise<ScenarioResult>;
}

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
