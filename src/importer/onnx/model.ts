/**
 * Builds a serialized ONNX ModelProto. Field numbers: onnx/onnx `onnx.proto`. Weights are external
 * data, so the model stays small.
 */
import { ProtobufWriter } from './protobuf.ts';

/** TensorProto.DataType. */
export const ONNX_DTYPE = {
  FLOAT: 1,
  UINT8: 2,
  INT8: 3,
  INT32: 6,
  INT64: 7,
  FLOAT16: 10,
  BFLOAT16: 16,
} as const;
export type OnnxDtype = (typeof ONNX_DTYPE)[keyof typeof ONNX_DTYPE];

const ATTRIBUTE_FLOAT = 1;
const ATTRIBUTE_INT = 2;
const ATTRIBUTE_STRING = 3;
const LOCATION_EXTERNAL = 1;
const IR_VERSION = 10;

export interface AttributeFloat {
  float: number;
}
/** A number is an int attribute, a string a string; floats are marked. */
export type AttributeValue = number | string | AttributeFloat;

export interface NodeSpec {
  opType: string;
  /** Empty names are absent optional inputs. */
  inputs: string[];
  outputs: string[];
  name: string;
  /** Default is ai.onnx. */
  domain?: string;
  attributes?: Record<string, AttributeValue>;
}

/** A value of the graph's signature; a string dimension is symbolic. */
export interface ValueSpec {
  name: string;
  dtype: OnnxDtype;
  shape: (number | string)[];
}

export interface ExternalTensorSpec {
  name: string;
  dtype: OnnxDtype;
  shape: readonly number[];
  /** File relative to the session's external data folder. */
  location: string;
  offset: number;
  length: number;
}

export interface OnnxModelSpec {
  name: string;
  /** Operator set version by domain; '' is ai.onnx. */
  opsets: Record<string, number>;
  inputs: ValueSpec[];
  outputs: ValueSpec[];
}

/** Collects nodes in topological order and initializers, then serializes. */
export class OnnxModelBuilder {
  readonly #spec: OnnxModelSpec;
  readonly #nodes: Uint8Array[] = [];
  readonly #initializers: Uint8Array[] = [];
  /** Every value a node may read: a typo fails here, not in the runtime's loader. */
  readonly #values = new Set<string>();
  readonly #nodeNames = new Set<string>();

  constructor(spec: OnnxModelSpec) {
    this.#spec = spec;
    for (const input of spec.inputs) this.#define(input.name);
  }

  externalTensor(tensor: ExternalTensorSpec): string {
    this.#define(tensor.name);
    const proto = new ProtobufWriter();
    for (const dimension of tensor.shape) proto.varint(1, dimension);
    proto.varint(2, tensor.dtype).string(8, tensor.name);
    for (const [key, value] of [
      ['location', tensor.location],
      ['offset', String(tensor.offset)],
      ['length', String(tensor.length)],
    ] as const) {
      proto.message(13, (entry) => entry.string(1, key).string(2, value));
    }
    proto.varint(14, LOCATION_EXTERNAL);
    this.#initializers.push(proto.finish());
    return tensor.name;
  }

  node(node: NodeSpec): void {
    if (this.#nodeNames.has(node.name)) throw new Error(`Node ${node.name} exists already`);
    this.#nodeNames.add(node.name);
    if (this.#spec.opsets[node.domain ?? ''] === undefined) {
      throw new Error(`Node ${node.name} uses a domain without opset: ${node.domain}`);
    }
    const proto = new ProtobufWriter();
    for (const input of node.inputs) {
      if (input !== '' && !this.#values.has(input)) {
        throw new Error(`Node ${node.name} reads ${input}, which nothing defines`);
      }
      proto.string(1, input);
    }
    for (const output of node.outputs) {
      this.#define(output);
      proto.string(2, output);
    }
    proto.string(3, node.name).string(4, node.opType);
    for (const [name, value] of Object.entries(node.attributes ?? {})) {
      proto.message(5, (attribute) => writeAttribute(attribute, name, value));
    }
    if (node.domain !== undefined) proto.string(7, node.domain);
    this.#nodes.push(proto.finish());
  }

  /** Serialized ModelProto. */
  build(): Uint8Array {
    for (const output of this.#spec.outputs) {
      if (!this.#values.has(output.name)) throw new Error(`Output ${output.name} is not computed`);
    }
    const model = new ProtobufWriter();
    model.varint(1, IR_VERSION).string(2, 'loramux');
    model.message(7, (graph) => {
      for (const node of this.#nodes) graph.bytes(1, node);
      graph.string(2, this.#spec.name);
      for (const initializer of this.#initializers) graph.bytes(5, initializer);
      for (const input of this.#spec.inputs) graph.message(11, (m) => writeValueInfo(m, input));
      for (const output of this.#spec.outputs) graph.message(12, (m) => writeValueInfo(m, output));
    });
    for (const [domain, version] of Object.entries(this.#spec.opsets)) {
      model.message(8, (opset) => opset.string(1, domain).varint(2, version));
    }
    return model.finish();
  }

  #define(name: string): void {
    if (this.#values.has(name)) throw new Error(`Value ${name} is defined twice`);
    this.#values.add(name);
  }
}

function writeAttribute(proto: ProtobufWriter, name: string, value: AttributeValue): void {
  proto.string(1, name);
  if (typeof value === 'number') proto.varint(3, value).varint(20, ATTRIBUTE_INT);
  else if (typeof value === 'string') proto.string(4, value).varint(20, ATTRIBUTE_STRING);
  else proto.float(2, value.float).varint(20, ATTRIBUTE_FLOAT);
}

function writeValueInfo(proto: ProtobufWriter, value: ValueSpec): void {
  proto.string(1, value.name);
  proto.message(2, (type) =>
    type.message(1, (tensor) => {
      tensor.varint(1, value.dtype);
      tensor.message(2, (shape) => {
        for (const dimension of value.shape) {
          shape.message(1, (dim) => {
            if (typeof dimension === 'number') dim.varint(1, dimension);
            else dim.string(2, dimension);
          });
        }
      });
    }),
  );
}
