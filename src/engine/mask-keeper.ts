/**
 * Masks of sequences that may not sample every token: opened when one first samples, told of its
 * tokens after each step.
 */
import type { StepResult } from '../native/addon-types.ts';
import type { StepPlan } from '../scheduler/step-plan.ts';
import { BannedTokens } from './banned-tokens.ts';
import type { SamplingParams, TokenMasks } from './types.ts';

/** Who computes masks, as the engine sees it. */
export interface MaskSource {
  /** A step has ended: nobody reads the masks it named. */
  stepEnded(): void;
  /** The tokens told since the last call are all there are for now. */
  flush(): void;
  /**
   * A mask that stays as it is, of a choice without another one; undefined when there is no room.
   * @param allowed a bit for each token
   */
  constant(allowed: Int32Array): TokenMasks | undefined;
}

export class MaskKeeper {
  readonly #source: MaskSource | undefined;

  constructor(source: MaskSource | undefined) {
    this.#source = source;
  }

  /** Before the step is packed. A sequence that is computed again has tokens already. */
  begin(plan: StepPlan): void {
    for (const { sequence, samples } of plan.entries) {
      if (!samples || sequence.masks !== undefined) continue;
      const { constraint, bannedTokenIds } = sequence.group.request.sampling;
      sequence.masks =
        constraint === undefined
          ? this.#constant(bannedTokenIds)
          : constraint.open(sequence.output.subarray(0, sequence.numOutput));
    }
  }

  #constant(banned: SamplingParams['bannedTokenIds']): TokenMasks | undefined {
    if (!(banned instanceof BannedTokens)) return undefined;
    return this.#source?.constant(banned.allowed);
  }

  /** The step has run, or failed. */
  stepEnded(): void {
    this.#source?.stepEnded();
  }

  /**
   * Of a step that has run, once the next one is under way where that was prepared, and before anything
   * else is made of its tokens. The next masks are computed while the next step is: told earlier, the
   * thread that computes them would take the core that this step's threads are just being woken on.
   */
  tell(plan: StepPlan, result: StepResult): void {
    if (this.#source === undefined) return;
    let row = 0;
    let told = false;
    for (const { sequence, numScored, samples } of plan.entries) {
      row += numScored;
      if (!samples) continue;
      const at = row++;
      if (sequence.masks === undefined || (result.rowStatus?.[at] ?? 0) !== 0) continue;
      const { stopTokenIds, maxTokens } = sequence.group.request.sampling;
      const tokenId = result.tokenIds[at]!;
      if (stopTokenIds.has(tokenId) || sequence.numOutput + 1 >= maxTokens) continue;
      sequence.masks.accept(tokenId);
      told = true;
    }
    if (told) this.#source.flush();
  }
}
