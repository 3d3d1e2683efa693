/**
 * The graph over packed weights: five nodes a layer, with norms, biases, activation, residuals and
 * adapters inside them. Same signature as the float graph. Weights are packed blobs of an imported
 * directory, or matrices of a checkpoint that the operator packs when the session is made.
 */
import { LORA_MODULES, type LoraModule, PACKED_FORMATS } from '../native/addon-types.ts';
import { type GraphSource, GraphWriter, LORAMUX_DOMAIN, trimAbsent } from './graph-writer.ts';
import { modulePath } from './modules.ts';
import { ACTIVATION_GROUP } from './packing/format.ts';
import type { PackedSpec, Packing } from './types.ts';
import {
  adaptableLinears,
  EMBEDDING,
  FINAL_NORM,
  hasOwnLmHead,
  type LinearSpec,
  LM_HEAD,
  lmHeadLinear,
  packedName,
} from './weights.ts';

/** Serialized ModelProto. */
export function buildPackedGraph(source: GraphSource, packing: Packing): Uint8Array {
  return new PackedGraph(source, packing).build();
}

/** What a row goes through before it is multiplied; numbers of loramux::Prologue. */
const PROLOGUE = { none: 0, rmsNorm: 1, swiGlu: 2 } as const;
/** Weights of one node lie side by side; absent ones have no columns. */
const MAX_PARTS = 3;
/** Layer and module of a product that no adapter changes. */
const NO_ADAPTERS = -1;

interface PackedLinear {
  name: string;
  x: string;
  residual?: string;
  /** Path of the norm that precedes the product. */
  norm?: string;
  swiGlu?: boolean;
  parts: LinearSpec[];
  packed: PackedSpec;
  layer: number;
  /** Module number of the first part. */
  module: number;
  output?: string;
}

class PackedGraph {
  readonly #graph: GraphWriter;
  readonly #packing: Packing;
  readonly #linears: Map<string, LinearSpec>;

  constructor(source: GraphSource, packing: Packing) {
    this.#graph = new GraphWriter(source);
    this.#packing = packing;
    this.#linears = new Map(adaptableLinears(source.config).map((spec) => [spec.path, spec]));
  }

  build(): Uint8Array {
    const { config } = this.#graph;
    let hidden = this.#graph.embed();
    for (let layer = 0; layer < config.numLayers; layer++) {
      const prefix = `model.layers.${layer}`;
      const qkv = this.#modules(layer, `${prefix}.self_attn.qkv_proj`, hidden, {
        modules: ['q_proj', 'k_proj', 'v_proj'],
        norm: `${prefix}.input_layernorm`,
      });
      const attended = this.#graph.attention(layer, [qkv, '', '']);
      hidden = this.#modules(layer, `${prefix}.self_attn.o_proj`, attended, {
        modules: ['o_proj'],
        residual: hidden,
      });
      const gateUp = this.#modules(layer, `${prefix}.mlp.gate_up_proj`, hidden, {
        modules: ['gate_proj', 'up_proj'],
        norm: `${prefix}.post_attention_layernorm`,
      });
      hidden = this.#modules(layer, `${prefix}.mlp.down_proj`, gateUp, {
        modules: ['down_proj'],
        swiGlu: true,
        residual: hidden,
      });
    }
    // Only the rows whose logits are needed reach the final norm and the head.
    this.#linear({
      name: LM_HEAD,
      x: this.#graph.logitRows(hidden),
      norm: FINAL_NORM.replace(/\.weight$/, ''),
      parts: [lmHeadLinear(config)],
      packed: this.#packing.lmHead,
      layer: NO_ADAPTERS,
      module: NO_ADAPTERS,
      output: 'logits',
    });
    return this.#graph.onnx.build();
  }

  #modules(
    layer: number,
    name: string,
    x: string,
    rest: Pick<PackedLinear, 'residual' | 'norm' | 'swiGlu'> & { modules: LoraModule[] },
  ): string {
    const { modules, ...linear } = rest;
    const parts = modules.map((module) => this.#linears.get(modulePath(layer, module))!);
    const packed = this.#packing.linears;
    const module = LORA_MODULES.indexOf(modules[0]!);
    return this.#linear({ name, x, parts, packed, layer, module, ...linear });
  }

  #linear(linear: PackedLinear): string {
    const { name, x, residual = '', norm, swiGlu = false, parts, packed, layer, module } = linear;
    const absent = new Array<string>(MAX_PARTS - parts.length).fill('');
    const columns = [0, 1, 2].map((part) => parts[part]?.outFeatures ?? 0);
    const prologue = norm !== undefined ? 'rmsNorm' : swiGlu ? 'swiGlu' : 'none';
    return this.#graph.op(
      'PackedLinear',
      name,
      trimAbsent([
        x,
        residual,
        norm === undefined ? '' : this.#graph.float(`${norm}.weight`),
        ...parts.map(({ path }) => this.#graph.store(this.#weightName(path))),
        ...absent,
        ...parts.map(({ path, bias }) => (bias ? this.#graph.float(`${path}.bias`) : '')),
      ]),
      {
        layer,
        module,
        parts: parts.length,
        k: parts[0]!.inFeatures,
        n0: columns[0]!,
        n1: columns[1]!,
        n2: columns[2]!,
        format: PACKED_FORMATS.indexOf(packed.format),
        group: packed.groupSize,
        zero_points: packed.zeroPoints ? 1 : 0,
        rotated: packed.rotated ? 1 : 0,
        activation_group: ACTIVATION_GROUP,
        prologue: PROLOGUE[prologue],
        norm_eps: { float: this.#graph.config.rmsNormEps },
      },
      LORAMUX_DOMAIN,
      linear.output,
    );
  }

  /** The blob of an imported directory, or the matrix of a checkpoint. */
  #weightName(path: string): string {
    const { config, tensors } = this.#graph.source;
    if (tensors.has(packedName(path))) return packedName(path);
    return path === LM_HEAD && !hasOwnLmHead(config, tensors) ? EMBEDDING : `${path}.weight`;
  }
}
