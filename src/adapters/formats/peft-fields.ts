/**
 * Every field that PEFT (0.2 to 0.21) can write into a LoRA adapter_config.json, and what it means
 * here. Source: `peft/config.py`, `peft/tuners/lora/config.py` and `lora/layer.py` of PEFT.
 * docs/adapters.md lists the same table; a test ties the two, another ties this to PEFT's dataclass.
 */

import type { ErrorCode } from '../../errors.ts';
import type { JsonValue } from '../../importer/json.ts';
import { isJsonObject } from '../../importer/json.ts';

export type FieldRule =
  /** Parsed by peft-config.ts. */
  | { readonly kind: 'used'; readonly meaning: string }
  /** Accepted with any value of the right type: the forward pass does not read it. */
  | {
      readonly kind: 'no-effect';
      readonly reason: string;
      readonly accepts: (value: JsonValue) => boolean;
      readonly expected: string;
    }
  /** Changes the forward pass; only its neutral values are accepted. */
  | {
      readonly kind: 'neutral-only';
      readonly feature: string;
      readonly code: ErrorCode;
      readonly isNeutral: (value: JsonValue) => boolean;
    };

const isNull = (value: JsonValue): boolean => value === null;
const isFalsy = (value: JsonValue): boolean => value === null || value === false;
const isBoolean = (value: JsonValue): boolean => typeof value === 'boolean';
const isStringOrNull = (value: JsonValue): boolean => value === null || typeof value === 'string';
const isNumber = (value: JsonValue): boolean => typeof value === 'number';
const isObjectOrNull = (value: JsonValue): boolean => value === null || isJsonObject(value);
const isEmptyList = (value: JsonValue): boolean =>
  value === null || (Array.isArray(value) && value.length === 0);
const isEmpty = (value: JsonValue): boolean =>
  isEmptyList(value) || (isJsonObject(value) && Object.keys(value).length === 0);

const used = (meaning: string): FieldRule => ({ kind: 'used', meaning });
const noEffect = (
  reason: string,
  accepts: (value: JsonValue) => boolean,
  expected: string,
): FieldRule => ({ kind: 'no-effect', reason, accepts, expected });
const neutralOnly = (
  feature: string,
  code: ErrorCode,
  isNeutral: (value: JsonValue) => boolean,
): FieldRule => ({ kind: 'neutral-only', feature, code, isNeutral });

const INIT_ONLY = 'only steers the initialisation before training';

