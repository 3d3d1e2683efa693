/**
 * Reader of safetensors headers: u64 little-endian header length N, N bytes of JSON, then data.
 * Format: huggingface/safetensors README, "Format". At least as strict as the reference reader:
 * tensors must tile the data section exactly, without holes, overlaps or trailing bytes.
 */
import { open } from 'node:fs/promises';
import { LoramuxError } from '../../errors.ts';
import { isJsonObject, type JsonObject, type JsonValue, parseJsonBytes } from '../json.ts';

/** The reference implementation's cap on the JSON header. */
export const MAX_SAFETENSORS_HEADER_BYTES = 100_000_000;
/** Dimensions of one tensor; real checkpoints use at most 5. */
export const MAX_SAFETENSORS_DIMENSIONS = 16;
const LENGTH_BYTES = 8;

/** Bits per element of every dtype the format knows. */
export const SAFETENSORS_DTYPE_BITS = {
  BOOL: 8,
  F4: 4,
  F6_E2M3: 6,
  F6_E3M2: 6,
  U8: 8,
  I8: 8,
  F8_E5M2: 8,
  F8_E4M3: 8,
  F8_E8M0: 8,
  F8_E4M3FNUZ: 8,
  F8_E5M2FNUZ: 8,
  I16: 16,
  U16: 16,
  F16: 16,
  BF16: 16,
  I32: 32,
  U32: 32,
  F32: 32,
  C64: 64,
  F64: 64,
  I64: 64,
  U64: 64,
} as const;
export type SafetensorsDtype = keyof typeof SAFETENSORS_DTYPE_BITS;

export interface SafetensorsTensor {
  dtype: SafetensorsDtype;
  shape: number[];
  /** Absolute byte offsets in the file, [begin, end). */
  begin: number;
  end: number;
}

export interface SafetensorsHeader {
  /** In the order of the header's JSON. */
  tensors: Map<string, SafetensorsTensor>;
  /** `__metadata__`, empty when absent. */
  metadata: Map<string, string>;
  /** Absolute offset of the data section. */
  dataStart: number;
  fileBytes: number;
}

export interface SafetensorsReadOptions {
  /** Largest accepted JSON header; default MAX_SAFETENSORS_HEADER_BYTES. */
  maxHeaderBytes?: number;
  /** Named in error messages. */
  label?: string;
}

/**
 * Reads and checks the header of the safetensors file at `path`; the data is not read.
 * @throws LoramuxError safetensors_invalid. File system errors (ENOENT, EIO) pass unchanged.
 */
export async function readSafetensorsHeader(
  path: string,
  options: SafetensorsReadOptions = {},
): Promise<SafetensorsHeader> {
  const label = options.label ?? path;
  const file = await open(path, 'r');
  try {
    const stat = await file.stat();
    if (!stat.isFile()) throw invalid(label, 'it is not a regular file');
    const prefix = Buffer.alloc(Math.min(LENGTH_BYTES, stat.size));
    await file.read(prefix, 0, prefix.length, 0);
    const headerBytes = headerLength(prefix, stat.size, { ...options, label });
    const buffer = Buffer.alloc(LENGTH_BYTES + headerBytes);
    let filled = 0;
    while (filled < buffer.length) {
      const { bytesRead } = await file.read(buffer, filled, buffer.length - filled, filled);
      if (bytesRead === 0) throw invalid(label, 'it was cut off while it was read');
      filled += bytesRead;
    }
    return parseSafetensorsHeader(buffer, stat.size, { ...options, label });
  } finally {
    await file.close();
  }
}

/**
 * Parses the beginning of a safetensors file.
 * @param buffer the first bytes of the file: at least the length field and the whole header.
 * @param fileBytes size of the whole file.
 * @throws LoramuxError safetensors_invalid
 */
export function parseSafetensorsHeader(
  buffer: Uint8Array,
  fileBytes: number,
  options: SafetensorsReadOptions = {},
): SafetensorsHeader {
  const label = options.label ?? 'The safetensors file';
  const headerBytes = headerLength(buffer, fileBytes, { ...options, label });
  const dataStart = LENGTH_BYTES + headerBytes;
  if (buffer.length < dataStart) throw invalid(label, 'its header was not read completely');
  const bytes = buffer.subarray(LENGTH_BYTES, dataStart);
  if (bytes[0] !== 0x7b) throw invalid(label, 'its header does not begin with "{"');

  let json: JsonValue;
  try {
    json = parseJsonBytes(bytes);
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw invalid(label, `its header is not valid JSON (${reason})`, cause);
  }
  if (!isJsonObject(json)) throw invalid(label, 'its header is not a JSON object');

  const tensors = new Map<string, SafetensorsTensor>();
  let metadata = new Map<string, string>();
  for (const [name, entry] of Object.entries(json)) {
    if (name === '__metadata__') metadata = parseMetadata(entry, label);
    else tensors.set(name, parseTensor(name, entry, dataStart, label));
  }
  checkTiling(tensors, dataStart, fileBytes, label);
  return { tensors, metadata, dataStart, fileBytes };
}

/**
 * Bytes of a tensor, or undefined when the product overflows or is not a whole number of bytes.
 */
