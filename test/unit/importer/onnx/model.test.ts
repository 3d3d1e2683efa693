import { describe, expect, it } from 'vitest';
import { ONNX_DTYPE, OnnxModelBuilder } from '../../../../src/importer/onnx/model.ts';
import { ProtobufWriter } from '../../../../src/importer/onnx/protobuf.ts';
import { decodeMessage, decodeModel } from './decode.ts';

describe('ProtobufWriter', () => {
  it('writes the bytes of the specification', () => {
    const bytes = new ProtobufWriter()
      .varint(1, 150)
      .string(2, 'testing')
      .varint(3, -1)
      .float(4, 1.5)
      .finish();
    expect(Buffer.from(bytes).toString('hex')).toBe(
      `089601120774657374696e6718${'ff'.repeat(9)}01250000c03f`,
    );
  });

  it('grows, nests and keeps 64-bit values', () => {
    const bytes = new ProtobufWriter()
      .message(1, (inner) => inner.string(1, 'x'.repeat(1_000)).varint(2, 2n ** 62n))
      .finish();
    const inner = decodeMessage(decodeMessage(bytes).get(1)![0] as Uint8Array);
    expect((inner.get(1)![0] as Uint8Array).length).toBe(1_000);
    expect(inner.get(2)).toEqual([2n ** 62n]);
  });
});

describe('OnnxModelBuilder', () => {
  const builder = () =>
    new OnnxModelBuilder({
      name: 'g',
      opsets: { '': 21, custom: 1 },
      inputs: [{ name: 'x', dtype: ONNX_DTYPE.FLOAT, shape: ['T', 4] }],
      outputs: [{ name: 'y', dtype: ONNX_DTYPE.FLOAT, shape: ['T', 2] }],
    });

  it('writes nodes, attributes and external initializers', () => {
    const onnx = builder();
    const w = onnx.externalTensor({
      name: 'w',
      dtype: ONNX_DTYPE.BFLOAT16,
      shape: [2, 4],
      location: 'a/model.safetensors',
      offset: 2 ** 40 + 1,
      length: 16,
    });
    onnx.node({
      opType: 'Op',
      domain: 'custom',
      name: 'n',
      inputs: ['x', '', w],
      outputs: ['y'],
      attributes: { axis: -1, alpha: { float: 0.5 } },
    });
    const model = decodeModel(onnx.build());
    expect(model.opsets).toEqual({ '': 21, custom: 1 });
    expect(model.inputs).toEqual(['x']);
    expect(model.outputs).toEqual(['y']);
    expect(model.nodes).toEqual([
      {
        opType: 'Op',
        domain: 'custom',
        name: 'n',
        inputs: ['x', '', 'w'],
        outputs: ['y'],
        attributes: { axis: -1, alpha: 0.5 },
      },
    ]);
    expect(model.initializers.get('w')).toEqual({
      dtype: ONNX_DTYPE.BFLOAT16,
      shape: [2, 4],
      location: 'a/model.safetensors',
      offset: 2 ** 40 + 1,
      length: 16,
    });
  });

  it('refuses graphs that are not well formed', () => {
    const node = { opType: 'Op', name: 'n', inputs: ['x'], outputs: ['y'] };
    expect(() => builder().node({ ...node, inputs: ['z'] })).toThrow('nothing defines');
    expect(() => builder().node({ ...node, outputs: ['x'] })).toThrow('defined twice');
    expect(() => builder().node({ ...node, domain: 'other' })).toThrow('without opset');
    expect(() => builder().build()).toThrow('not computed');
    const onnx = builder();
    onnx.node(node);
    expect(() => onnx.node({ ...node, outputs: ['z'] })).toThrow('exists already');
  });
});
