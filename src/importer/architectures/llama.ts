/** LlamaForCausalLM: Llama 2 and 3.x, TinyLlama, SmolLM and others of that shape. */
import { type FamilyRules, uniformWindows } from './family.ts';

export const llama: FamilyRules = {
  defaultNumKvHeads: undefined,
  read(reader, numLayers) {
    const attention = reader.boolean('attention_bias', false);
    return {
      bias: { qkv: attention, o: attention, mlp: reader.boolean('mlp_bias', false) },
      slidingWindows: uniformWindows(numLayers, 0),
      qkNorm: false,
    };
  },
};
