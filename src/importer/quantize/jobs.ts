/** What to do with each tensor of a checkpoint that is being quantized. */
import { LoramuxError } from '../../errors.ts';
import type { Checkpoint, CheckpointTensor } from '../checkpoint.ts';
import { type SafetensorsDtype, tensorBytes } from '../safetensors/header.ts';
import type { SafetensorsWriter, TensorSpec } from '../safetensors/writer.ts';
import type { ModelConfig, QuantizationConfig } from '../types.ts';
import {
  adaptableLinears,
  EMBEDDING,
  hasOwnLmHead,
  type LinearSpec,
  lmHeadLinear,
  quantizedTensors,
} from '../weights.ts';
import { quantizeRows } from './blocks.ts';
import { widenToFloat32 } from './widen.ts';

/** Weight bytes read at a time; bounds the memory whatever the model's size. */
export const CHUNK_BYTES = 8 * 1024 * 1024;

export interface Job {
  /** Tensors it writes, in order. */
  specs: TensorSpec[];
  sourceBytes: number;
  label: string;
  run(context: JobContext): Promise<void>;
}

export interface JobContext {
  writer: SafetensorsWriter;
  read(tensor: CheckpointTensor, offset: number, bytes: number): Promise<Buffer>;
}

/** One job per stored tensor, and one for a tied head that gets weights of its own. */
export function planJobs(
  config: ModelConfig,
  checkpoint: Checkpoint,
  quantization: QuantizationConfig,
): Job[] {
  const linears = adaptableLinears(config);
  const quantized = new Map<string, LinearSpec>();
  for (const spec of linears) quantized.set(`${spec.path}.weight`, spec);
  const jobs: Job[] = [];
  if (quantization.lmHead) {
    const head = lmHeadLinear(config);
    if (hasOwnLmHead(config, checkpoint.tensors)) quantized.set(`${head.path}.weight`, head);
    else {
      jobs.push(quantizeJob(head, checkpoint.tensors.get(EMBEDDING)!, quantization));
    }
  }
  for (const [name, tensor] of checkpoint.tensors) {
    const spec = quantized.get(name);
    jobs.push(spec === undefined ? copyJob(name, tensor) : quantizeJob(spec, tensor, quantization));
  }
  return jobs;
}

function copyJob(name: string, tensor: CheckpointTensor): Job {
  const bytes = sizeOf(tensor);
  return {
    specs: [{ name, dtype: tensor.dtype, shape: tensor.shape }],
    sourceBytes: bytes,
    label: name,
    async run({ writer, read }) {
      for (let offset = 0; offset < bytes; offset += CHUNK_BYTES) {
        await writer.write(await read(tensor, offset, Math.min(CHUNK_BYTES, bytes - offset)));
      }
    },
  };
}

/** Packed values are streamed; scales and zero points (small) follow when the matrix is done. */
function quantizeJob(
  spec: LinearSpec,
  tensor: CheckpointTensor,
  quantization: QuantizationConfig,
): Job {
  const { inFeatures, outFeatures } = spec;
  const specs = quantizedTensors(spec, quantization).map(({ name, shape, dtypes }) => ({
    name,
    dtype: dtypes[0] as SafetensorsDtype,
    shape,
  }));
  return {
    specs,
    sourceBytes: sizeOf(tensor),
    label: spec.path,
    async run({ writer, read }) {
      const rowBytes = tensorBytes(tensor.dtype, [inFeatures])!;
      const chunkRows = Math.min(outFeatures, Math.max(1, Math.floor(CHUNK_BYTES / rowBytes)));
      const weights = new Float32Array(chunkRows * inFeatures);
      const scales: Float32Array[] = [];
      const zeroPoints: Uint8Array[] = [];
      for (let first = 0; first < outFeatures; first += chunkRows) {
        const rows = Math.min(chunkRows, outFeatures - first);
        const chunk = weights.subarray(0, rows * inFeatures);
        const source = await read(tensor, first * rowBytes, rows * rowBytes);
        widenToFloat32(source, tensor.dtype, chunk);
        refuseNonFinite(chunk, spec.path);
        const quantized = quantizeRows(chunk, { ...quantization, inFeatures });
        await writer.write(quantized.packed);
        scales.push(quantized.scales);
        zeroPoints.push(quantized.zeroPoints);
      }
      for (const part of scales) {
        await writer.write(new Uint8Array(part.buffer, part.byteOffset, part.byteLength));
      }
      if (!quantization.symmetric) for (const part of zeroPoints) await writer.write(part);
    },
  };
}

function refuseNonFinite(weights: Float32Array, path: string): void {
  // x - x is 0 for every finite x and NaN for all others, and NaN stays in a sum.
  let check = 0;
  for (let i = 0; i < weights.length; i++) check += weights[i]! - weights[i]!;
  if (check === 0) return;
  throw new LoramuxError(
    'model_weights_invalid',
    `${path}.weight has NaN or infinite values; it cannot be quantized.`,
  );
}

export function sizeOf(tensor: CheckpointTensor): number {
  return tensor.end - tensor.begin;
}
