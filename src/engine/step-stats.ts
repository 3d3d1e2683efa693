/** Sums over steps. */
import type { StepResult } from '../native/addon-types.ts';
import type { EngineStats } from './types.ts';

type Sums = Pick<
  EngineStats,
  | 'steps'
  | 'preparedSteps'
  | 'batchSequencesSum'
  | 'batchAdaptersSum'
  | 'maxAdaptersInOneStep'
  | 'maxSequencesInOneStep'
  | 'nativeMsSum'
  | 'outsideNativeMsSum'
  | 'gapMsSum'
  | 'maskWaitMsSum'
>;

export class StepStats {
  readonly #sums: Sums = {
    steps: 0,
    preparedSteps: 0,
    batchSequencesSum: 0,
    batchAdaptersSum: 0,
    maxAdaptersInOneStep: 0,
    maxSequencesInOneStep: 0,
    nativeMsSum: 0,
    outsideNativeMsSum: 0,
    gapMsSum: 0,
    maskWaitMsSum: 0,
  };

  dispatched(numSequences: number, numAdapters: number): void {
    const sums = this.#sums;
    sums.steps += 1;
    sums.batchSequencesSum += numSequences;
    sums.batchAdaptersSum += numAdapters;
    sums.maxSequencesInOneStep = Math.max(sums.maxSequencesInOneStep, numSequences);
    sums.maxAdaptersInOneStep = Math.max(sums.maxAdaptersInOneStep, numAdapters);
  }

  /** The step just dispatched was packed ahead. */
  prepared(): void {
    this.#sums.preparedSteps += 1;
  }

  /** @param followedAnother the step before led to this one */
  native(result: StepResult, followedAnother: boolean): void {
    this.#sums.nativeMsSum += result.nativeMs;
    this.#sums.maskWaitMsSum += result.maskWaitMs;
    if (followedAnother) this.#sums.gapMsSum += result.gapMs;
  }

  /** From a result to the next dispatch. */
  outside(ms: number): void {
    this.#sums.outsideNativeMsSum += ms;
  }

  sums(): Sums {
    return { ...this.#sums };
  }
}
