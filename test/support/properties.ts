/**
 * fast-check with a seed: a run is the same as the one before. `LORAMUX_FUZZ_SEED=<seed>` takes
 * another.
 */
import fc from 'fast-check';

const SEED = Number(process.env.LORAMUX_FUZZ_SEED ?? 20_261_122);

fc.configureGlobal({ seed: SEED });

export { fc };
