import { describe, expect, it } from 'vitest';
import { LoramuxError } from '../../../src/errors.ts';
import { parseModelConfig, readSpecialTokens } from '../../../src/importer/config.ts';
import type { JsonObject } from '../../../src/importer/json.ts';
import { SYNTH_SHAPES } from '../../../src/importer/synth/shapes.ts';

const small: JsonObject = {
  hidden_size: 64,
  intermediate_size: 96,
  num_hidden_layers: 4,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  vocab_size: 320,
  max_position_embeddings: 256,
  rms_norm_eps: 1e-5,
};
const llama: JsonObject = { model_type: 'llama', architectures: ['LlamaForCausalLM'], ...small };
const mistral: JsonObject = {
  model_type: 'mistral',
  architectures: ['MistralForCausalLM'],
  ...small,
};
const qwen2: JsonObject = { model_type: 'qwen2', architectures: ['Qwen2ForCausalLM'], ...small };
const qwen3: JsonObject = {
  model_type: 'qwen3',
  architectures: ['Qwen3ForCausalLM'],
  head_dim: 32,
  ...small,
};

function refusal(json: JsonObject): LoramuxError {
  try {
    parseModelConfig(json);
  } catch (error) {
    if (error instanceof LoramuxError) return error;
    throw error;
  }
  throw new Error('The config was accepted');
}

describe('parseModelConfig', () => {
  it('reads the published shapes', () => {
    const tiny = parseModelConfig(SYNTH_SHAPES['llama-1.1b']);
    expect(tiny).toMatchObject({ family: 'llama', headSize: 64, numKvHeads: 4, numLayers: 22 });
    const qwen = parseModelConfig(SYNTH_SHAPES['qwen2.5-0.5b']);
    expect(qwen).toMatchObject({ family: 'qwen2', tieWordEmbeddings: true, headSize: 64 });
    expect(qwen.slidingWindows.every((window) => window === 0)).toBe(true);
    expect(parseModelConfig(SYNTH_SHAPES['llama-3.2-3b']).headSize).toBe(128);
  });

  it('knows the keys that published checkpoints have', () => {
    // SmolLM2-135M.
    const smol = {
      ...small,
      model_type: 'llama',
      architectures: ['LlamaForCausalLM'],
      is_llama_config: true,
      rope_interleaved: false,
      rope_scaling: null,
      rope_theta: 100_000,
      pretraining_tp: 1,
      'transformers.js_config': { dtype: 'q4' },
      torch_dtype: 'bfloat16',
    };
    expect(parseModelConfig(smol).family).toBe('llama');
    // Qwen3-0.6B.
    const qwen = {
      ...small,
      model_type: 'qwen3',
      architectures: ['Qwen3ForCausalLM'],
      attention_bias: false,
      head_dim: 128,
      max_window_layers: 28,
      rope_scaling: null,
      rope_theta: 1_000_000,
      sliding_window: null,
      tie_word_embeddings: true,
      use_sliding_window: false,
    };
    expect(parseModelConfig(qwen)).toMatchObject({ headSize: 128, slidingWindows: [0, 0, 0, 0] });
  });

  it('reads the biases each family has', () => {
    expect(parseModelConfig(llama).bias).toEqual({ qkv: false, o: false, mlp: false });
    expect(parseModelConfig({ ...llama, attention_bias: true, mlp_bias: true }).bias).toEqual({
      qkv: true,
      o: true,
      mlp: true,
    });
    expect(parseModelConfig(qwen2).bias).toEqual({ qkv: true, o: false, mlp: false });
    expect(parseModelConfig({ ...qwen3, attention_bias: true }).bias).toEqual({
      qkv: true,
      o: true,
      mlp: false,
    });
    expect(parseModelConfig(qwen3)).toMatchObject({ qkNorm: true, headSize: 32 });
  });

  it('follows transformers on absent and null keys', () => {
    const { num_key_value_heads: _, ...withoutKv } = llama;
    expect(parseModelConfig(withoutKv).numKvHeads).toBe(4);
    expect(parseModelConfig({ ...mistral, num_key_value_heads: null }).numKvHeads).toBe(4);
    expect(parseModelConfig(mistral).slidingWindows).toEqual([4096, 4096, 4096, 4096]);
    expect(parseModelConfig({ ...mistral, sliding_window: null }).slidingWindows).toEqual([
      0, 0, 0, 0,
    ]);
  });

  it('gives Qwen layers their window', () => {
    const on = { ...qwen2, use_sliding_window: true, sliding_window: 16, max_window_layers: 3 };
    expect(parseModelConfig({ ...on, use_sliding_window: false }).slidingWindows).toEqual([
      0, 0, 0, 0,
    ]);
    expect(parseModelConfig(on).slidingWindows).toEqual([0, 0, 0, 16]);
    const types = ['full_attention', 'sliding_attention', 'full_attention', 'sliding_attention'];
    expect(parseModelConfig({ ...on, layer_types: types }).slidingWindows).toEqual([0, 16, 0, 16]);
    expect(refusal({ ...qwen2, layer_types: types }).message).toContain('layer_types');
    expect(refusal({ ...on, layer_types: types.slice(1) }).message).toContain('layer_types');
    expect(refusal({ ...on, layer_types: [...types.slice(1), 'chunked'] }).message).toContain(
      'layer_types',
    );
  });

  it('ignores what cannot change the logits', () => {
    const noise = {
      torch_dtype: 'bfloat16',
      use_cache: false,
      attention_dropout: 0.1,
      transformers_version: '4.40.0',
      temperature: 0.7,
      eos_token_id: [2, 3],
      _name_or_path: 'x',
    };
    expect(parseModelConfig({ ...llama, ...noise })).toEqual(parseModelConfig(llama));
  });

  it.each<[string, JsonObject]>([
    ['model_type', { ...llama, model_type: 'gpt2' }],
    ['model_type', { ...llama, model_type: 'constructor' }],
    ['architectures', { ...llama, architectures: ['LlamaForSequenceClassification'] }],
    ['hidden_act', { ...llama, hidden_act: 'gelu' }],
    ['pretraining_tp', { ...llama, pretraining_tp: 2 }],
    ['attention_multiplier', { ...llama, attention_multiplier: 0.5 }],
    ['sliding_window', { ...llama, sliding_window: 64 }],
    ['mlp_bias', { ...qwen2, mlp_bias: true }],
    ['attention_bias', { ...mistral, attention_bias: true }],
    ['use_mrope', { ...qwen2, use_mrope: true }],
    ['auto_map', { ...llama, auto_map: { AutoModel: 'modeling.X' } }],
    ['pruned_heads', { ...llama, pruned_heads: { 0: [1] } }],
    ['is_encoder_decoder', { ...llama, is_encoder_decoder: true }],
    ['quantization_config', { ...llama, quantization_config: 'int8' }],
    ['bits', { ...llama, quantization_config: { quant_method: 'gptq', bits: 'four' } }],
    ['codebook', { ...llama, quantization_config: { quant_method: 'gptq', bits: 4, codebook: 1 } }],
    ['rms_norm_eps', { ...llama, rms_norm_eps: null }],
    ['hidden_size', { ...llama, hidden_size: 65 }],
    ['hidden_size', { ...llama, hidden_size: '64' }],
    ['vocab_size', { ...llama, vocab_size: 1e12 }],
    ['num_hidden_layers', { ...llama, num_hidden_layers: 0 }],
    ['num_key_value_heads', { ...llama, num_key_value_heads: 3 }],
    ['num_key_value_heads', { ...llama, num_key_value_heads: 8 }],
    ['head_dim', { ...llama, head_dim: 15 }],
    ['head_dim', { ...qwen3, head_dim: null }],
    ['tie_word_embeddings', { ...llama, tie_word_embeddings: 'yes' }],
  ])('refuses %s by name (%#)', (key, json) => {
    const error = refusal(json);
    expect(error.code).toBe('model_config_unsupported');
    expect(error.message).toContain(`"${key}"`);
  });
});

