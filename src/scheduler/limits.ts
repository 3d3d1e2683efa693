/** The limits the scheduler plans under; validated by the engine's options. */
export interface SchedulerLimits {
  /** Tokens per KV block. */
  blockSize: number;
  /** Physical KV blocks. */
  numBlocks: number;
  /** Sequences in one step; also the bound on choices (`n`) of one request. */
  maxSequences: number;
  /** Token budget of one step, decode tokens and prefill chunks together. */
  maxTokensPerStep: number;
  /** Rows of logits one step may ask for: one per sampled token and per scored prompt token. */
  maxLogitRowsPerStep: number;
  /** A request passed over longer than this for its adapter stops admission of later ones. */
  adapterWaitMsMax: number;
  /** False computes every prompt in full and keeps nothing. */
  prefixCaching: boolean;
  /**
   * Trained length of a model with dynamic rope scaling, undefined for all others. Keys of longer
   * prompts depend on the prompt's length, so they are never shared.
   */
  dynamicRopeMaxPositions: number | undefined;
}

/** Share of the pool kept free at admission while others run, so that they can grow. */
export const ADMISSION_WATERMARK = 0.01;

/** Idle adapters whose fairness counter is remembered. */
export const MAX_IDLE_LANES = 1024;
