/** Reads packed blobs back, written apart from the packer: kernels/include/loramux/packed_linear.h. */
import type { PackedSpec } from '../../src/importer/types.ts';

const COLUMNS = 16;

/** Float32 [rows, inputs] of a blob. */
export function unpackBlob(
  blob: Uint8Array,
  spec: PackedSpec,
  rows: number,
  inputs: number,
): Float32Array<ArrayBuffer> {
  if (spec.rotated) {
    const { rotated: _, ...levels } = spec;
    const depth = Math.ceil(inputs / 64) * 64;
    const turned = unpackBlob(blob, levels, rows, depth);
    const weights = new Float32Array(rows * inputs);
    for (let row = 0; row < rows; row++) {
      const back = rotate(turned.subarray(row * depth, (row + 1) * depth));
      weights.set(back.subarray(0, inputs), row * inputs);
    }
    return weights;
  }
  const { format, groupSize, zeroPoints } = spec;
  const view = new DataView(blob.buffer, blob.byteOffset, blob.byteLength);
  const panels = Math.ceil(rows / COLUMNS);
  const depth = Math.ceil(inputs / 64) * 64;
  const panelBytes = depth * COLUMNS * { bf16: 2, int8: 1, int4: 0.5 }[format];
  const groups = groupSize === 0 ? 0 : Math.ceil(depth / groupSize);
  const up = (value: number): number => Math.ceil(value / 64) * 64;
  const scalesAt = panels * panelBytes;
  const zerosAt = scalesAt + up(panels * groups * COLUMNS * 2);
  const columnsAt = zerosAt + (zeroPoints ? up(panels * groups * COLUMNS) : 0);

  const weights = new Float32Array(rows * inputs);
  for (let row = 0; row < rows; row++) {
    const panel = Math.floor(row / COLUMNS);
    const column = row % COLUMNS;
    for (let i = 0; i < inputs; i++) {
      const at = row * inputs + i;
      if (format === 'bf16') {
        const bits = view.getUint16(
          panel * panelBytes + ((i >> 1) * COLUMNS + column) * 4 + (i & 1) * 2,
          true,
        );
        weights[at] = new Float32Array(Uint32Array.of(bits << 16).buffer)[0]!;
        continue;
      }
      let level: number;
      let zero = 0;
      if (format === 'int8') {
        level = view.getInt8(panel * panelBytes + ((i >> 2) * COLUMNS + column) * 4 + (i & 3));
      } else {
        const byte = blob[panel * panelBytes + ((i >> 3) * COLUMNS + column) * 4 + (i & 3)]!;
        level = i % 8 < 4 ? byte & 15 : byte >> 4;
        zero = 8;
      }
      let scale = view.getFloat32(columnsAt + row * 4, true);
      if (groups > 0) {
        const cell = (panel * groups + Math.floor(i / groupSize)) * COLUMNS + column;
        scale *= halfToFloat(view.getUint16(scalesAt + cell * 2, true));
        if (zeroPoints) zero = view.getInt8(zerosAt + cell);
      }
      weights[at] = (level - zero) * scale;
    }
  }
  return weights;
}

/** Walsh-Hadamard transform over every fourth input of a block of 256, 128 or 64. */
function rotate(row: Float32Array): Float32Array {
  const out = new Float32Array(row.length);
  for (let at = 0, block = 256; at < row.length; at += block) {
    while (block > row.length - at) block /= 2;
    for (let i = 0; i < block; i++) {
      let sum = 0;
      for (let j = i % 4; j < block; j += 4) {
        let bits = (i >> 2) & (j >> 2);
        let sign = 1;
        for (; bits !== 0; bits &= bits - 1) sign = -sign;
        sum += sign * row[at + j]!;
      }
      out[at + i] = sum;
    }
  }
  return out;
}

export function halfToFloat(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const mantissa = bits & 1023;
  if (exponent === 31) return mantissa === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN;
  return exponent === 0
    ? sign * mantissa * 2 ** -24
    : sign * (1024 + mantissa) * 2 ** (exponent - 25);
}
