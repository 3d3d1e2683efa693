/**
 * Shared memory for adapter files: taken from the system once, as it is needed, and used again and
 * again. Shared array buffers of their own would not do: two isolates refer to each of them, an idle
 * thread never collects its garbage, and V8 does not count shared memory when it decides to.
 */

/** Largest shared buffer; typed arrays of this size work on every supported Node. */
export const SEGMENT_BYTES_MAX = 2 ** 30;
/** Regions begin and end on pages. */
export const REGION_ALIGNMENT_BYTES = 4096;

/** A place in shared memory, at least as large as was asked for. */
export interface HostRegion {
  readonly buffer: SharedArrayBuffer;
  readonly offset: number;
  /** A multiple of the alignment. */
  readonly bytes: number;
}

interface Gap {
  offset: number;
  bytes: number;
}

interface Segment {
  readonly buffer: SharedArrayBuffer;
  /** By offset; neighbours never touch. */
  readonly gaps: Gap[];
}

export interface HostMemoryOptions {
  readonly maxBytes: number;
  readonly segmentBytes?: number | undefined;
  /** Once, when the system refuses memory; what was taken before goes on being used. */
  readonly onRefused?: ((error: unknown) => void) | undefined;
}

export class HostMemory {
  readonly #options: HostMemoryOptions;
  readonly #segmentBytes: number;
  readonly #segments: Segment[] = [];
  #maxBytes: number;
  #reservedBytes = 0;
  #usedBytes = 0;

  constructor(options: HostMemoryOptions) {
    this.#options = options;
    this.#maxBytes = alignDown(options.maxBytes);
    this.#segmentBytes = alignDown(options.segmentBytes ?? SEGMENT_BYTES_MAX);
  }

  /** What the system gives at most; less than configured once it refused. */
  get maxBytes(): number {
    return this.#maxBytes;
  }

  /** Bytes of regions that are taken. */
  get usedBytes(): number {
    return this.#usedBytes;
  }

  /** Largest region there could ever be. */
  get regionBytesMax(): number {
    return Math.min(this.#maxBytes, this.#segmentBytes);
  }

  /** The smallest gap that is large enough; undefined when there is none. */
  take(bytes: number): HostRegion | undefined {
    const wanted = alignUp(bytes);
    if (wanted === 0 || wanted > this.regionBytesMax) return undefined;
    const found = this.#bestGap(wanted) ?? this.#grow(wanted);
    if (found === undefined) return undefined;
    const { segment, index } = found;
    const gap = segment.gaps[index]!;
    const region = { buffer: segment.buffer, offset: gap.offset, bytes: wanted };
    gap.offset += wanted;
    gap.bytes -= wanted;
    if (gap.bytes === 0) segment.gaps.splice(index, 1);
    this.#usedBytes += wanted;
    return region;
  }

  /** Takes a region back; nobody may read it any more. */
  give(region: HostRegion): void {
    const { gaps } = this.#segments.find(({ buffer }) => buffer === region.buffer)!;
    const { offset, bytes } = region;
    let index = gaps.findIndex((gap) => gap.offset > offset);
    if (index < 0) index = gaps.length;
    const before = gaps[index - 1];
    const after = gaps[index];
    const joinsBefore = before !== undefined && before.offset + before.bytes === offset;
    const joinsAfter = after !== undefined && offset + bytes === after.offset;
    if (joinsBefore) {
      before.bytes += bytes + (joinsAfter ? after.bytes : 0);
      if (joinsAfter) gaps.splice(index, 1);
    } else if (joinsAfter) {
      after.offset = offset;
      after.bytes += bytes;
    } else {
      gaps.splice(index, 0, { offset, bytes });
    }
    this.#usedBytes -= bytes;
  }

  #bestGap(wanted: number): { segment: Segment; index: number } | undefined {
    let best: { segment: Segment; index: number; bytes: number } | undefined;
    for (const segment of this.#segments) {
      for (const [index, { bytes }] of segment.gaps.entries()) {
        if (bytes >= wanted && (best === undefined || bytes < best.bytes)) {
          best = { segment, index, bytes };
        }
      }
    }
    return best;
  }

  /** One more segment, if the budget has room for the region in it. */
  #grow(wanted: number): { segment: Segment; index: number } | undefined {
    const bytes = Math.min(this.#segmentBytes, this.#maxBytes - this.#reservedBytes);
    if (bytes < wanted) return undefined;
    let buffer: SharedArrayBuffer;
    try {
      // Zero pages: nothing is backed before it is written.
      buffer = new SharedArrayBuffer(bytes);
    } catch (error) {
      this.#maxBytes = this.#reservedBytes;
      this.#options.onRefused?.(error);
      return undefined;
    }
    this.#reservedBytes += bytes;
    const segment = { buffer, gaps: [{ offset: 0, bytes }] };
    this.#segments.push(segment);
    return { segment, index: 0 };
  }
}

const alignUp = (bytes: number): number =>
  Math.ceil(bytes / REGION_ALIGNMENT_BYTES) * REGION_ALIGNMENT_BYTES;
const alignDown = (bytes: number): number =>
  Math.floor(bytes / REGION_ALIGNMENT_BYTES) * REGION_ALIGNMENT_BYTES;
