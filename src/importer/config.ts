/**
 * config.json of a Hugging Face checkpoint -> ModelConfig. Every key is used, known to have no
 * effect on inference, or required to have the value that has none; all others are refused.
 */
import { LoramuxError } from '../errors.ts';
import { FAMILIES, familyOf } from './architectures/index.ts';
import { ConfigReader } from './config-reader.ts';
import type { JsonObject, JsonValue } from './json.ts';
import { readQuantizationConfig } from './quantization-config.ts';
import { readRope } from './rope.ts';
import type { ModelConfig } from './types.ts';

/** Upper bounds of a model; a config beyond them is a mistake or hostile. */
export const MODEL_LIMITS = {
  layers: 1_024,
  hiddenSize: 262_144,
  intermediateSize: 1_048_576,
  heads: 4_096,
  headSize: 1_024,
  vocabSize: 4_194_304,
  maxPositionEmbeddings: 1 << 30,
} as const;

/** Keys without effect on a causal language model's logits, by reason. */
const NO_EFFECT: Record<string, readonly string[]> = {
  'names and provenance': [
    '_name_or_path',
    'name_or_path',
    '_commit_hash',
    'transformers_version',
    'model_type',
    'architectures',
    'tokenizer_class',
    'unsloth_version',
    'unsloth_fixed',
    'is_llama_config',
    'transformers.js_config',
  ],
  'training only (dropout, initialisation)': [
    'initializer_range',
    'attention_dropout',
    'hidden_dropout',
    'embd_pdrop',
    'resid_pdrop',
    'use_cache',
    'gradient_checkpointing',
  ],
  'the dtype to load in; each tensor names its own': ['torch_dtype', 'dtype', 'use_bfloat16'],
  'how transformers computes or what it returns, not the values': [
    '_attn_implementation',
    'attn_implementation',
    '_attn_implementation_autoset',
    '_flash_attn_2_enabled',
    'chunk_size_feed_forward',
    'output_attentions',
    'output_hidden_states',
    'return_dict',
    'torchscript',
    'tf_legacy_loss',
    'tie_encoder_decoder',
    'is_decoder',
    'cross_attention_hidden_size',
    'tie_last_hidden_states',
  ],
  'other tasks': [
    'id2label',
    'label2id',
    'num_labels',
    'problem_type',
    'finetuning_task',
    'task_specific_params',
    'prefix',
  ],
  'token ids, read apart': [
    'bos_token_id',
    'eos_token_id',
    'pad_token_id',
    'sep_token_id',
    'unk_token_id',
    'decoder_start_token_id',
  ],
  'an old name of max_position_embeddings': ['max_sequence_length'],
  'generation defaults, which requests set': [
    'assistant_confidence_threshold',
    'assistant_lookbehind',
    'bad_words_ids',
    'begin_suppress_tokens',
    'diversity_penalty',
    'do_sample',
    'early_stopping',
    'encoder_no_repeat_ngram_size',
    'encoder_repetition_penalty',
    'epsilon_cutoff',
    'eta_cutoff',
    'exponential_decay_length_penalty',
    'forced_bos_token_id',
    'forced_eos_token_id',
    'length_penalty',
    'max_length',
    'max_new_tokens',
    'min_length',
    'no_repeat_ngram_size',
    'num_assistant_tokens',
    'num_assistant_tokens_schedule',
    'num_beam_groups',
    'num_beams',
    'num_return_sequences',
    'output_scores',
    'remove_invalid_values',
    'repetition_penalty',
    'return_dict_in_generate',
    'suppress_tokens',
    'target_lookbehind',
    'temperature',
    'top_k',
    'top_p',
    'typical_p',
  ],
};

/**
 * @param json the parsed config.json.
 * @throws LoramuxError model_config_unsupported naming the key.
 */
