/** A reader of ONNX ModelProto bytes, written apart from the writer it checks. */

type Field = bigint | Uint8Array;

/** Fields of one protobuf message by number; fixed32 values are given as their 4 bytes. */
export function decodeMessage(bytes: Uint8Array): Map<number, Field[]> {
  const fields = new Map<number, Field[]>();
  let position = 0;
  const varint = (): bigint => {
    let value = 0n;
    for (let shift = 0n; ; shift += 7n) {
      const byte = bytes[position++];
      if (byte === undefined) throw new Error('The message is cut off');
      value |= BigInt(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
  };
  while (position < bytes.length) {
    const key = Number(varint());
    const number = key >> 3;
    const wire = key & 7;
    let value: Field;
    if (wire === 0) value = varint();
    else {
      const length = wire === 5 ? 4 : Number(varint());
      if (wire !== 2 && wire !== 5) throw new Error(`Wire type ${wire} is not expected`);
      value = bytes.subarray(position, position + length);
      position += length;
      if (position > bytes.length) throw new Error('The message is cut off');
    }
    fields.set(number, [...(fields.get(number) ?? []), value]);
  }
  return fields;
}

const text = (field: Field | undefined): string => new TextDecoder().decode(field as Uint8Array);
const all = (message: Map<number, Field[]>, field: number): Field[] => message.get(field) ?? [];
const signed = (field: Field | undefined): number => Number(BigInt.asIntN(64, field as bigint));

export interface DecodedNode {
  opType: string;
  domain: string;
  name: string;
  inputs: string[];
  outputs: string[];
  attributes: Record<string, number>;
}

export interface DecodedInitializer {
  dtype: number;
  shape: number[];
  location: string;
  offset: number;
  length: number;
}

export interface DecodedModel {
  opsets: Record<string, number>;
  nodes: DecodedNode[];
  initializers: Map<string, DecodedInitializer>;
  inputs: string[];
  outputs: string[];
}

export function decodeModel(bytes: Uint8Array): DecodedModel {
  const model = decodeMessage(bytes);
  const graph = decodeMessage(model.get(7)![0] as Uint8Array);
  const opsets: Record<string, number> = {};
  for (const entry of all(model, 8)) {
    const opset = decodeMessage(entry as Uint8Array);
    opsets[text(opset.get(1)?.[0])] = signed(opset.get(2)?.[0]);
  }
  const names = (field: number): string[] =>
    all(graph, field).map((value) => text(decodeMessage(value as Uint8Array).get(1)?.[0]));
  return {
    opsets,
    nodes: all(graph, 1).map((node) => decodeNode(node as Uint8Array)),
    initializers: new Map(all(graph, 5).map((value) => decodeInitializer(value as Uint8Array))),
    inputs: names(11),
    outputs: names(12),
  };
}

function decodeNode(bytes: Uint8Array): DecodedNode {
  const node = decodeMessage(bytes);
  const attributes: Record<string, number> = {};
  for (const value of all(node, 5)) {
    const attribute = decodeMessage(value as Uint8Array);
    const float = attribute.get(2)?.[0] as Uint8Array | undefined;
    attributes[text(attribute.get(1)?.[0])] =
      float === undefined
        ? signed(attribute.get(3)?.[0])
        : new DataView(float.buffer, float.byteOffset, 4).getFloat32(0, true);
  }
  return {
    opType: text(node.get(4)?.[0]),
    domain: text(node.get(7)?.[0]),
    name: text(node.get(3)?.[0]),
    inputs: all(node, 1).map(text),
    outputs: all(node, 2).map(text),
    attributes,
  };
}

function decodeInitializer(bytes: Uint8Array): [string, DecodedInitializer] {
  const tensor = decodeMessage(bytes);
  const external = new Map(
    all(tensor, 13).map((value) => {
      const entry = decodeMessage(value as Uint8Array);
      return [text(entry.get(1)?.[0]), text(entry.get(2)?.[0])];
    }),
  );
  const initializer = {
    dtype: signed(tensor.get(2)?.[0]),
    shape: all(tensor, 1).map(signed),
    location: external.get('location') ?? '',
    offset: Number(external.get('offset')),
    length: Number(external.get('length')),
  };
  return [text(tensor.get(8)?.[0]), initializer];
}
