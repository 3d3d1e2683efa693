/** The module tree of the Hugging Face models, as `named_modules()` lists it. */
import { LORA_MODULES, type LoraModule } from '../native/addon-types.ts';
import type { ModelConfig, ModuleDescription } from './types.ts';

/** The parts of a config that decide the module tree. */
export type ModuleTreeConfig = Pick<
  ModelConfig,
  | 'hiddenSize'
  | 'intermediateSize'
  | 'numLayers'
  | 'numHeads'
  | 'numKvHeads'
  | 'headSize'
  | 'vocabSize'
  | 'qkNorm'
>;

/** [inFeatures, outFeatures] of an adaptable module. */
export function moduleShape(config: ModuleTreeConfig, module: LoraModule): [number, number] {
  const attention = config.numHeads * config.headSize;
  const kv = config.numKvHeads * config.headSize;
  switch (module) {
    case 'q_proj':
      return [config.hiddenSize, attention];
    case 'k_proj':
    case 'v_proj':
      return [config.hiddenSize, kv];
    case 'o_proj':
      return [attention, config.hiddenSize];
    case 'gate_proj':
    case 'up_proj':
      return [config.hiddenSize, config.intermediateSize];
    case 'down_proj':
      return [config.intermediateSize, config.hiddenSize];
  }
}

/** Path of an adaptable module, e.g. `model.layers.0.self_attn.q_proj`. */
export function modulePath(layer: number, module: LoraModule): string {
  const parent = LORA_MODULES.indexOf(module) < 4 ? 'self_attn' : 'mlp';
  return `model.layers.${layer}.${parent}.${module}`;
}

/**
 * All named modules of the model, in the order of `named_modules()` of transformers 5, the model
 * itself (path '') included. Adapter formats match their target rules against these paths.
 */
export function describeModules(config: ModuleTreeConfig): ModuleDescription[] {
  const { hiddenSize, vocabSize } = config;
  const modules: ModuleDescription[] = [
    { path: '', kind: 'container' },
    { path: 'model', kind: 'container' },
    {
      path: 'model.embed_tokens',
      kind: 'embedding',
      inFeatures: vocabSize,
      outFeatures: hiddenSize,
    },
    { path: 'model.layers', kind: 'container' },
  ];
  for (let layer = 0; layer < config.numLayers; layer++) {
    const prefix = `model.layers.${layer}`;
    const linear = (module: LoraModule): ModuleDescription => {
      const [inFeatures, outFeatures] = moduleShape(config, module);
      return {
        path: modulePath(layer, module),
        kind: 'linear',
        layer,
        module: LORA_MODULES.indexOf(module),
        inFeatures,
        outFeatures,
      };
    };
    const norm = (name: string): ModuleDescription => ({ path: `${prefix}.${name}`, kind: 'norm' });
    modules.push({ path: prefix, kind: 'container' });
    modules.push({ path: `${prefix}.self_attn`, kind: 'container' });
    modules.push(...LORA_MODULES.slice(0, 4).map(linear));
    if (config.qkNorm) modules.push(norm('self_attn.q_norm'), norm('self_attn.k_norm'));
    modules.push({ path: `${prefix}.mlp`, kind: 'container' });
    modules.push(...LORA_MODULES.slice(4).map(linear));
    modules.push({ path: `${prefix}.mlp.act_fn`, kind: 'other' });
    modules.push(norm('input_layernorm'), norm('post_attention_layernorm'));
  }
  modules.push({ path: 'model.norm', kind: 'norm' });
  modules.push({ path: 'model.rotary_emb', kind: 'other' });
  modules.push({
    path: 'lm_head',
    kind: 'linear',
    inFeatures: hiddenSize,
    outFeatures: vocabSize,
  });
  return modules;
}
