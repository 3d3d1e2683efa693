/**
 * The ONNX graph of a decoder-only transformer. Inputs `input_ids` int32 [T] and `logit_rows`
 * int32 [R] (rows of the T tokens, ascending); output `logits` float32 [R, vocab]. Everything else
 * a step needs reaches the loramux operators through the session. Arithmetic is float32.
 */
import { LORA_MODULES, type LoraModule } from '../native/addon-types.ts';
import type { CheckpointTensor } from './checkpoint.ts';
import { modulePath } from './modules.ts';
import { ONNX_DTYPE, type OnnxDtype, OnnxModelBuilder } from './onnx/model.ts';
import type { SafetensorsDtype } from './safetensors/header.ts';
import type { ModelConfig } from './types.ts';
import {
  adaptableLinears,
  EMBEDDING,
  hasOwnLmHead,
  type LinearSpec,
  LM_HEAD,
  lmHeadLinear,
} from './weights.ts';

/** Domain of our operators; version 1. */
export const LORAMUX_DOMAIN = 'loramux';
const CONTRIB_DOMAIN = 'com.microsoft';
const ONNX_OPSET = 21;
/** MatMulNBits' accuracy_level: of the levels it has, x86 tells only 4 from the rest. */
const ACCURACY_LEVELS = { int8: 4, float32: 1 } as const;

/**
 * How quantized layers treat activations. `int8` rounds them, one scale per row and block: about
 * 0.7 % error per product, and fast. `float32` keeps them, several times slower for 4 bits and,
 * because the runtime then expands the whole matrix in every run, a hundred times for 8 bits.
 */
export type QuantizedActivations = keyof typeof ACCURACY_LEVELS;

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
  quantizedActivations: QuantizedActivations;
}

/** Serialized ModelProto of the checkpoint. */
export function buildGraph(source: GraphSource): Uint8Array {
  return new TransformerGraph(source).build();
}

class TransformerGraph {
  readonly #source: GraphSource;
  readonly #config: ModelConfig;
  readonly #onnx: OnnxModelBuilder;
  readonly #linears: Map<string, LinearSpec>;
  /** Weight values already in the graph, by tensor name. */
  readonly #stored = new Set<string>();
  readonly #widened = new Map<string, string>();

