/** The engine's public face. */
import type { SessionResidency } from '../adapters/types.ts';
import { EngineLoop, type StepRunner } from './engine.ts';
import type { EngineOptions } from './options.ts';
import type { EngineSnapshot } from './snapshot.ts';
import type { Engine } from './types.ts';

/** An engine with what tests and shutdown need on top. */
export interface RunningEngine extends Engine {
  /** Resolves when nothing runs, waits or is undelivered. */
  idle(): Promise<void>;
  /** State for invariant checks; O(blocks + requests). */
  snapshot(): EngineSnapshot;
}

/**
 * Builds the engine. It takes over `residency.onChange` and is the only caller of `native.step`.
 * Throws `config_invalid` when a limit is wrong.
 *
 * @param residency undefined serves the base only
 */
export function createEngine(
  native: StepRunner,
  residency: SessionResidency | undefined,
  options: EngineOptions,
): RunningEngine {
  return new EngineLoop(native, residency, options);
}

export type { StepRunner } from './engine.ts';
export type { EngineOptions } from './options.ts';
export { type EngineSnapshot, engineViolations } from './snapshot.ts';
export type * from './types.ts';