/** Field name to rule. Refusals are reported in this order. */
export const PEFT_LORA_FIELDS: Readonly<Record<string, FieldRule>> = {
  peft_type: used('must be LORA'),
  task_type: used('must be CAUSAL_LM or null'),
  r: used('rank where rank_pattern names none'),
  lora_alpha: used('numerator of the scale where alpha_pattern names none'),
  use_rslora: used('scale is alpha / sqrt(rank) instead of alpha / rank'),
  rank_pattern: used('rank of the modules that match; the first matching key counts'),
  alpha_pattern: used('alpha of the modules that match; the first matching key counts'),
  target_modules: used('which modules are adapted: a list, a regular expression or all-linear'),
  exclude_modules: used('modules taken out of target_modules: a list or a regular expression'),
  layers_to_transform: used('layer numbers that target_modules is limited to'),
  layers_pattern: used('name of the layer list that layers_to_transform counts in'),
  init_lora_weights: used('accepted unless the initialisation changed the base weights'),

  use_dora: neutralOnly('DoRA', 'adapter_dora_unsupported', isFalsy),
  modules_to_save: neutralOnly(
    'modules_to_save (fully trained modules)',
    'adapter_modules_to_save_unsupported',
    isEmptyList,
  ),
  bias: neutralOnly('trained biases', 'adapter_bias_unsupported', (value) => value === 'none'),
  lora_bias: neutralOnly('a bias on lora_B', 'adapter_lora_bias_unsupported', isFalsy),
  alora_invocation_tokens: neutralOnly('activated LoRA', 'adapter_alora_unsupported', isNull),
  trainable_token_indices: neutralOnly(
    'trainable tokens',
    'adapter_trainable_tokens_unsupported',
    isEmpty,
  ),
  layer_replication: neutralOnly(
    'layer replication',
    'adapter_layer_replication_unsupported',
    isEmptyList,
  ),
  target_parameters: neutralOnly(
    'LoRA on bare parameters',
    'adapter_target_parameters_unsupported',
    isEmptyList,
  ),
  use_bdlora: neutralOnly('BD-LoRA', 'adapter_variant_unsupported', isFalsy),
  use_qalora: neutralOnly('QALoRA', 'adapter_variant_unsupported', isFalsy),
  arrow_config: neutralOnly('Arrow routing', 'adapter_variant_unsupported', isNull),
  kasa_config: neutralOnly('KaSA', 'adapter_variant_unsupported', isNull),
  velora_config: neutralOnly('VeLoRA', 'adapter_variant_unsupported', isNull),
  monteclora_config: neutralOnly('MonteCLoRA', 'adapter_variant_unsupported', isNull),
  megatron_config: neutralOnly('Megatron layers', 'adapter_variant_unsupported', isNull),
  enable_lora: neutralOnly(
    'LoRA on parts of a fused layer',
    'adapter_variant_unsupported',
    isEmptyList,
  ),

  fan_in_fan_out: noEffect(
    'describes the layout of the base weight; lora_A and lora_B keep theirs',
    isBoolean,
    'a boolean',
  ),
  lora_dropout: noEffect('dropout is the identity at inference', isNumber, 'a number'),
  inference_mode: noEffect('says whether weights are frozen', isBoolean, 'a boolean'),
  base_model_name_or_path: noEffect(
    'a name only; whether the adapter fits is seen by modules and shapes',
    isStringOrNull,
    'a string or null',
  ),
  revision: noEffect('revision of the base model, information', isStringOrNull, 'a string or null'),
  auto_mapping: noEffect(
    'names the Python class of the base model',
    isObjectOrNull,
    'an object or null',
  ),
  peft_version: noEffect('information', isStringOrNull, 'a string or null'),
  loftq_config: noEffect(
    'read only with init_lora_weights loftq, which is refused',
    isObjectOrNull,
    'an object or null',
  ),
  eva_config: noEffect(INIT_ONLY, isObjectOrNull, 'an object or null'),
  corda_config: noEffect(
    'read only with init_lora_weights corda, which is refused',
    isObjectOrNull,
    'an object or null',
  ),
  lora_ga_config: noEffect(
    'read only with init_lora_weights lora_ga, which is refused',
    isObjectOrNull,
    'an object or null',
  ),
  qalora_group_size: noEffect('read only with use_qalora, which is refused', isNumber, 'a number'),
  megatron_core: noEffect(
    'read only with megatron_config, which is refused',
    isStringOrNull,
    'a string or null',
  ),
  ensure_weight_tying: noEffect(
    'concerns embeddings and modules_to_save, which are refused',
    isBoolean,
    'a boolean',
  ),
  runtime_config: noEffect('PEFT ignores it in files', isObjectOrNull, 'an object or null'),
  merge_weights: noEffect(
    'PEFT 0.2: merge into the base in eval mode, same result',
    isBoolean,
    'a boolean',
  ),
};

/** `init_lora_weights` that leave the base weights as they were. */
export const INIT_KEEPS_BASE: ReadonlySet<string> = new Set([
  'gaussian',
  'eva',
  'orthogonal',
  'mica',
]);
/** Those that subtract their start value from the base weights; `pissa_niter_N` besides. */
export const INIT_CHANGES_BASE: ReadonlySet<string> = new Set([
  'pissa',
  'olora',
  'corda',
  'loftq',
  'lora_ga',
]);
