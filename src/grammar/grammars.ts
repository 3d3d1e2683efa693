/** What the generation layer sees: constraints in, prepared grammars out. */
import { LoramuxError } from '../errors.ts';
import type { Constraint } from '../generation/constraint.ts';
import type { GrammarLease, GrammarPool } from './pool.ts';
import { keyed } from './source.ts';

/** Prepares constraints for requests. */
export interface Grammars {
  /**
   * The constraint, ready to be followed; undefined when the signal was given first. The caller
   * releases it.
   * @throws LoramuxError grammar_*, unsupported_field, queue_full
   */
  prepare(constraint: Constraint, signal: AbortSignal): Promise<GrammarLease | undefined>;
}

/** @param refusal why this model cannot be constrained, if so */
export function createGrammars(
  pool: Pick<GrammarPool, 'acquire'>,
  refusal: string | undefined,
): Grammars {
  return {
    async prepare(constraint, signal) {
      const { field } = constraint;
      const param = field === undefined ? {} : { param: field };
      if (refusal !== undefined) throw new LoramuxError('unsupported_field', refusal, param);
      try {
        return await pool.acquire(keyed(constraint), signal);
      } catch (error) {
        if (!(error instanceof LoramuxError) || error.status !== 400) throw error;
        throw new LoramuxError(error.code, error.message, { cause: error, ...param });
      }
    },
  };
}
