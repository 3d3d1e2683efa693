/** The families that can be imported. */
import { LoramuxError } from '../../errors.ts';
import type { ModelFamily } from '../types.ts';
import type { FamilyRules } from './family.ts';
import { llama } from './llama.ts';
import { mistral } from './mistral.ts';
import { qwen2 } from './qwen2.ts';
import { qwen3 } from './qwen3.ts';

/** By `model_type` of config.json. */
export const FAMILIES: Record<ModelFamily, { architecture: string; rules: FamilyRules }> = {
  llama: { architecture: 'LlamaForCausalLM', rules: llama },
  mistral: { architecture: 'MistralForCausalLM', rules: mistral },
  qwen2: { architecture: 'Qwen2ForCausalLM', rules: qwen2 },
  qwen3: { architecture: 'Qwen3ForCausalLM', rules: qwen3 },
};

/**
 * The family of a config; `architectures`, where present, must name its causal language model.
 * @throws LoramuxError model_config_unsupported
 */
export function familyOf(modelType: unknown, architectures: unknown): ModelFamily {
  const known = Object.keys(FAMILIES).join(', ');
  if (typeof modelType !== 'string' || !Object.hasOwn(FAMILIES, modelType)) {
    throw new LoramuxError(
      'model_config_unsupported',
      `config.json: "model_type" is ${JSON.stringify(modelType) ?? 'absent'}; known are ${known}.`,
    );
  }
  const family = modelType as ModelFamily;
  const { architecture } = FAMILIES[family];
  const listed = architectures ?? [architecture];
  if (!Array.isArray(listed) || listed.length !== 1 || listed[0] !== architecture) {
    throw new LoramuxError(
      'model_config_unsupported',
      `config.json: "architectures" is ${JSON.stringify(architectures)}; for ${family} only ` +
        `["${architecture}"] is supported.`,
    );
  }
  return family;
}
