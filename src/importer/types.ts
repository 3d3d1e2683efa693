/** Types of the importer that the rest of the server sees. */
import {
  type NativeModel,
  PACKED_FORMATS,
  type PackedFormat,
  type RopeParameters,
} from '../native/addon-types.ts';

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
  quantization: PackedDirectory | CheckpointQuantization | undefined;
}

/** How a linear layer's weights are packed. */
export interface PackedSpec {
  format: PackedFormat;
  /** Input features that share one scale; 0: one scale per output. */
  groupSize: number;
  /** int4: each group has a zero point of its own. */
  zeroPoints: boolean;
  /**
   * int8 and int4: inputs are rotated before rounding, so that a few large activations cost the
   * others little. Weights whose levels another tool fixed are not.
   */
  rotated?: true;
}

/** How all linear layers of a model are packed. */
export interface Packing {
  /** The seven of each layer. */
  linears: PackedSpec;
  lmHead: PackedSpec;
}

/** The `quantization_config` of a directory that the importer wrote. */
export interface PackedDirectory extends Packing {
  method: 'loramux';
  /** Digest of the checkpoint it was made from. */
  sourceDigest: string;
}

/** The `quantization_config` of a checkpoint that GPTQ or AWQ tools wrote. */
export interface CheckpointQuantization {
  method: 'gptq' | 'awq';
  bits: 4 | 8;
  /** Input features that share one scale; undefined: all of them. */
  groupSize: number | undefined;
  /** Zero points are the middle of the range. */
  symmetric: boolean;
  /** Added to zero points as stored. */
  zeroOffset: 0 | 1;
}

/** What the weights are computed with: float32, or a packed format. */
export type WeightsKind = 'float32' | PackedFormat;

/** What may be asked for; `auto` decides by the checkpoint. */
export const WEIGHTS_MODES = ['auto', 'float32', ...PACKED_FORMATS] as const;
export type WeightsMode = (typeof WEIGHTS_MODES)[number];

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
  /** Stored element type of most weights, e.g. BF16; U8 where they are packed. */
  dtype: string;
  /** What the graph computes the layers' products with. */
  weights: WeightsKind;
}

/** A checkpoint as a graph in memory; weights stay in the files they came in. */
export interface ImportedModel {
  /** Absolute path of the checkpoint directory. */
  dir: string;
  native: NativeModel;
  metadata: ModelMetadata;
}
