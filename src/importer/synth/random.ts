/** Fast seeded pseudo-random weights. */
import { createHash } from 'node:crypto';

/**
 * sfc32 (Chris Doty-Humphrey, PractRand): 128 bits of state, period at least 2^32, passes PractRand.
 */
export class Sfc32 {
  #a: number;
  #b: number;
  #c: number;
  #counter: number;

  /** @param seed any values; equal seeds give equal streams. */
  constructor(...seed: (string | number)[]) {
    const digest = createHash('sha256').update(JSON.stringify(seed)).digest();
    this.#a = digest.readInt32LE(0);
    this.#b = digest.readInt32LE(4);
    this.#c = digest.readInt32LE(8);
    this.#counter = 1;
  }

  /** Fills `out` with uniform 32-bit integers. */
  fill(out: Uint32Array): void {
    let a = this.#a;
    let b = this.#b;
    let c = this.#c;
    let counter = this.#counter;
    for (let i = 0; i < out.length; i++) {
      const t = (a + b + counter) | 0;
      counter = (counter + 1) | 0;
      a = b ^ (b >>> 9);
      b = (c + (c << 3)) | 0;
      c = (((c << 21) | (c >>> 11)) + t) | 0;
      out[i] = t;
    }
    this.#a = a;
    this.#b = b;
    this.#c = c;
    this.#counter = counter;
  }
}

export type SynthDtype = 'F32' | 'F16' | 'BF16';
export const SYNTH_DTYPE_BYTES: Record<SynthDtype, number> = { F32: 4, F16: 2, BF16: 2 };

/** Quantiles the normal distribution is drawn from: one per 16 random bits. */
const QUANTILES = 65_536;

/**
 * Generator of normally distributed elements of one dtype. Each element is one of 65,536 quantiles,
 * so a draw is a table look-up on 16 random bits: about 2 ns per element.
 */
export class NormalSource {
  readonly #random: Sfc32;
  readonly #table: Float32Array | Uint16Array;
  #words = new Uint32Array(0);

  constructor(random: Sfc32, dtype: SynthDtype, mean: number, std: number) {
    this.#random = random;
    this.#table = quantileTable(dtype, mean, std);
  }

  /** Fills `out` with as many whole elements as it holds; its length must be even in elements. */
  fill(out: Uint8Array): void {
    const table = this.#table;
    const count = out.byteLength / table.BYTES_PER_ELEMENT;
    const wordCount = Math.ceil(count / 2);
    if (this.#words.length < wordCount) this.#words = new Uint32Array(wordCount);
    const words = this.#words.subarray(0, wordCount);
    this.#random.fill(words);
    const halves = new Uint16Array(words.buffer, 0, count);
    const target =
      table instanceof Float32Array
        ? new Float32Array(out.buffer, out.byteOffset, count)
        : new Uint16Array(out.buffer, out.byteOffset, count);
    for (let i = 0; i < count; i++) target[i] = table[halves[i]!]!;
  }
}

/** Quantiles of the standard normal distribution; built on first use (512 KiB). */
let unitQuantiles: Float64Array | undefined;

function quantileTable(dtype: SynthDtype, mean: number, std: number): Float32Array | Uint16Array {
  unitQuantiles ??= Float64Array.from({ length: QUANTILES }, (_, i) =>
    normalQuantile((i + 0.5) / QUANTILES),
  );
  const values = new Float32Array(QUANTILES);
  for (let i = 0; i < QUANTILES; i++) values[i] = mean + std * unitQuantiles[i]!;
  if (dtype === 'F32') return values;
  const encode = dtype === 'BF16' ? floatToBf16 : floatToF16;
  return Uint16Array.from(values, encode);
}

/** Inverse of the normal distribution function; Acklam's rational approximation, error < 1.2e-9. */
export function normalQuantile(p: number): number {
  const low = 0.02425;
  if (p > 0.5) return -normalQuantile(1 - p);
  if (p < low) {
    const q = Math.sqrt(-2 * Math.log(p));
    return (
      (((((-7.784894002430293e-3 * q - 3.223964580411365e-1) * q - 2.400758277161838) * q -
        2.549732539343734) *
        q +
        4.374664141464968) *
        q +
        2.938163982698783) /
      ((((7.784695709041462e-3 * q + 3.224671290700398e-1) * q + 2.445134137142996) * q +
        3.754408661907416) *
        q +
        1)
    );
  }
  const q = p - 0.5;
  const r = q * q;
  return (
    ((((((-3.969683028665376e1 * r + 2.209460984245205e2) * r - 2.759285104469687e2) * r +
      1.38357751867269e2) *
      r -
      3.066479806614716e1) *
      r +
      2.506628277459239) *
      q) /
    (((((-5.447609879822406e1 * r + 1.615858368580409e2) * r - 1.556989798598866e2) * r +
      6.680131188771972e1) *
      r -
      1.328068155288572e1) *
      r +
      1)
  );
}

const scratchFloat = new Float32Array(1);
const scratchBits = new Uint32Array(scratchFloat.buffer);

/** Round to nearest, ties to even. NaN stays NaN. */
export function floatToBf16(value: number): number {
  scratchFloat[0] = value;
  const bits = scratchBits[0]!;
  if (Number.isNaN(value)) return 0x7fc0;
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}

/** Round to nearest, ties to even; beyond 65,504 becomes infinity. */
export function floatToF16(value: number): number {
  scratchFloat[0] = value;
  const bits = scratchBits[0]!;
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = Math.abs(scratchFloat[0]!);
  if (Number.isNaN(value)) return sign | 0x7e00;
  if (magnitude >= 65_520) return sign | 0x7c00;
  if (magnitude < 2 ** -14) return sign | roundHalfEven(magnitude * 2 ** 24);
  const exponent = ((bits >>> 23) & 0xff) - 127;
  // A mantissa that rounds up to 2048 carries into the exponent by plain addition.
  const mantissa = roundHalfEven(magnitude * 2 ** (10 - exponent));
  return sign | (((exponent + 15) << 10) + (mantissa - 1024));
}

function roundHalfEven(value: number): number {
  const floor = Math.floor(value);
  const rest = value - floor;
  if (rest !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}
