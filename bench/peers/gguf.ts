/**
 * Writing GGUF version 3 files, and the block formats of llama.cpp that are compared with ours.
 * Source: ggml's docs/gguf.md, and `quantize_row_q8_0_ref` and `quantize_row_q4_0_ref` of ggml.
 */
import { type FileHandle, open } from 'node:fs/promises';

/** ggml's tensor types. */
export const GGML_TYPE = { F32: 0, F16: 1, Q4_0: 2, Q8_0: 8 } as const;
export type GgmlType = keyof typeof GGML_TYPE;

/** Weights in one block of a quantized type. */
export const BLOCK = 32;
/** Bytes of a block of 32 weights. */
const BLOCK_BYTES: Record<GgmlType, number> = { F32: 128, F16: 64, Q4_0: 18, Q8_0: 34 };
const ALIGNMENT = 32;
const VERSION = 3;

export type GgufValue =
  | { readonly type: 'u32' | 'f32'; readonly value: number }
  | { readonly type: 'string'; readonly value: string };

export interface GgufTensor {
  readonly name: string;
  readonly type: GgmlType;
  /** Row-major shape as others write it, [rows, columns]; the file has it backwards. */
  readonly shape: readonly number[];
}

/** Bytes of a tensor; its last dimension must fill whole blocks when it is quantized. */
export function ggufBytes({ type, shape }: GgufTensor): number {
  const elements = shape.reduce((product, size) => product * size, 1);
  const quantized = type === 'Q4_0' || type === 'Q8_0';
  if (quantized && shape.at(-1)! % BLOCK !== 0) {
    throw new RangeError(`rows of ${shape.at(-1)} do not fill blocks of ${BLOCK}`);
  }
  return (elements / BLOCK) * BLOCK_BYTES[type];
}

const align = (bytes: number) => Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;

function text(value: string): Buffer {
  const bytes = Buffer.from(value);
  return Buffer.concat([number64(bytes.length), bytes]);
}

function number64(value: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
}

function number32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}

/** Numbers of GGUF's metadata value types. */
const VALUE_TYPE = { u32: 4, f32: 6, string: 8 } as const;

function encodeValue(entry: GgufValue): Buffer {
  if (entry.type === 'string') return text(entry.value);
  if (entry.type === 'u32') return number32(entry.value);
  const bytes = Buffer.alloc(4);
  bytes.writeFloatLE(entry.value);
  return bytes;
}

/** Everything before the tensors' data. */
export function ggufHeader(
  metadata: Readonly<Record<string, GgufValue>>,
  tensors: readonly GgufTensor[],
): Buffer {
  const parts = [
    Buffer.from('GGUF'),
    number32(VERSION),
    number64(tensors.length),
    number64(Object.keys(metadata).length),
  ];
  for (const [key, entry] of Object.entries(metadata)) {
    parts.push(text(key), number32(VALUE_TYPE[entry.type]), encodeValue(entry));
  }
  let offset = 0;
  for (const tensor of tensors) {
    parts.push(text(tensor.name), number32(tensor.shape.length));
    for (const size of tensor.shape.toReversed()) parts.push(number64(size));
    parts.push(number32(GGML_TYPE[tensor.type]), number64(offset));
    offset += align(ggufBytes(tensor));
  }
  const header = Buffer.concat(parts);
  return Buffer.concat([header, Buffer.alloc(align(header.length) - header.length)]);
}

/** Writes a file tensor by tensor, in the order of the header. */
export class GgufWriter {
  readonly #file: FileHandle;
  readonly #tensors: readonly GgufTensor[];
  #next = 0;

  private constructor(file: FileHandle, tensors: readonly GgufTensor[]) {
    this.#file = file;
    this.#tensors = tensors;
  }

  static async create(
    path: string,
    metadata: Readonly<Record<string, GgufValue>>,
    tensors: readonly GgufTensor[],
  ): Promise<GgufWriter> {
    const file = await open(path, 'w');
    await file.write(ggufHeader(metadata, tensors));
    return new GgufWriter(file, tensors);
  }

