/** Grammars that are checked and then allow everything, and remember what they were asked for. */
import type { Constraint } from '../../src/generation/constraint.ts';
import type { GrammarLease, GrammarStats, Grammars } from '../../src/grammar/index.ts';
import { sourceOf } from '../../src/grammar/source.ts';

/** Of a server without constrained requests. */
export const noGrammarStats = (): GrammarStats => ({
  compiles: 0,
  compileMsSum: 0,
  hits: 0,
  failures: 0,
  cached: 0,
  waiting: 0,
});

export class FakeGrammars implements Grammars {
  readonly asked: Constraint[] = [];
  /** Leases that are not released. */
  held = 0;

  async prepare(constraint: Constraint, signal: AbortSignal): Promise<GrammarLease | undefined> {
    sourceOf(constraint);
    this.asked.push(constraint);
    if (signal.aborted) return undefined;
    this.held += 1;
    let released = false;
    return {
      open: () => ({ slot: 0, accept() {}, close() {} }),
      release: () => {
        if (!released) this.held -= 1;
        released = true;
      },
    };
  }
}