export function parseModelConfig(json: JsonObject): ModelConfig {
  const reader = new ConfigReader(json, 'config.json');
  const family = familyOf(json.model_type, json.architectures);
  const { rules } = FAMILIES[family];
  for (const keys of Object.values(NO_EFFECT)) reader.ignore(keys);
  reader.mustBe('hidden_act', ['silu', 'swish'], 'the MLP is SiLU-gated');
  reader.mustBe('is_encoder_decoder', [false], 'only decoder models are supported');
  reader.mustBe('add_cross_attention', [false], 'only decoder models are supported');
  reader.mustBe('pretraining_tp', [1], 'sliced projections are not supported');
  reader.mustBe('use_mrope', [false], 'multimodal rotary embedding is not supported');
  reader.mustBeEmpty('pruned_heads', 'pruned attention heads are not supported');
  reader.mustBeEmpty('auto_map', 'models that need code from their repository are not supported');

  const shape = readShape(reader, rules.defaultNumKvHeads);
  const { bias, slidingWindows, qkNorm } = rules.read(reader, shape.numLayers);
  const config: ModelConfig = {
    family,
    architecture: FAMILIES[family].architecture,
    ...shape,
    rmsNormEps: reader.number('rms_norm_eps', { min: 0, max: 1 }),
    tieWordEmbeddings: reader.boolean('tie_word_embeddings', false),
    bias,
    qkNorm,
    slidingWindows,
    rope: readRope(reader, shape),
    quantization: readQuantizationConfig(reader),
  };
  reader.finish();
  return config;
}

type Shape = Pick<
  ModelConfig,
  | 'hiddenSize'
  | 'intermediateSize'
  | 'numLayers'
  | 'numHeads'
  | 'numKvHeads'
  | 'headSize'
  | 'vocabSize'
  | 'maxPositionEmbeddings'
>;

function readShape(reader: ConfigReader, defaultNumKvHeads: number | undefined): Shape {
  const limits = MODEL_LIMITS;
  const hiddenSize = reader.integer('hidden_size', { min: 1, max: limits.hiddenSize });
  const numHeads = reader.integer('num_attention_heads', { min: 1, max: limits.heads });
  // A null means one per head; an absent key means the family's default, where it has one.
  const explicitNull = reader.raw('num_key_value_heads') === null;
  const numKvHeads = reader.integer('num_key_value_heads', {
    fallback: explicitNull ? numHeads : (defaultNumKvHeads ?? numHeads),
    min: 1,
    max: numHeads,
  });
  if (numHeads % numKvHeads !== 0) {
    throw reader.unsupported('num_key_value_heads', `must divide ${numHeads} attention heads`);
  }
  if (!reader.has('head_dim') && hiddenSize % numHeads !== 0) {
    throw reader.unsupported('hidden_size', `must be a multiple of ${numHeads} attention heads`);
  }
  const headSize = reader.integer('head_dim', {
    fallback: hiddenSize / numHeads,
    min: 2,
    max: limits.headSize,
  });
  if (headSize % 2 !== 0) throw reader.unsupported('head_dim', 'must be even');
  return {
    hiddenSize,
    intermediateSize: reader.integer('intermediate_size', { min: 1, max: limits.intermediateSize }),
    numLayers: reader.integer('num_hidden_layers', { min: 1, max: limits.layers }),
    numHeads,
    numKvHeads,
    headSize,
    vocabSize: reader.integer('vocab_size', { min: 2, max: limits.vocabSize }),
    maxPositionEmbeddings: reader.integer('max_position_embeddings', {
      min: 1,
      max: limits.maxPositionEmbeddings,
    }),
  };
}

/** Token ids that end generation and the one that begins a text. */
export interface SpecialTokens {
  eosTokenIds: number[];
  bosTokenId: number | undefined;
}

/**
 * generation_config.json rules over config.json, key by key; either may name one id or a list.
 * @throws LoramuxError model_config_unsupported for ids outside the vocabulary.
 */
export function readSpecialTokens(
  config: JsonObject,
  generationConfig: JsonObject | undefined,
  vocabSize: number,
): SpecialTokens {
  const ids = (key: string): number[] => {
    const value = generationConfig?.[key] ?? config[key] ?? [];
    const list: JsonValue[] = Array.isArray(value) ? value : [value];
    for (const id of list) {
      if (!Number.isSafeInteger(id) || (id as number) < 0 || (id as number) >= vocabSize) {
        throw new LoramuxError(
          'model_config_unsupported',
          `${key} is ${JSON.stringify(value)}; it must be a token id below ${vocabSize}, or a list.`,
        );
      }
    }
    return [...new Set(list as number[])];
  };
  return { eosTokenIds: ids('eos_token_id'), bosTokenId: ids('bos_token_id')[0] };
}
