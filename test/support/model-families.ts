/** One config.json of every family the importer knows. */
import type { JsonObject } from '../../src/importer/json.ts';

/**
 * Biases everywhere, a sliding window, tied heads, norms on q and k: what sets families apart.
 * @param base sizes, equal in all
 */
export function modelFamilies(base: JsonObject): Record<string, JsonObject> {
  return {
    llama: {
      ...base,
      model_type: 'llama',
      architectures: ['LlamaForCausalLM'],
      attention_bias: true,
      mlp_bias: true,
    },
    mistral: {
      ...base,
      model_type: 'mistral',
      architectures: ['MistralForCausalLM'],
      sliding_window: 16,
    },
    qwen2: {
      ...base,
      model_type: 'qwen2',
      architectures: ['Qwen2ForCausalLM'],
      tie_word_embeddings: true,
    },
    qwen3: { ...base, model_type: 'qwen3', architectures: ['Qwen3ForCausalLM'] },
  };
}
