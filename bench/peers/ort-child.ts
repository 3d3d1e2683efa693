/**
 * ONNX Runtime's MatMulNBits as a peer process (peer-process.ts): a chain of square int4 products,
 * 128 weights to a scale, activations rounded to int8, as many of them as caches cannot hold.
 */
import { mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { InferenceSession, Tensor } from 'onnxruntime-node';
import { ONNX_DTYPE, OnnxModelBuilder } from '../../src/importer/onnx/model.ts';

interface Load {
  readonly folder: string;
  readonly size: number;
  readonly layers: number;
  readonly group: number;
  readonly threads: number;
}

const CONTRIB = 'com.microsoft';
const ACCURACY_INT8 = 4;
const ONNX_OPSET = 21;

let session: InferenceSession | undefined;
let width = 0;

/** Random levels, and a scale that keeps the size of activations. */
async function writeModel({ folder, size, layers, group }: Load): Promise<string> {
  const blocks = size / group;
  const weightBytes = (size * size) / 2;
  const scaleBytes = size * blocks * 4;
  const data = new Uint8Array(weightBytes + scaleBytes);
  let state = 1;
  for (let i = 0; i < weightBytes; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    data[i] = state >>> 24;
  }
  new Float32Array(data.buffer, weightBytes).fill(1 / (4.6 * Math.sqrt(size)));
  await mkdir(folder, { recursive: true });
  const builder = new OnnxModelBuilder({
    name: 'chain',
    opsets: { '': ONNX_OPSET, [CONTRIB]: 1 },
    inputs: [{ name: 'x0', dtype: ONNX_DTYPE.FLOAT, shape: ['T', size] }],
    outputs: [{ name: `x${layers}`, dtype: ONNX_DTYPE.FLOAT, shape: ['T', size] }],
  });
  for (let i = 0; i < layers; i++) {
    const location = `w${i}.bin`;
    await writeFile(path.join(folder, location), data);
    const weight = builder.externalTensor({
      name: `w${i}`,
      dtype: ONNX_DTYPE.UINT8,
      shape: [size, blocks, group / 2],
      ...{ location, offset: 0, length: weightBytes },
    });
    const scale = builder.externalTensor({
      name: `s${i}`,
      dtype: ONNX_DTYPE.FLOAT,
      shape: [size, blocks],
      ...{ location, offset: weightBytes, length: scaleBytes },
    });
    builder.node({
      opType: 'MatMulNBits',
      domain: CONTRIB,
      name: `n${i}`,
      inputs: [`x${i}`, weight, scale],
      outputs: [`x${i + 1}`],
      attributes: {
        K: size,
        N: size,
        bits: 4,
        block_size: group,
        accuracy_level: ACCURACY_INT8,
      },
    });
  }
  const file = path.join(folder, 'model.onnx');
  await writeFile(file, builder.build());
  return file;
}

async function load(options: Load): Promise<object> {
  const file = await writeModel(options);
  session = await InferenceSession.create(file, { intraOpNumThreads: options.threads });
  width = options.size;
  return { loaded: true };
}

async function time({ rows, runs }: { rows: number; runs: number }): Promise<object> {
  if (session === undefined) throw new Error('no model is loaded');
  const values = Float32Array.from({ length: rows * width }, (_, i) => Math.sin(i));
  const x = new Tensor('float32', values, [rows, width]);
  const ms: number[] = [];
  for (let run = 0; run < runs; run++) {
    const start = performance.now();
    await session.run({ x0: x });
    ms.push(performance.now() - start);
  }
  return { ms };
}

for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line) as { op: string };
  const reply = await (request.op === 'load'
    ? load(request as unknown as Load)
    : time(request as unknown as { rows: number; runs: number })
  ).catch((error: unknown) => ({ error: String(error) }));
  console.log(JSON.stringify(reply));
}
process.exit(0);