  /** The data of the next tensor, from its float32 values. */
  async write(values: Float32Array): Promise<void> {
    const tensor = this.#tensors[this.#next++]!;
    const bytes = encode(values, tensor.type);
    if (bytes.byteLength !== ggufBytes(tensor)) throw new RangeError(`${tensor.name}: wrong size`);
    await this.#file.write(bytes);
    await this.#file.write(Buffer.alloc(align(bytes.byteLength) - bytes.byteLength));
  }

  async close(): Promise<void> {
    if (this.#next !== this.#tensors.length) throw new Error('tensors are missing');
    await this.#file.close();
  }
}

/** float32 values in a ggml type. */
export function encode(values: Float32Array, type: GgmlType): Uint8Array {
  if (type === 'F32') return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  if (type === 'F16') return new Uint8Array(Uint16Array.from(values, toHalf).buffer);
  return type === 'Q8_0' ? encodeQ8(values) : encodeQ4(values);
}

/** Q8_0: per block a float16 scale, then 32 int8: largest magnitude / 127. */
function encodeQ8(values: Float32Array): Uint8Array {
  const blocks = values.length / BLOCK;
  const out = new Uint8Array(blocks * BLOCK_BYTES.Q8_0);
  for (let b = 0; b < blocks; b++) {
    let largest = 0;
    for (let i = b * BLOCK; i < (b + 1) * BLOCK; i++) {
      largest = Math.max(largest, Math.abs(values[i]!));
    }
    const scale = Math.fround(largest / 127);
    const inverse = scale === 0 ? 0 : 1 / scale;
    const at = b * BLOCK_BYTES.Q8_0;
    const half = toHalf(scale);
    out[at] = half & 255;
    out[at + 1] = half >> 8;
    for (let i = 0; i < BLOCK; i++) out[at + 2 + i] = Math.round(values[b * BLOCK + i]! * inverse);
  }
  return out;
}

/** Q4_0: per block a float16 scale, then 16 bytes with weight j low and weight j + 16 high. */
function encodeQ4(values: Float32Array): Uint8Array {
  const blocks = values.length / BLOCK;
  const out = new Uint8Array(blocks * BLOCK_BYTES.Q4_0);
  for (let b = 0; b < blocks; b++) {
    let extreme = 0;
    for (let i = b * BLOCK; i < (b + 1) * BLOCK; i++) {
      if (Math.abs(values[i]!) > Math.abs(extreme)) extreme = values[i]!;
    }
    const scale = Math.fround(extreme / -8);
    const inverse = scale === 0 ? 0 : 1 / scale;
    const level = (i: number) => Math.min(15, Math.trunc(values[b * BLOCK + i]! * inverse + 8.5));
    const at = b * BLOCK_BYTES.Q4_0;
    const half = toHalf(scale);
    out[at] = half & 255;
    out[at + 1] = half >> 8;
    for (let i = 0; i < BLOCK / 2; i++) out[at + 2 + i] = level(i) | (level(i + 16) << 4);
  }
  return out;
}

const floatBits = new Uint32Array(1);
const floatValue = new Float32Array(floatBits.buffer);

/** float16 bits, rounded to nearest, ties to even; beyond its range infinity. */
export function toHalf(value: number): number {
  floatValue[0] = value;
  const bits = floatBits[0]!;
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude >= 0x47800000) return sign | (magnitude > 0x7f800000 ? 0x7e00 : 0x7c00);
  if (magnitude < 0x38800000) {
    // Below the smallest normal: units of 2^-24.
    const units = Math.abs(floatValue[0]!) * 2 ** 24;
    const floor = Math.floor(units);
    const up = units - floor > 0.5 || (units - floor === 0.5 && floor % 2 === 1);
    return sign | (floor + (up ? 1 : 0));
  }
  return sign | ((magnitude - 0x38000000 + 0xfff + ((magnitude >>> 13) & 1)) >>> 13);
}
