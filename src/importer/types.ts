/** Types of the importer that the rest of the server sees. */
import type { NativeModel, RopeParameters } from '../native/addon-types.ts';

export type ModelFamily = 'llama' | 'mistral' | 'qwen2' | 'qwen3';

/** Progress of long work, in units of `total` (bytes or tensors; the label says what is done). */
export type ProgressCallback = (done: number, total: number, label: string) => void;

/** A checked config.json: everything that changes the result, nothing else. */
export interface ModelConfig {
  family: ModelFamily;
  /** The class in config.json's `architectures`, e.g. LlamaForCausalLM. */
  architecture: string;
  hiddenSize: number;
  intermediateSize: number;
  numLayers: number;
  numHeads: number;
  numKvHeads: number;
  headSize: number;
  vocabSize: number;
  maxPositionEmbeddings: number;
  rmsNormEps: number;
  tieWordEmbeddings: boolean;
  /** Which linear layers have a bias. */
  bias: { qkv: boolean; o: boolean; mlp: boolean };
  /** RMS norm on each head of q and k before rotary embedding. */
  qkNorm: boolean;
  /** Per layer: attention window in tokens, 0 is the whole context. */
  slidingWindows: number[];
  rope: RopeParameters;
  quantization: QuantizationConfig | undefined;
}

/** Block-wise weight quantization of the linear layers (ONNX MatMulNBits). */
export interface QuantizationConfig {
  bits: 4 | 8;
  /** Input features that share one scale. */
  groupSize: number;
  /** Zero point fixed at the middle of the range. */
  symmetric: boolean;
  /** Whether lm_head is quantized too. */
  lmHead: boolean;
  /** Digest of the checkpoint it was made from. */
  sourceDigest: string;
}

/** One entry of the Hugging Face model's `named_modules()`, in that order. */
export interface ModuleDescription {
  /** E.g. `model.layers.0.self_attn.q_proj`; empty for the model itself. */
  path: string;
  kind: 'linear' | 'embedding' | 'norm' | 'container' | 'other';
  /** Set for the modules an adapter can change: layer and index into LORA_MODULES. */
  layer?: number;
  module?: number;
  /** Set for linear and embedding modules. */
  inFeatures?: number;
  outFeatures?: number;
}

export interface ModelMetadata {
  config: ModelConfig;
  /** Generation ends at any of these; from generation_config.json, else config.json. */
  eosTokenIds: number[];
  bosTokenId: number | undefined;
  /**
   * SHA-256, lower-case hex, over config.json and the headers of the weight files (names, dtypes,
   * shapes, sizes); cheap and stable across copies. It does not cover the weights' values.
   */
  weightDigest: string;
  /** All modules of the Hugging Face model. */
  modules: ModuleDescription[];
  /** Bytes of the weight files. */
  weightBytes: number;
  /** Stored element type of most weights, e.g. BF16. */
  dtype: string;
}

/** A checkpoint as a graph in memory; weights stay in the files they came in. */
export interface ImportedModel {
  /** Absolute path of the checkpoint directory. */
  dir: string;
  native: NativeModel;
  metadata: ModelMetadata;
}