  constructor(source: GraphSource) {
    this.#source = source;
    this.#config = source.config;
    this.#linears = new Map(adaptableLinears(source.config).map((spec) => [spec.path, spec]));
    this.#onnx = new OnnxModelBuilder({
      name: source.config.architecture,
      opsets: { '': ONNX_OPSET, [CONTRIB_DOMAIN]: 1, [LORAMUX_DOMAIN]: 1 },
      inputs: [
        { name: 'input_ids', dtype: ONNX_DTYPE.INT32, shape: ['T'] },
        { name: 'logit_rows', dtype: ONNX_DTYPE.INT32, shape: ['R'] },
      ],
      outputs: [{ name: 'logits', dtype: ONNX_DTYPE.FLOAT, shape: ['R', source.config.vocabSize] }],
    });
  }

  build(): Uint8Array {
    let hidden = this.#embed();
    for (let layer = 0; layer < this.#config.numLayers; layer++) {
      hidden = this.#attention(layer, hidden);
      hidden = this.#mlp(layer, hidden);
    }
    this.#logits(hidden);
    return this.#onnx.build();
  }

  /** hidden [T, hiddenSize], gathered in the stored dtype so that only T rows are widened. */
  #embed(): string {
    const rows = this.#op('Gather', 'model.embed_tokens', [this.#store(EMBEDDING), 'input_ids'], {
      axis: 0,
    });
    return this.#tensor(EMBEDDING).dtype === 'F32' ? rows : this.#toFloat(rows);
  }

  #attention(layer: number, input: string): string {
    const { numHeads, numKvHeads, headSize, rmsNormEps, slidingWindows, qkNorm } = this.#config;
    const prefix = `model.layers.${layer}`;
    const x = this.#norm(`${prefix}.input_layernorm`, input);
    const inputs = [
      this.#adapted(layer, 'q_proj', x),
      this.#adapted(layer, 'k_proj', x),
      this.#adapted(layer, 'v_proj', x),
    ];
    if (qkNorm) {
      inputs.push(this.#float(`${prefix}.self_attn.q_norm.weight`));
      inputs.push(this.#float(`${prefix}.self_attn.k_norm.weight`));
    }
    const attended = this.#op(
      'PagedAttention',
      `${prefix}.self_attn.attention`,
      inputs,
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
    const output = this.#adapted(layer, 'o_proj', attended);
    return this.#op('Add', `${prefix}.attention_residual`, [input, output]);
  }

  /** down(silu(gate(x)) * up(x)). */
  #mlp(layer: number, input: string): string {
    const prefix = `model.layers.${layer}`;
    const x = this.#norm(`${prefix}.post_attention_layernorm`, input);
    const gate = this.#adapted(layer, 'gate_proj', x);
    const up = this.#adapted(layer, 'up_proj', x);
    // QuickGelu is x * sigmoid(alpha * x): SiLU at alpha 1, in one pass.
    const silu = this.#op(
      'QuickGelu',
      `${prefix}.mlp.act_fn`,
      [gate],
      { alpha: { float: 1 } },
      CONTRIB_DOMAIN,
    );
    const product = this.#op('Mul', `${prefix}.mlp.gated`, [silu, up]);
    const output = this.#adapted(layer, 'down_proj', product);
    return this.#op('Add', `${prefix}.mlp_residual`, [input, output]);
  }

  /** Only the rows whose logits are needed reach the final norm and the head. */
  #logits(hidden: string): void {
    const rows = this.#op('Gather', 'logit_rows_gather', [hidden, 'logit_rows'], { axis: 0 });
    const x = this.#norm('model.norm', rows);
    const spec = lmHeadLinear(this.#config);
    const { config, tensors } = this.#source;
    if (hasOwnLmHead(config, tensors)) {
      const quantized = config.quantization?.lmHead === true;
      this.#linear(spec, x, quantized, 'logits');
    } else {
      this.#gemm(LM_HEAD, [x, this.#float(EMBEDDING)], 'logits');
    }
  }

  /** Base product and the adapters' deltas: [T, out]. */
  #adapted(layer: number, module: LoraModule, x: string): string {
    const spec = this.#linears.get(modulePath(layer, module))!;
    const quantized = this.#config.quantization !== undefined;
    const base = this.#linear(spec, x, quantized, `${spec.path}.base`);
    return this.#op(
      'SegmentedLora',
      `${spec.path}.lora`,
      [x, base],
      { layer, module: LORA_MODULES.indexOf(module) },
      LORAMUX_DOMAIN,
    );
  }

  #linear(spec: LinearSpec, x: string, quantized: boolean, output: string): string {
    const bias = spec.bias ? this.#float(`${spec.path}.bias`) : undefined;
    const quantization = this.#config.quantization;
    if (!quantized || quantization === undefined) {
      const inputs = [x, this.#float(`${spec.path}.weight`)];
      if (bias !== undefined) inputs.push(bias);
      return this.#gemm(spec.path, inputs, output);
    }
    const inputs = [x, this.#store(`${spec.path}.qweight`), this.#store(`${spec.path}.scales`)];
    const zeroPoints = quantization.symmetric ? '' : this.#store(`${spec.path}.zero_points`);
    if (bias !== undefined) inputs.push(zeroPoints, '', bias);
    else if (zeroPoints !== '') inputs.push(zeroPoints);
    this.#onnx.node({
      opType: 'MatMulNBits',
      domain: CONTRIB_DOMAIN,
      name: spec.path,
      inputs,
      outputs: [output],
      attributes: {
        K: spec.inFeatures,
        N: spec.outFeatures,
        bits: quantization.bits,
        block_size: quantization.groupSize,
        accuracy_level: ACCURACY_LEVELS[this.#source.quantizedActivations],
      },
    });
    return output;
  }

  /** x [M, K] times a Hugging Face weight [N, K], as it lies in the file. */
  #gemm(name: string, inputs: string[], output: string): string {
    this.#onnx.node({
      opType: 'Gemm',
      name,
      inputs,
      outputs: [output],
      attributes: { transB: 1 },
    });
    return output;
  }

  /** RMS norm (Zhang and Sennrich 2019); the operator sits in the ai.onnx domain of ORT. */
  #norm(path: string, x: string): string {
    return this.#op('SimplifiedLayerNormalization', path, [x, this.#float(`${path}.weight`)], {
      axis: -1,
      epsilon: { float: this.#config.rmsNormEps },
      stash_type: 1,
    });
  }

  #op(
    opType: string,
    name: string,
    inputs: string[],
    attributes: Parameters<OnnxModelBuilder['node']>[0]['attributes'] = {},
    domain?: string,
  ): string {
    const output = `${name}:0`;
    this.#onnx.node({
      opType,
      name,
      inputs,
      outputs: [output],
      attributes,
      ...(domain === undefined ? {} : { domain }),
    });
    return output;
  }

  #tensor(name: string): CheckpointTensor {
    const tensor = this.#source.tensors.get(name);
    if (tensor === undefined) throw new Error(`The graph needs ${name}, which was not checked`);
    return tensor;
  }

  /** The tensor as stored, an initializer in its file. */
  #store(name: string): string {
    if (this.#stored.has(name)) return name;
    const tensor = this.#tensor(name);
    this.#stored.add(name);
    return this.#onnx.externalTensor({
      name,
      dtype: ONNX_DTYPES[tensor.dtype]!,
      shape: tensor.shape,
      location: this.#source.location(tensor.file),
      offset: tensor.begin,
      length: tensor.end - tensor.begin,
    });
  }

  /** The tensor as float32; the runtime folds the Cast once, at load. */
  #float(name: string): string {
    const stored = this.#store(name);
    if (this.#tensor(name).dtype === 'F32') return stored;
    let widened = this.#widened.get(name);
    if (widened === undefined) {
      widened = this.#toFloat(stored);
      this.#widened.set(name, widened);
    }
    return widened;
  }

  #toFloat(value: string): string {
    return this.#op('Cast', `${value}.f32`, [value], { to: ONNX_DTYPE.FLOAT });
  }
}
