/** MistralForCausalLM: Llama with a sliding attention window in every layer. */
import { type FamilyRules, MAX_SLIDING_WINDOW, uniformWindows } from './family.ts';

/** What transformers assumes when the key is absent (a null means no window). */
const DEFAULT_SLIDING_WINDOW = 4_096;
const DEFAULT_NUM_KV_HEADS = 8;

export const mistral: FamilyRules = {
  defaultNumKvHeads: DEFAULT_NUM_KV_HEADS,
  read(reader, numLayers) {
    const none = reader.raw('sliding_window') === null;
    const window = none
      ? 0
      : reader.integer('sliding_window', {
          fallback: DEFAULT_SLIDING_WINDOW,
          min: 1,
          max: MAX_SLIDING_WINDOW,
        });
    return {
      bias: { qkv: false, o: false, mlp: false },
      slidingWindows: uniformWindows(numLayers, window),
      qkNorm: false,
    };
  },
};
