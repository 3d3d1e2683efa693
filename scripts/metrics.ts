/** The sum of a metric's samples in Prometheus text format; throws when the metric is absent. */
export function readMetric(text: string, name: string): number {
  let sum: number | undefined;
  for (const line of text.split('\n')) {
    if (!line.startsWith(name)) continue;
    const rest = line.slice(name.length);
    const match = /^(?:\{[^}]*\})? (\S+)$/.exec(rest);
    if (match?.[1] !== undefined) sum = (sum ?? 0) + Number(match[1]);
  }
  if (sum === undefined) throw new Error(`the server exports no metric ${name}`);
  return sum;
}
