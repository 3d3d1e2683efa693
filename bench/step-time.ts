/** Time of a server's steps, from its metrics. */
import { readMetric } from '../scripts/metrics.ts';
import type { StartedServer } from '../scripts/process.ts';

/** Sums since the server began. */
export interface StepTotals {
  readonly steps: number;
  readonly nativeMs: number;
  readonly gapMs: number;
}

/** A mean step, milliseconds. */
export interface Step {
  /** From the end of the step before to its own. */
  readonly ms: number;
  readonly nativeMs: number;
  readonly gapMs: number;
}

export async function stepTotals(server: StartedServer): Promise<StepTotals> {
  const text = await (await fetch(`${server.url}/metrics`)).text();
  return {
    steps: readMetric(text, 'loramux_engine_steps_total'),
    nativeMs: readMetric(text, 'loramux_engine_native_seconds_total') * 1000,
    gapMs: readMetric(text, 'loramux_engine_step_gap_seconds_total') * 1000,
  };
}

export function stepBetween(before: StepTotals, after: StepTotals): Step {
  const steps = after.steps - before.steps;
  const nativeMs = (after.nativeMs - before.nativeMs) / steps;
  const gapMs = (after.gapMs - before.gapMs) / steps;
  return { ms: nativeMs + gapMs, nativeMs, gapMs };
}
