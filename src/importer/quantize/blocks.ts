/**
 * Block-wise rounding to nearest of weight rows, in the layout of ONNX Runtime's MatMulNBits:
 * w = (q - zeroPoint) * scale, `groupSize` inputs per scale, 4-bit values packed low nibble first,
 * the last block padded with the zero point.
 */

export interface BlockQuantizerOptions {
  bits: 4 | 8;
  groupSize: number;
  symmetric: boolean;
  /** K, the length of a row. */
  inFeatures: number;
}

/** Rows quantized: R rows of K inputs in ceil(K / groupSize) blocks. */
export interface QuantizedRows {
  /** uint8 [R, blocks, groupSize * bits / 8]. */
  packed: Uint8Array;
  /** float32 [R, blocks]. */
  scales: Float32Array;
  /** uint8 [R, ceil(blocks * bits / 8)]; zeros when symmetric. */
  zeroPoints: Uint8Array;
}

/** Grid of one block: reused, so that quantizing allocates nothing per block. */
interface Grid {
  /** Already rounded to float32, as it is stored. */
  scale: number;
  zeroPoint: number;
}

/**
 * @param weights float32 [R, K], finite.
 */
export function quantizeRows(weights: Float32Array, options: BlockQuantizerOptions): QuantizedRows {
  const { bits, groupSize, symmetric, inFeatures } = options;
  const rows = weights.length / inFeatures;
  const blocks = Math.ceil(inFeatures / groupSize);
  const blockBytes = (groupSize * bits) / 8;
  const zeroPointBytes = Math.ceil((blocks * bits) / 8);
  const packed = new Uint8Array(rows * blocks * blockBytes);
  const scales = new Float32Array(rows * blocks);
  const zeroPoints = new Uint8Array(rows * zeroPointBytes);
  const levels = new Uint8Array(groupSize);
  const grid: Grid = { scale: 0, zeroPoint: 0 };
  const top = 2 ** bits - 1;

  for (let row = 0; row < rows; row++) {
    const rowBegin = row * inFeatures;
    const rowEnd = rowBegin + inFeatures;
    for (let block = 0; block < blocks; block++) {
      const begin = rowBegin + block * groupSize;
      const end = Math.min(begin + groupSize, rowEnd);
      if (symmetric) symmetricGrid(weights, begin, end, 2 ** (bits - 1), grid);
      else asymmetricGrid(weights, begin, end, top, grid);
      const index = row * blocks + block;
      scales[index] = grid.scale;
      roundBlock(weights, begin, end, grid, top, levels);
      pack(levels, bits, packed, index * blockBytes);
      if (!symmetric) {
        const offset = row * zeroPointBytes;
        if (bits === 8) zeroPoints[offset + block] = grid.zeroPoint;
        else zeroPoints[offset + (block >> 1)]! |= grid.zeroPoint << (4 * (block & 1));
      }
    }
  }
  return { packed, scales, zeroPoints };
}

/** The element of largest magnitude becomes level 0, whichever its sign: all levels are used. */
function symmetricGrid(
  weights: Float32Array,
  begin: number,
  end: number,
  middle: number,
  grid: Grid,
): void {
  let low = 0;
  let high = 0;
  for (let i = begin; i < end; i++) {
    const value = weights[i]!;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  grid.scale = Math.fround((high > -low ? high : low) / -middle);
  grid.zeroPoint = middle;
}

function asymmetricGrid(
  weights: Float32Array,
  begin: number,
  end: number,
  top: number,
  grid: Grid,
): void {
  let low = 0;
  let high = 0;
  for (let i = begin; i < end; i++) {
    const value = weights[i]!;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  grid.scale = Math.fround((high - low) / top);
  grid.zeroPoint = grid.scale === 0 ? 0 : Math.min(Math.round(-low / grid.scale), top);
}

/** levels = clamp(round(w / scale) + zeroPoint), padded with the zero point. */
function roundBlock(
  weights: Float32Array,
  begin: number,
  end: number,
  grid: Grid,
  top: number,
  levels: Uint8Array,
): void {
  const inverse = grid.scale === 0 ? 0 : 1 / grid.scale;
  // Truncation of what has 0.5 added rounds to nearest; what it does below 0 is clamped away.
  const offset = grid.zeroPoint + 0.5;
  for (let i = begin; i < end; i++) {
    const level = (weights[i]! * inverse + offset) | 0;
    levels[i - begin] = level < 0 ? 0 : Math.min(level, top);
  }
  for (let i = end - begin; i < levels.length; i++) levels[i] = grid.zeroPoint;
}

function pack(levels: Uint8Array, bits: 4 | 8, packed: Uint8Array, offset: number): void {
  if (bits === 8) {
    for (let i = 0; i < levels.length; i++) packed[offset + i] = levels[i]!;
    return;
  }
  for (let i = 0; i < levels.length; i += 2) {
    packed[offset + (i >> 1)] = levels[i]! | (levels[i + 1]! << 4);
  }
}
