/** Grammars that are checked and then allow everything, and remember what they were asked for. */
import type { Constraint } from '../../src/generation/constraint.ts';
import {
  createGrammars,
  type GrammarLease,
  type GrammarStats,
  type Grammars,
} from '../../src/grammar/index.ts';
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

  /** As the server does it; the pool converts and does no more. */
  readonly #grammars = createGrammars(
    {
      acquire: async ({ text }, signal) => {
        sourceOf(JSON.parse(text) as Constraint);
        return signal.aborted ? undefined : this.#lease();
      },
    },
    undefined,
  );

  prepare(constraint: Constraint, signal: AbortSignal): Promise<GrammarLease | undefined> {
    this.asked.push(constraint);
    return this.#grammars.prepare(constraint, signal);
  }

  #lease(): GrammarLease {
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
