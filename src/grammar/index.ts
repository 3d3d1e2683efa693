/** The grammar layer's public face. */
export { createGrammars, type Grammars } from './grammars.ts';
export { MaskMemory } from './mask-memory.ts';
export { type GrammarLease, GrammarPool, type GrammarStats } from './pool.ts';
