/** What both kinds of graph share: the signature, the weights' initializers, the embedding. */
import type { CheckpointTensor } from './checkpoint.ts';
import { ONNX_DTYPE, type OnnxDtype, OnnxModelBuilder } from './onnx/model.ts';
import type { SafetensorsDtype } from './safetensors/header.ts';
import type { ModelConfig } from './types.ts';
import { EMBEDDING } from './weights.ts';

/** Domain of our operators; version 1. */
export const LORAMUX_DOMAIN = 'loramux';
export const CONTRIB_DOMAIN = 'com.microsoft';
const ONNX_OPSET = 21;

const ONNX_DTYPES: Partial<Record<SafetensorsDtype, OnnxDtype>> = {
  F32: ONNX_DTYPE.FLOAT,
  F16: ONNX_DTYPE.FLOAT16,
  BF16: ONNX_DTYPE.BFLOAT16,
  U8: ONNX_DTYPE.UINT8,
};

export interface GraphSource {
  config: ModelConfig;
  tensors: ReadonlyMap<string, CheckpointTensor>;
  /** External data location of a weight file. */
  location(file: string): string;
}

export type NodeAttributes = Parameters<OnnxModelBuilder['node']>[0]['attributes'];

export class GraphWriter {
  readonly source: GraphSource;
  readonly config: ModelConfig;
  readonly onnx: OnnxModelBuilder;
  /** Weight values already in the graph, by tensor name. */
  readonly #stored = new Set<string>();
  readonly #widened = new Map<string, string>();

  constructor(source: GraphSource) {
    this.source = source;
    this.config = source.config;
    this.onnx = new OnnxModelBuilder({
      name: source.config.architecture,
      opsets: { '': ONNX_OPSET, [CONTRIB_DOMAIN]: 1, [LORAMUX_DOMAIN]: 1 },
      inputs: [
        { name: 'input_ids', dtype: ONNX_DTYPE.INT32, shape: ['T'] },
        { name: 'logit_rows', dtype: ONNX_DTYPE.INT32, shape: ['R'] },
      ],
      outputs: [{ name: 'logits', dtype: ONNX_DTYPE.FLOAT, shape: ['R', source.config.vocabSize] }],
    });
  }

  /** hidden [T, hiddenSize], gathered in the stored dtype so that only T rows are widened. */
  embed(): string {
    const rows = this.op('Gather', 'model.embed_tokens', [this.store(EMBEDDING), 'input_ids'], {
      axis: 0,
    });
    return this.#tensor(EMBEDDING).dtype === 'F32' ? rows : this.#toFloat(rows);
  }

  /** The rows whose logits are needed. */
  logitRows(hidden: string): string {
    return this.op('Gather', 'logit_rows_gather', [hidden, 'logit_rows'], { axis: 0 });
  }

  /**
   * Rotary embedding, cache and attention of a layer.
   * @param inputs q, k, v; or [qkv, '', '']. Norms of q and k follow where the family has them.
   */
  attention(layer: number, inputs: string[]): string {
    const { numHeads, numKvHeads, headSize, rmsNormEps, slidingWindows, qkNorm } = this.config;
    const prefix = `model.layers.${layer}.self_attn`;
    const norms = qkNorm ? [`${prefix}.q_norm.weight`, `${prefix}.k_norm.weight`] : [];
    return this.op(
      'PagedAttention',
      `${prefix}.attention`,
      trimAbsent([...inputs, ...norms.map((name) => this.float(name))]),
      {
        layer,
        num_heads: numHeads,
        num_kv_heads: numKvHeads,
        head_size: headSize,
        sliding_window: slidingWindows[layer]!,
        softmax_scale: { float: headSize ** -0.5 },
        norm_eps: { float: rmsNormEps },
      },
      LORAMUX_DOMAIN,
    );
  }

  /** A node with one output, `name`:0 unless it is named. */
  op(
    opType: string,
    name: string,
    inputs: string[],
    attributes: NodeAttributes = {},
    domain?: string,
    output = `${name}:0`,
  ): string {
    this.onnx.node({
      opType,
      name,
      inputs,
      outputs: [output],
      attributes,
      ...(domain === undefined ? {} : { domain }),
    });
    return output;
  }

  /** The tensor as stored, an initializer in its file. */
  store(name: string): string {
    if (this.#stored.has(name)) return name;
    const tensor = this.#tensor(name);
    this.#stored.add(name);
    return this.onnx.externalTensor({
      name,
      dtype: ONNX_DTYPES[tensor.dtype]!,
      shape: tensor.shape,
      location: this.source.location(tensor.file),
      offset: tensor.begin,
      length: tensor.end - tensor.begin,
    });
  }

  /** The tensor as float32; the runtime folds the Cast once, at load. */
  float(name: string): string {
    const stored = this.store(name);
    if (this.#tensor(name).dtype === 'F32') return stored;
    let widened = this.#widened.get(name);
    if (widened === undefined) {
      widened = this.#toFloat(stored);
      this.#widened.set(name, widened);
    }
    return widened;
  }

  #tensor(name: string): CheckpointTensor {
    const tensor = this.source.tensors.get(name);
    if (tensor === undefined) throw new Error(`The graph needs ${name}, which was not checked`);
    return tensor;
  }

  #toFloat(value: string): string {
    return this.op('Cast', `${value}.f32`, [value], { to: ONNX_DTYPE.FLOAT });
  }
}

/** Inputs without the absent ones (empty names) at the end. */
export function trimAbsent(inputs: readonly string[]): string[] {
  const last = inputs.findLastIndex((input) => input !== '');
  return inputs.slice(0, last + 1);
}
