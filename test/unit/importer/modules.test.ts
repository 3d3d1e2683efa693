import { describe, expect, it } from 'vitest';
import { parseModelConfig } from '../../../src/importer/config.ts';
import { describeModules } from '../../../src/importer/modules.ts';
import { SYNTH_SHAPES } from '../../../src/importer/synth/shapes.ts';

describe('describeModules', () => {
  const tiny = parseModelConfig({ ...SYNTH_SHAPES['llama-1.1b'], num_hidden_layers: 1 });

  it('lists the modules in the order of named_modules()', () => {
    expect(describeModules(tiny).map(({ path, kind }) => `${path} ${kind}`)).toEqual([
      ' container',
      'model container',
      'model.embed_tokens embedding',
      'model.layers container',
      'model.layers.0 container',
      'model.layers.0.self_attn container',
      'model.layers.0.self_attn.q_proj linear',
      'model.layers.0.self_attn.k_proj linear',
      'model.layers.0.self_attn.v_proj linear',
      'model.layers.0.self_attn.o_proj linear',
      'model.layers.0.mlp container',
      'model.layers.0.mlp.gate_proj linear',
      'model.layers.0.mlp.up_proj linear',
      'model.layers.0.mlp.down_proj linear',
      'model.layers.0.mlp.act_fn other',
      'model.layers.0.input_layernorm norm',
      'model.layers.0.post_attention_layernorm norm',
      'model.norm norm',
      'model.rotary_emb other',
      'lm_head linear',
    ]);
  });

  it("puts Qwen3's head norms behind the projections", () => {
    const paths = describeModules({ ...tiny, qkNorm: true }).map(({ path }) => path);
    const o = paths.indexOf('model.layers.0.self_attn.o_proj');
    expect(paths.slice(o + 1, o + 3)).toEqual([
      'model.layers.0.self_attn.q_norm',
      'model.layers.0.self_attn.k_norm',
    ]);
  });
});