describe('quantization_config', () => {
  const read = (quantization: JsonObject) =>
    parseModelConfig({ ...llama, quantization_config: quantization }).quantization;
  const gptq = { quant_method: 'gptq', bits: 4, group_size: 128 };
  const awq = { quant_method: 'awq', bits: 4, group_size: 64, version: 'GEMM', zero_point: true };

  it.each([
    [gptq, { method: 'gptq', bits: 4, groupSize: 128, symmetric: true, zeroOffset: 1 }],
    [
      { ...gptq, bits: 8, group_size: -1, desc_act: true, checkpoint_format: 'gptq_v2' },
      { method: 'gptq', bits: 8, groupSize: undefined, symmetric: true, zeroOffset: 0 },
    ],
    [
      { ...gptq, sym: false, meta: { quantizer: 'x' }, pack_dtype: 'int32', dynamic: null },
      { method: 'gptq', bits: 4, groupSize: 128, symmetric: false, zeroOffset: 1 },
    ],
    [awq, { method: 'awq', bits: 4, groupSize: 64, symmetric: false, zeroOffset: 0 }],
  ])('%j', (json, expected) => {
    expect(read(json)).toEqual(expected);
  });

  it.each([
    { quant_method: 'compressed-tensors', config_groups: {} },
    { quant_method: 'bitsandbytes', load_in_4bit: true },
    { bits: 4 },
    { ...gptq, bits: 3 },
    { ...gptq, bits: 8, sym: false },
    { ...gptq, checkpoint_format: 'marlin' },
    { ...awq, bits: 8 },
    { ...awq, version: 'gemv' },
    { ...awq, zero_point: false },
  ])('refuses %j', (json) => {
    const error = refusal({ ...llama, quantization_config: json });
    expect(error.code).toBe('model_quantization_unsupported');
  });

  it.each([
    { ...gptq, dynamic: { '-:lm_head': {} } },
    { ...gptq, pack_dtype: 'int16' },
    { ...awq, modules_to_not_convert: ['mlp'] },
    { quant_method: 'loramux', layout: 3, format: 'int4', group_size: 48, lm_head: {} },
    { quant_method: 'loramux', layout: 3, format: 'int2', group_size: 64, lm_head: {} },
  ])('refuses %j', (json) => {
    const error = refusal({ ...llama, quantization_config: json });
    expect(error.code).toBe('model_config_unsupported');
  });
});

describe('readSpecialTokens', () => {
  it('prefers generation_config.json, key by key', () => {
    const config = { eos_token_id: 2, bos_token_id: 1 };
    expect(readSpecialTokens(config, undefined, 10)).toEqual({ eosTokenIds: [2], bosTokenId: 1 });
    expect(readSpecialTokens(config, { eos_token_id: [3, 4, 3] }, 10)).toEqual({
      eosTokenIds: [3, 4],
      bosTokenId: 1,
    });
    expect(readSpecialTokens({ eos_token_id: null }, {}, 10)).toEqual({
      eosTokenIds: [],
      bosTokenId: undefined,
    });
  });

  it('refuses ids outside the vocabulary', () => {
    for (const id of [10, -1, 1.5, '2', [1, 'x']]) {
      expect(() => readSpecialTokens({ eos_token_id: id }, undefined, 10)).toThrow('eos_token_id');
    }
  });
});
