/** Step packets that only score: one sequence, all rows wanted, nothing sampled. */
import type { SamplingArrays, StepPacket } from '../../native/addon-types.ts';

/** Part of a sequence, as the native session takes it. */
export interface ScoreChunk {
  /** int32 [T] of the whole sequence. */
  tokenIds: Int32Array;
  /** First token of the chunk; those before are in the cache. */
  start: number;
  count: number;
  /** First token of the chunk whose logits are wanted, `start` or later. */
  rowsFrom: number;
  blockSize: number;
}

/** The sequence lies in physical blocks 0, 1, 2 and so on. Base model, no adapter. */
export function scorePacket(chunk: ScoreChunk): StepPacket {
  const { tokenIds, start, count, rowsFrom, blockSize } = chunk;
  const end = start + count;
  const numRows = end - rowsFrom;
  const blocks = Math.ceil(end / blockSize);
  const positions = Int32Array.from({ length: count }, (_, i) => start + i);
  return {
    numTokens: count,
    numSequences: 1,
    numSegments: 1,
    numRows,
    maxBlocksPerSequence: blocks,
    inputIds: tokenIds.slice(start, end),
    positions,
    // As of a prompt: every token is roped for the whole of it.
    ropeLengths: new Int32Array(count).fill(tokenIds.length),
    queryStart: Int32Array.of(0, count),
    contextLens: Int32Array.of(end),
    blockTables: Int32Array.from({ length: blocks }, (_, i) => i),
    slotMapping: positions,
    blockCopies: new Int32Array(0),
    numBlockCopies: 0,
    segmentStart: Int32Array.of(0, count),
    segmentAdapterStart: Int32Array.of(0, 0),
    adapterSlot: new Int32Array(0),
    adapterScale: new Float32Array(0),
    logitRows: Int32Array.from({ length: numRows }, (_, i) => rowsFrom - start + i),
    sampling: greedy(numRows),
  };
}

/** Sampling settings with everything off. */
function greedy(rows: number): SamplingArrays {
  const none = () => new Int32Array(rows + 1);
  return {
    targetIds: new Int32Array(rows).fill(-1),
    temperature: new Float32Array(rows),
    topK: new Int32Array(rows),
    topP: new Float32Array(rows).fill(1),
    minP: new Float32Array(rows),
    repetitionPenalty: new Float32Array(rows).fill(1),
    presencePenalty: new Float32Array(rows),
    frequencyPenalty: new Float32Array(rows),
    seed: new Uint32Array(rows * 2),
    sampleIndex: new Int32Array(rows),
    numTopLogprobs: new Int32Array(rows),
    historyStart: none(),
    history: new Int32Array(0),
    historyPromptLength: new Int32Array(rows),
    biasStart: none(),
    biasIds: new Int32Array(0),
    biasValues: new Float32Array(0),
    maskSlots: new Int32Array(rows).fill(-1),
    maskStamps: new Int32Array(rows),
  };
}