export function tensorBytes(dtype: SafetensorsDtype, shape: readonly number[]): number | undefined {
  let bits: number = SAFETENSORS_DTYPE_BITS[dtype];
  for (const dimension of shape) {
    bits *= dimension;
    if (!Number.isSafeInteger(bits)) return undefined;
  }
  return bits % 8 === 0 ? bits / 8 : undefined;
}

function headerLength(
  prefix: Uint8Array,
  fileBytes: number,
  options: SafetensorsReadOptions & { label: string },
): number {
  const { label } = options;
  if (prefix.length < LENGTH_BYTES || fileBytes < LENGTH_BYTES) {
    throw invalid(label, `it has ${fileBytes} bytes, fewer than the ${LENGTH_BYTES} of its length`);
  }
  const view = new DataView(prefix.buffer, prefix.byteOffset, LENGTH_BYTES);
  const length = view.getBigUint64(0, true);
  const max = options.maxHeaderBytes ?? MAX_SAFETENSORS_HEADER_BYTES;
  if (length > BigInt(max)) {
    throw invalid(label, `its header claims ${length} bytes, the limit is ${max}`);
  }
  if (length < 2n) throw invalid(label, `its header claims ${length} bytes`);
  if (length > BigInt(fileBytes - LENGTH_BYTES)) {
    throw invalid(label, `its header claims ${length} bytes but the file has ${fileBytes}`);
  }
  return Number(length);
}

function parseMetadata(entry: JsonValue, label: string): Map<string, string> {
  if (!isJsonObject(entry)) throw invalid(label, '__metadata__ is not an object');
  const metadata = new Map<string, string>();
  for (const [key, value] of Object.entries(entry)) {
    if (typeof value !== 'string') {
      throw invalid(label, `__metadata__ key ${quote(key)} is not a string`);
    }
    metadata.set(key, value);
  }
  return metadata;
}

function parseTensor(
  name: string,
  entry: JsonValue,
  dataStart: number,
  label: string,
): SafetensorsTensor {
  if (!isJsonObject(entry)) throw invalid(label, `tensor ${quote(name)} is not an object`);
  for (const key of Object.keys(entry)) {
    if (key !== 'dtype' && key !== 'shape' && key !== 'data_offsets') {
      throw invalid(label, `tensor ${quote(name)} has an unknown field ${quote(key)}`);
    }
  }
  const dtype = entry.dtype;
  if (typeof dtype !== 'string' || !Object.hasOwn(SAFETENSORS_DTYPE_BITS, dtype)) {
    throw invalid(label, `tensor ${quote(name)} has an unknown dtype ${quote(String(dtype))}`);
  }
  const shape = parseShape(name, entry, label);
  const offsets = entry.data_offsets;
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isCount)) {
    throw invalid(label, `tensor ${quote(name)} has malformed data_offsets`);
  }
  const [begin, end] = offsets as [number, number];
  const bytes = tensorBytes(dtype as SafetensorsDtype, shape);
  if (bytes === undefined) {
    throw invalid(label, `tensor ${quote(name)} has an impossible size [${shape.join(', ')}]`);
  }
  if (end - begin !== bytes) {
    throw invalid(
      label,
      `tensor ${quote(name)} takes ${end - begin} bytes, its shape and dtype need ${bytes}`,
    );
  }
  return {
    dtype: dtype as SafetensorsDtype,
    shape,
    begin: dataStart + begin,
    end: dataStart + end,
  };
}

function parseShape(name: string, entry: JsonObject, label: string): number[] {
  const shape = entry.shape;
  if (!Array.isArray(shape) || !shape.every(isCount)) {
    throw invalid(label, `tensor ${quote(name)} has a malformed shape`);
  }
  if (shape.length > MAX_SAFETENSORS_DIMENSIONS) {
    throw invalid(
      label,
      `tensor ${quote(name)} has ${shape.length} dimensions, the limit is ${MAX_SAFETENSORS_DIMENSIONS}`,
    );
  }
  return shape as number[];
}

/** Tensors, sorted by offset, must cover [dataStart, fileBytes) without holes or overlaps. */
function checkTiling(
  tensors: ReadonlyMap<string, SafetensorsTensor>,
  dataStart: number,
  fileBytes: number,
  label: string,
): void {
  const sorted = [...tensors].sort(([, a], [, b]) => a.begin - b.begin || a.end - b.end);
  let position = dataStart;
  for (const [name, tensor] of sorted) {
    if (tensor.begin !== position) {
      const what = tensor.begin < position ? 'overlaps the tensor before it' : 'leaves a hole';
      throw invalid(label, `tensor ${quote(name)} ${what} at offset ${tensor.begin - dataStart}`);
    }
    position = tensor.end;
  }
  if (position !== fileBytes) {
    throw invalid(
      label,
      `its tensors end at byte ${position} but the file has ${fileBytes} bytes` +
        (position > fileBytes ? ' (it is truncated)' : ' (it has trailing bytes)'),
    );
  }
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

/** A name from the file as it may appear in a message: quoted, escaped, bounded. */
function quote(name: string): string {
  return JSON.stringify(name.length > 200 ? `${name.slice(0, 200)}...` : name);
}

function invalid(label: string, what: string, cause?: unknown): LoramuxError {
  return new LoramuxError(
    'safetensors_invalid',
    `${label} is not a valid safetensors file: ${what}.`,
    cause === undefined ? {} : { cause },
  );
}
