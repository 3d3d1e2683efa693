/** What a model family decides for itself; the rest of the graph is common to all. */
import type { ConfigReader } from '../config-reader.ts';
import type { ModelConfig } from '../types.ts';

export interface FamilyRules {
  /** `num_key_value_heads` when the key is absent; undefined means one per attention head. */
  defaultNumKvHeads: number | undefined;
  /**
   * Reads the family's own keys.
   * @throws LoramuxError model_config_unsupported
   */
  read(
    reader: ConfigReader,
    numLayers: number,
  ): Pick<ModelConfig, 'bias' | 'slidingWindows' | 'qkNorm'>;
}

/** Upper bound of a sliding window, tokens. */
export const MAX_SLIDING_WINDOW = 1 << 30;

/** The same window (0: none) in every layer. */
export function uniformWindows(numLayers: number, window: number): number[] {
  return new Array<number>(numLayers).fill(window);
}
