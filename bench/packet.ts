/** Step packets made by hand, for what requests cannot do. */
import type { StepPacket } from '../src/native/addon-types.ts';

/** Tokens of one sequence in a step. */
export interface Part {
  readonly tokens: readonly number[];
  /** Position of the first; what is before is in the cache. */
  readonly start: number;
  /** Its first physical block; the others follow. */
  readonly firstBlock: number;
}

/** One step without adapters; the last token of each part gives logits. */
export function stepPacket(parts: readonly Part[], blockSize: number): StepPacket {
  const count = parts.length;
  const end = ({ tokens, start }: Part) => start + tokens.length;
  const columns = Math.max(...parts.map((part) => Math.ceil(end(part) / blockSize)));
  const blockTables = new Int32Array(count * columns).fill(-1);
  const positions: number[] = [];
  const slots: number[] = [];
  const queryStart = [0];
  parts.forEach((part, row) => {
    const blocks = Math.ceil(end(part) / blockSize);
    for (let i = 0; i < blocks; i++) blockTables[row * columns + i] = part.firstBlock + i;
    for (let position = part.start; position < end(part); position++) {
      positions.push(position);
      slots.push(part.firstBlock * blockSize + position);
    }
    queryStart.push(positions.length);
  });
  const total = positions.length;
  return {
    numTokens: total,
    numSequences: count,
    numSegments: 1,
    numRows: count,
    maxBlocksPerSequence: columns,
    inputIds: Int32Array.from(parts.flatMap(({ tokens }) => tokens)),
    positions: Int32Array.from(positions),
    ropeLengths: Int32Array.from(positions, (position) => position + 1),
    queryStart: Int32Array.from(queryStart),
    contextLens: Int32Array.from(parts, end),
    blockTables,
    slotMapping: Int32Array.from(slots),
    blockCopies: new Int32Array(0),
    numBlockCopies: 0,
    segmentStart: Int32Array.of(0, total),
    segmentAdapterStart: Int32Array.of(0, 0),
    adapterSlot: new Int32Array(0),
    adapterScale: new Float32Array(0),
    logitRows: Int32Array.from(queryStart.slice(1), (next) => next - 1),
    sampling: greedy(count),
  };
}

function greedy(count: number): StepPacket['sampling'] {
  return {
    targetIds: new Int32Array(count).fill(-1),
    temperature: new Float32Array(count),
    topK: new Int32Array(count),
    topP: new Float32Array(count).fill(1),
    minP: new Float32Array(count),
    repetitionPenalty: new Float32Array(count).fill(1),
    presencePenalty: new Float32Array(count),
    frequencyPenalty: new Float32Array(count),
    seed: new Uint32Array(2 * count),
    sampleIndex: new Int32Array(count),
    numTopLogprobs: new Int32Array(count),
    historyStart: new Int32Array(count + 1),
    history: new Int32Array(0),
    historyPromptLength: new Int32Array(count),
    biasStart: new Int32Array(count + 1),
    biasIds: new Int32Array(0),
    biasValues: new Float32Array(0),
    maskSlots: new Int32Array(count).fill(-1),
    maskStamps: new Int32Array(count),
  };
}

/** One token of each sequence at the end of its context; every sequence has blocks of its own. */
export function decodePacket(
  contexts: readonly number[],
  blockSize: number,
  tokenId = 300,
): StepPacket {
  let firstBlock = 0;
  const parts = contexts.map((length): Part => {
    const part = { tokens: [tokenId], start: length - 1, firstBlock };
    firstBlock += Math.ceil(length / blockSize);
    return part;
  });
  return stepPacket(parts, blockSize);
}
