import { describe, expect, it } from 'vitest';
import { MAX_CONFIG_BYTES, parsePeftConfig } from '../../../src/adapters/formats/peft-config.ts';
import { PEFT_LORA_FIELDS } from '../../../src/adapters/formats/peft-fields.ts';
import { LoramuxError } from '../../../src/errors.ts';
import { loraConfig } from '../../support/adapter-files.ts';

const parse = (extra: Record<string, unknown> | string) =>
  parsePeftConfig(Buffer.from(typeof extra === 'string' ? extra : JSON.stringify(extra)));
const codeOf = (extra: Record<string, unknown> | string): string => {
  try {
    parse(extra);
  } catch (error) {
    if (error instanceof LoramuxError) return error.code;
    throw error;
  }
  return 'accepted';
};
const withField = (name: string, value: unknown) => ({ ...loraConfig(), [name]: value });

describe('adapter_config.json', () => {
  it('reads what changes the result', () => {
    const config = parse({
      ...loraConfig(),
      r: 4,
      lora_alpha: 22.5,
      use_rslora: true,
      rank_pattern: { k_proj: 2 },
      alpha_pattern: { v_proj: 3.5, k_proj: 1 },
      target_modules: ['q_proj'],
      exclude_modules: 'a.*',
      layers_to_transform: 1,
      layers_pattern: 'layers',
      base_model_name_or_path: 'some/base',
    });
    expect(config).toEqual({
      rank: 4,
      alpha: 22.5,
      useRslora: true,
      rankPattern: new Map([['k_proj', 2]]),
      alphaPattern: new Map([
        ['v_proj', 3.5],
        ['k_proj', 1],
      ]),
      targetModules: ['q_proj'],
      excludeModules: 'a.*',
      layersToTransform: [1],
      layersPattern: ['layers'],
    });
    expect([...config.alphaPattern.keys()]).toEqual(['v_proj', 'k_proj']);
  });

  it("uses PEFT's defaults for absent fields", () => {
    const config = parse({ peft_type: 'LORA', target_modules: ['q_proj'] });
    expect(config).toMatchObject({
      rank: 8,
      alpha: 8,
      useRslora: false,
      excludeModules: [],
      layersToTransform: undefined,
      layersPattern: [],
    });
  });

  it.each([
    ['no text', ''],
    ['no JSON', '{"peft_type": "LORA",}'],
    ['a list', '[]'],
    ['null', 'null'],
    ['a repeated key', '{"peft_type":"LORA","r":1,"r":2,"target_modules":["q_proj"]}'],
    ['a constant of Python', '{"peft_type":"LORA","lora_alpha":NaN,"target_modules":["q_proj"]}'],
    ['a byte order mark', '\ufeff{}'],
    ['depth', '['.repeat(100_000) + ']'.repeat(100_000)],
    ['size', ' '.repeat(MAX_CONFIG_BYTES + 1)],
  ])('refuses %s', (_, text) => {
    expect(codeOf(text)).toBe('adapter_config_invalid');
  });

  it('refuses bytes that are not UTF-8', () => {
    const bytes = Buffer.from(JSON.stringify(loraConfig({}, { revision: '?' })));
    bytes[bytes.indexOf('?')] = 0xff;
    expect(() => parsePeftConfig(bytes)).toThrow(
      expect.objectContaining({ code: 'adapter_config_invalid' }),
    );
  });

  it('refuses other kinds of adapters and tasks', () => {
    expect(codeOf(withField('peft_type', 'LOHA'))).toBe('adapter_peft_type_unsupported');
    expect(codeOf(withField('peft_type', 'lora'))).toBe('adapter_peft_type_unsupported');
    expect(codeOf(withField('peft_type', null))).toBe('adapter_config_invalid');
    expect(codeOf(withField('task_type', 'SEQ_CLS'))).toBe('adapter_task_type_unsupported');
    expect(codeOf(withField('task_type', null))).toBe('accepted');
  });

  it.each([
    [true, 'accepted'],
    [false, 'accepted'],
    ['gaussian', 'accepted'],
    ['Gaussian', 'accepted'],
    ['eva', 'accepted'],
    ['orthogonal', 'accepted'],
    ['mica', 'accepted'],
    ['pissa', 'adapter_init_changes_base'],
    ['pissa_niter_4', 'adapter_init_changes_base'],
    ['olora', 'adapter_init_changes_base'],
    ['OLoRA', 'adapter_init_changes_base'],
    ['corda', 'adapter_init_changes_base'],
    ['loftq', 'adapter_init_changes_base'],
    ['lora_ga', 'adapter_init_changes_base'],
    ['new_idea', 'adapter_config_invalid'],
    [3, 'adapter_config_invalid'],
  ])('init_lora_weights %s: %s', (value, code) => {
    expect(codeOf(withField('init_lora_weights', value))).toBe(code);
  });

  it.each([
    ['use_dora', true, 'adapter_dora_unsupported'],
    ['use_dora', 'false', 'adapter_dora_unsupported'],
    ['modules_to_save', ['lm_head'], 'adapter_modules_to_save_unsupported'],
    ['bias', 'all', 'adapter_bias_unsupported'],
    ['bias', 'lora_only', 'adapter_bias_unsupported'],
    ['lora_bias', true, 'adapter_lora_bias_unsupported'],
    ['alora_invocation_tokens', [1, 2], 'adapter_alora_unsupported'],
    ['trainable_token_indices', [5], 'adapter_trainable_tokens_unsupported'],
    ['trainable_token_indices', { embed_tokens: [5] }, 'adapter_trainable_tokens_unsupported'],
    ['layer_replication', [[0, 2]], 'adapter_layer_replication_unsupported'],
    ['target_parameters', ['experts.up'], 'adapter_target_parameters_unsupported'],
    ['use_bdlora', {}, 'adapter_variant_unsupported'],
    ['use_qalora', true, 'adapter_variant_unsupported'],
    ['arrow_config', {}, 'adapter_variant_unsupported'],
    ['kasa_config', {}, 'adapter_variant_unsupported'],
    ['velora_config', {}, 'adapter_variant_unsupported'],
    ['monteclora_config', {}, 'adapter_variant_unsupported'],
    ['megatron_config', {}, 'adapter_variant_unsupported'],
    ['enable_lora', [true, false], 'adapter_variant_unsupported'],
    ['use_hyper_lora', false, 'adapter_config_unknown_field'],
    ['__proto__x', null, 'adapter_config_unknown_field'],
    ['constructor', null, 'adapter_config_unknown_field'],
  ])('refuses %s = %j with %s', (field, value, code) => {
    expect(codeOf(withField(field, value))).toBe(code);
  });

  it('accepts the neutral value of every field that changes the result', () => {
    for (const [field, rule] of Object.entries(PEFT_LORA_FIELDS)) {
      if (rule.kind !== 'neutral-only') continue;
      const neutral = [null, false, [], 'none'].filter((value) => rule.isNeutral(value));
      expect(neutral.length, field).toBeGreaterThan(0);
      for (const value of neutral) expect(codeOf(withField(field, value)), field).toBe('accepted');
    }
  });

  it('checks the type even of fields without effect', () => {
    for (const [field, rule] of Object.entries(PEFT_LORA_FIELDS)) {
      if (rule.kind !== 'no-effect') continue;
      const candidates = [null, true, 0.5, 'text', {}];
      const accepted = candidates.filter((value) => rule.accepts(value));
      expect(accepted.length, field).toBeGreaterThan(0);
      for (const value of candidates) {
        const expected = rule.accepts(value) ? 'accepted' : 'adapter_config_invalid';
        expect(codeOf(withField(field, value)), `${field} ${value}`).toBe(expected);
      }
    }
  });

  it.each([
    [{ r: 0 }, 'adapter_config_invalid'],
    [{ r: 2.5 }, 'adapter_config_invalid'],
    [{ r: null }, 'adapter_config_invalid'],
    [{ r: true }, 'adapter_config_invalid'],
    [{ r: '8' }, 'adapter_config_invalid'],
    [{ lora_alpha: '16' }, 'adapter_config_invalid'],
    [{ lora_alpha: null }, 'adapter_config_invalid'],
    [{ use_rslora: 'yes' }, 'adapter_config_invalid'],
    [{ target_modules: null }, 'adapter_config_invalid'],
    [{ target_modules: ['q_proj', 3] }, 'adapter_config_invalid'],
    [{ target_modules: {} }, 'adapter_config_invalid'],
    [{ rank_pattern: { q_proj: 0 } }, 'adapter_config_invalid'],
    [{ rank_pattern: { q_proj: [true] } }, 'adapter_config_invalid'],
    [{ rank_pattern: [] }, 'adapter_config_invalid'],
    [{ alpha_pattern: { q_proj: '1' } }, 'adapter_config_invalid'],
    [{ layers_to_transform: 1.5 }, 'adapter_config_invalid'],
    [{ layers_to_transform: ['0'] }, 'adapter_config_invalid'],
    [{ layers_pattern: 'layers' }, 'adapter_config_invalid'],
    [{ target_modules: 'q', layers_to_transform: [] }, 'adapter_config_invalid'],
    [{ target_modules: 'q', layers_pattern: '' }, 'adapter_config_invalid'],
    [{ base_model_name_or_path: 4 }, 'adapter_config_invalid'],
    [{ layers_to_transform: [] }, 'accepted'],
    [{ layers_to_transform: [], layers_pattern: 'layers' }, 'accepted'],
    [{ rank_pattern: null, alpha_pattern: null, exclude_modules: null }, 'accepted'],
  ])('%j is %s', (extra, code) => {
    expect(codeOf({ ...loraConfig(), ...extra } as Record<string, unknown>)).toBe(code);
  });

  it('refuses an alpha that no double holds', () => {
    const text = JSON.stringify(loraConfig()).replace('"lora_alpha":4', '"lora_alpha":1e999');
    expect(codeOf(text)).toBe('adapter_not_finite');
  });
});
