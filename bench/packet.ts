/** Step packets made by hand, for what requests cannot do: a decode step at any context at once. */
import type { StepPacket } from '../src/native/addon-types.ts';

/** One token of each sequence at the end of its context; every sequence has blocks of its own. */
export function decodePacket(
  contexts: readonly number[],
  blockSize: number,
  tokenId = 300,
): StepPacket {
  const count = contexts.length;
  const blocksOf = (length: number) => Math.ceil(length / blockSize);
  const columns = Math.max(...contexts.map(blocksOf));
  const blockTables = new Int32Array(count * columns).fill(-1);
  const slotMapping = new Int32Array(count);
  let first = 0;
  contexts.forEach((length, row) => {
    const blocks = blocksOf(length);
    for (let i = 0; i < blocks; i++) blockTables[row * columns + i] = first + i;
    const last = length - 1;
    slotMapping[row] = (first + Math.floor(last / blockSize)) * blockSize + (last % blockSize);
    first += blocks;
  });
  const rows = Int32Array.from({ length: count }, (_, row) => row);
  const positions = Int32Array.from(contexts, (length) => length - 1);
  return {
    numTokens: count,
    numSequences: count,
    numSegments: 1,
    numRows: count,
    maxBlocksPerSequence: columns,
    inputIds: new Int32Array(count).fill(tokenId),
    positions,
    ropeLengths: Int32Array.from(contexts),
    queryStart: Int32Array.from({ length: count + 1 }, (_, row) => row),
    contextLens: Int32Array.from(contexts),
    blockTables,
    slotMapping,
    blockCopies: new Int32Array(0),
    numBlockCopies: 0,
    segmentStart: Int32Array.of(0, count),
    segmentSlot: Int32Array.of(-1),
    segmentScale: Float32Array.of(1),
    logitRows: rows,
    sampling: {
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
      numTopLogprobs: new Int32Array(count).fill(0),
      historyStart: new Int32Array(count + 1),
      history: new Int32Array(0),
      historyPromptLength: new Int32Array(count),
      biasStart: new Int32Array(count + 1),
      biasIds: new Int32Array(0),
      biasValues: new Float32Array(0),
    },
  };
}
