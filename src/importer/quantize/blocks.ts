/**
 * Block-wise rounding to nearest of one row of a weight matrix, in the layout of ONNX Runtime's
 * MatMulNBits: w = (q - zeroPoint) * scale, `groupSize` inputs per scale, 4-bit values packed low
 * nibble first, the last block padded with the zero point.
 */

export interface RowQuantizer {
  /** Bytes of one row of packed values: ceil(K / groupSize) * groupSize * bits / 8. */
  readonly packedBytes: number;
  /** Blocks, and scales, of one row. */
  readonly blocks: number;
  /** Bytes of one row of packed zero points: ceil(blocks * bits / 8). */
  readonly zeroPointBytes: number;
  /**
   * @param row float32 [K].
   * @param packed uint8 [packedBytes], written.
   * @param scales float32 [blocks], written.
   * @param zeroPoints uint8 [zeroPointBytes], written when asymmetric.
   */
  quantize(
    row: Float32Array,
    packed: Uint8Array,
    scales: Float32Array,
    zeroPoints: Uint8Array,
  ): void;
}

export interface RowQuantizerOptions {
  bits: 4 | 8;
  groupSize: number;
  symmetric: boolean;
  inFeatures: number;
}

/** One quantizer serves all rows of a matrix. */
export function createRowQuantizer(options: RowQuantizerOptions): RowQuantizer {
  const { bits, groupSize, symmetric, inFeatures } = options;
  const blocks = Math.ceil(inFeatures / groupSize);
  const levels = 2 ** bits - 1;
  const middle = 2 ** (bits - 1);
  const values = new Uint8Array(groupSize);

  return {
    blocks,
    packedBytes: (blocks * groupSize * bits) / 8,
    zeroPointBytes: Math.ceil((blocks * bits) / 8),
    quantize(row, packed, scales, zeroPoints) {
      if (!symmetric) zeroPoints.fill(0);
      for (let block = 0; block < blocks; block++) {
        const begin = block * groupSize;
        const end = Math.min(begin + groupSize, inFeatures);
        const grid = symmetric
          ? symmetricGrid(row, begin, end, middle)
          : asymmetricGrid(row, begin, end, levels);
        scales[block] = grid.scale;
        const inverse = grid.scale === 0 ? 0 : 1 / grid.scale;
        values.fill(grid.zeroPoint);
        for (let i = begin; i < end; i++) {
          const level = Math.round(row[i]! * inverse) + grid.zeroPoint;
          values[i - begin] = level < 0 ? 0 : Math.min(level, levels);
        }
        pack(values, bits, packed, (block * groupSize * bits) / 8);
        if (!symmetric) putZeroPoint(zeroPoints, block, grid.zeroPoint, bits);
      }
    },
  };
}

interface Grid {
  /** Already rounded to float32, as it is stored. */
  scale: number;
  zeroPoint: number;
}

/** The element of largest magnitude becomes level 0, whichever its sign: all levels are used. */
function symmetricGrid(row: Float32Array, begin: number, end: number, middle: number): Grid {
  let extreme = 0;
  let magnitude = 0;
  for (let i = begin; i < end; i++) {
    const value = row[i]!;
    const size = value < 0 ? -value : value;
    if (size > magnitude) {
      magnitude = size;
      extreme = value;
    }
  }
  return { scale: Math.fround(extreme / -middle), zeroPoint: middle };
}

function asymmetricGrid(row: Float32Array, begin: number, end: number, levels: number): Grid {
  let low = 0;
  let high = 0;
  for (let i = begin; i < end; i++) {
    const value = row[i]!;
    if (value < low) low = value;
    else if (value > high) high = value;
  }
  const scale = Math.fround((high - low) / levels);
  const zeroPoint = scale === 0 ? 0 : Math.round(-low / scale);
  return { scale, zeroPoint: Math.min(Math.max(zeroPoint, 0), levels) };
}

function pack(values: Uint8Array, bits: 4 | 8, packed: Uint8Array, offset: number): void {
  if (bits === 8) {
    packed.set(values, offset);
    return;
  }
  for (let i = 0; i < values.length; i += 2) {
    packed[offset + (i >> 1)] = values[i]! | (values[i + 1]! << 4);
  }
}

function putZeroPoint(zeroPoints: Uint8Array, block: number, value: number, bits: 4 | 8): void {
  if (bits === 8) zeroPoints[block] = value;
  else zeroPoints[block >> 1]! |= value << (4 * (block & 1));
}
