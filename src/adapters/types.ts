/** Types of the adapter layer that the engine and the request layer see. */
import type { LoramuxError } from '../errors.ts';

/** An immutable adapter: what a name points to. */
export interface AdapterGeneration {
  /** SHA-256, lower-case hex, over the canonical config and tensor bytes. Keys every cache. */
  readonly digest: string;
  /** Largest rank of any module. */
  readonly rank: number;
  /** Bytes it takes in adapter memory (float32). */
  readonly residentBytes: number;
}

/** A registered name. */
export interface AdapterRecord {
  readonly name: string;
  readonly generation: AdapterGeneration;
  /** Seconds since the epoch. */
  readonly createdAt: number;
  /** Where the upload came from, for `root` in /v1/models: a path or 'upload'. */
  readonly source: string;
  /** Module names it changes, e.g. q_proj, v_proj. */
  readonly targetModules: readonly string[];
  readonly fileBytes: number;
}

/**
 * Residency as the engine sees it. All calls are synchronous and made between steps.
 * A slot with references is never evicted or reused.
 */
export interface AdapterResidency {
  readonly maxSlots: number;
  /**
   * The slot, with one reference taken, when the adapter is resident. Otherwise undefined: a load
   * was started (or is under way, or waits for room) and `onChange` fires when it is worth asking
   * again. Returns an error when the load failed or can never succeed.
   */
  tryAcquire(generation: AdapterGeneration): number | undefined | LoramuxError;
  /** Gives one reference back. */
  release(generation: AdapterGeneration): void;
  /** Withdraws interest in a load that no request waits for any more. */
  forget(generation: AdapterGeneration): void;
  /** One listener: the engine's wake-up. */
  onChange(listener: () => void): void;
}
