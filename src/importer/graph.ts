/**
 * The ONNX graph of a decoder-only transformer. Inputs `input_ids` int32 [T] and `logit_rows`
 * int32 [R] (rows of the T tokens, ascending); output `logits` float32 [R, vocab]. Everything else
 * a step needs reaches the loramux operators through the session. Weights and arithmetic are
 * float32: the portable path and the reference.
 */
import { LORA_MODULES, type LoraModule } from '../native/addon-types.ts';
import { CONTRIB_DOMAIN, type GraphSource, GraphWriter, LORAMUX_DOMAIN } from './graph-writer.ts';
import { modulePath } from './modules.ts';
import {
  adaptableLinears,
  EMBEDDING,
  hasOwnLmHead,
  type LinearSpec,
  LM_HEAD,
  lmHeadLinear,
} from './weights.ts';

/** Serialized ModelProto of a checkpoint with float weights. */
export function buildFloatGraph(source: GraphSource): Uint8Array {
  return new FloatGraph(source).build();
}

class FloatGraph {
  readonly #graph: GraphWriter;
  readonly #linears: Map<string, LinearSpec>;

  constructor(source: GraphSource) {
    this.#graph = new GraphWriter(source);
    this.#linears = new Map(adaptableLinears(source.config).map((spec) => [spec.path, spec]));
  }

  build(): Uint8Array {
    let hidden = this.#graph.embed();
    for (let layer = 0; layer < this.#graph.config.numLayers; layer++) {
      hidden = this.#attention(layer, hidden);
      hidden = this.#mlp(layer, hidden);
    }
    this.#logits(hidden);
    return this.#graph.onnx.build();
  }

  #attention(layer: number, input: string): string {
    const prefix = `model.layers.${layer}`;
    const x = this.#norm(`${prefix}.input_layernorm`, input);
    const attended = this.#graph.attention(layer, [
      this.#adapted(layer, 'q_proj', x),
      this.#adapted(layer, 'k_proj', x),
      this.#adapted(layer, 'v_proj', x),
    ]);
    const output = this.#adapted(layer, 'o_proj', attended);
    return this.#graph.op('Add', `${prefix}.attention_residual`, [input, output]);
  }

  /** down(silu(gate(x)) * up(x)). */
  #mlp(layer: number, input: string): string {
    const prefix = `model.layers.${layer}`;
    const x = this.#norm(`${prefix}.post_attention_layernorm`, input);
    const gate = this.#adapted(layer, 'gate_proj', x);
    const up = this.#adapted(layer, 'up_proj', x);
    // QuickGelu is x * sigmoid(alpha * x): SiLU at alpha 1, in one pass.
    const silu = this.#graph.op(
      'QuickGelu',
      `${prefix}.mlp.act_fn`,
      [gate],
      { alpha: { float: 1 } },
      CONTRIB_DOMAIN,
    );
    const product = this.#graph.op('Mul', `${prefix}.mlp.gated`, [silu, up]);
    const output = this.#adapted(layer, 'down_proj', product);
    return this.#graph.op('Add', `${prefix}.mlp_residual`, [input, output]);
  }

  /** Only the rows whose logits are needed reach the final norm and the head. */
  #logits(hidden: string): void {
    const x = this.#norm('model.norm', this.#graph.logitRows(hidden));
    const { config, tensors } = this.#graph.source;
    if (hasOwnLmHead(config, tensors)) this.#linear(lmHeadLinear(config), x, 'logits');
    else this.#gemm(LM_HEAD, [x, this.#graph.float(EMBEDDING)], 'logits');
  }

  /** Base product and the adapters' deltas: [T, out]. */
  #adapted(layer: number, module: LoraModule, x: string): string {
    const spec = this.#linears.get(modulePath(layer, module))!;
    const base = this.#linear(spec, x, `${spec.path}.base`);
    return this.#graph.op(
      'SegmentedLora',
      `${spec.path}.lora`,
      [x, base],
      { layer, module: LORA_MODULES.indexOf(module) },
      LORAMUX_DOMAIN,
    );
  }

  #linear(spec: LinearSpec, x: string, output: string): string {
    const inputs = [x, this.#graph.float(`${spec.path}.weight`)];
    if (spec.bias) inputs.push(this.#graph.float(`${spec.path}.bias`));
    return this.#gemm(spec.path, inputs, output);
  }

  /** x [M, K] times a Hugging Face weight [N, K], as it lies in the file. */
  #gemm(name: string, inputs: string[], output: string): string {
    return this.#graph.op('Gemm', name, inputs, { transB: 1 }, undefined, output);
  }

  /** RMS norm (Zhang and Sennrich 2019); the operator sits in the ai.onnx domain of ORT. */
  #norm(path: string, x: string): string {
    const inputs = [x, this.#graph.float(`${path}.weight`)];
    return this.#graph.op('SimplifiedLayerNormalization', path, inputs, {
      axis: -1,
      epsilon: { float: this.#graph.config.rmsNormEps },
      stash_type: 1,
    });
  }
}
