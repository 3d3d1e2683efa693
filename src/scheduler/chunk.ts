/** How many tokens of a sequence the step's remaining budgets allow. */
import type { SchedulerLimits } from './limits.ts';
import type { Sequence } from './sequence.ts';
import type { StepPlan } from './step-plan.ts';

/**
 * Tokens of a sequence, from position `start`, that the step's remaining budgets allow. Every prompt
 * position that is scored costs a row of logits, and so does the last position if it samples.
 */
export function chunkTokens(
  sequence: Sequence,
  start: number,
  plan: StepPlan,
  limits: SchedulerLimits,
): number {
  const { group } = sequence;
  const rows = limits.maxLogitRowsPerStep - plan.numRows;
  const remaining = sequence.numTokens - start;
  let count = Math.min(remaining, limits.maxTokensPerStep - plan.numTokens);
  if (!group.isScored) {
    const unscored = Math.max(0, group.numScored - start);
    count = Math.min(count, unscored + rows);
  }
  const samples = count === remaining && group.request.sampling.maxTokens > 0;
  if (samples && rows === 0) count -= 1;
  return Math.max(0, count);
}
