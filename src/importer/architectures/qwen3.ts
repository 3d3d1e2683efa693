/** Qwen3ForCausalLM: RMS norm on each head of q and k, optional attention biases. */
import type { FamilyRules } from './family.ts';
import { QWEN_DEFAULT_NUM_KV_HEADS, readLayerWindows } from './qwen2.ts';

export const qwen3: FamilyRules = {
  defaultNumKvHeads: QWEN_DEFAULT_NUM_KV_HEADS,
  read(reader, numLayers) {
    const attention = reader.boolean('attention_bias', false);
    // Qwen3's head_dim does not follow from hidden_size; transformers would assume 128.
    if (!reader.has('head_dim')) throw reader.unsupported('head_dim', 'is required for Qwen3');
    return {
      bias: { qkv: attention, o: attention, mlp: false },
      slidingWindows: readLayerWindows(reader, numLayers),
      qkNorm: true,
    };
  },
};
