/** Builds step packets by hand for tests of the native session, without engine or scheduler. */
import type { SamplingArrays, StepPacket } from '../../src/native/addon-types.ts';

export const BLOCK_SIZE = 16;

/** What one row asks of the sampler; greedy when empty. */
export interface RowSpec {
  targetId?: number;
  temperature?: number;
  topK?: number;
  topP?: number;
  minP?: number;
  repetitionPenalty?: number;
  presencePenalty?: number;
  frequencyPenalty?: number;
  seed?: bigint;
  sampleIndex?: number;
  numTopLogprobs?: number;
  history?: number[];
  historyPromptLength?: number;
  bias?: [id: number, value: number][];
  mask?: { slot: number; stamp: number };
}

/** One sequence's part of a step. */
export interface ChunkSpec {
  tokens: number[];
  /** Tokens already in the cache. */
  cached: number;
  /** Physical blocks of the sequence, enough for cached + tokens. */
  blocks: number[];
  /** Adapter slot, -1 for the base. */
  slot?: number;
  scale?: number;
  /** Several slots with their scales, instead of one. */
  adapters?: readonly (readonly [slot: number, scale: number])[];
  /** Length for dynamic rope; default is each token's position + 1. */
  ropeLength?: number;
  /** Rows within the chunk whose logits are wanted; default is the last token. */
  rows?: { at: number; row?: RowSpec }[];
}

/** Packs chunks in the given order; neighbours with the same slots and scales share a segment. */
export function packStep(chunks: ChunkSpec[], blockCopies: [number, number][] = []): StepPacket {
  const inputIds: number[] = [];
  const positions: number[] = [];
  const ropeLengths: number[] = [];
  const queryStart = [0];
  const contextLens: number[] = [];
  const slotMapping: number[] = [];
  const segments: { start: number; adapters: NonNullable<ChunkSpec['adapters']> }[] = [];
  const logitRows: number[] = [];
  const rows: RowSpec[] = [];
  const maxBlocks = Math.max(...chunks.map((chunk) => chunk.blocks.length));
  const blockTables: number[] = [];
  for (const chunk of chunks) {
    const start = inputIds.length;
    const { slot = -1, scale = 1 } = chunk;
    const adapters = chunk.adapters ?? (slot < 0 ? [] : [[slot, scale] as const]);
    const last = segments.at(-1);
    if (String(last?.adapters) !== String(adapters)) segments.push({ start, adapters });
    for (const [i, token] of chunk.tokens.entries()) {
      const place = chunk.cached + i;
      inputIds.push(token);
      positions.push(place);
      ropeLengths.push(chunk.ropeLength ?? place + 1);
      const block = chunk.blocks[Math.floor(place / BLOCK_SIZE)] ?? -1;
      slotMapping.push(block * BLOCK_SIZE + (place % BLOCK_SIZE));
    }
    for (const { at, row } of chunk.rows ?? [{ at: chunk.tokens.length - 1 }]) {
      logitRows.push(start + at);
      rows.push(row ?? {});
    }
    queryStart.push(inputIds.length);
    contextLens.push(chunk.cached + chunk.tokens.length);
    blockTables.push(...chunk.blocks, ...Array(maxBlocks - chunk.blocks.length).fill(-1));
  }
  const entries = segments.flatMap((s) => s.adapters);
  return {
    numTokens: inputIds.length,
    numSequences: chunks.length,
    numSegments: segments.length,
    numRows: rows.length,
    maxBlocksPerSequence: maxBlocks,
    numBlockCopies: blockCopies.length,
    inputIds: Int32Array.from(inputIds),
    positions: Int32Array.from(positions),
    ropeLengths: Int32Array.from(ropeLengths),
    queryStart: Int32Array.from(queryStart),
    contextLens: Int32Array.from(contextLens),
    blockTables: Int32Array.from(blockTables),
    slotMapping: Int32Array.from(slotMapping),
    blockCopies: Int32Array.from(blockCopies.flat()),
    segmentStart: Int32Array.from([...segments.map((s) => s.start), inputIds.length]),
    segmentAdapterStart: starts(segments.map((s) => s.adapters.length)),
    adapterSlot: Int32Array.from(entries, ([slot]) => slot),
    adapterScale: Float32Array.from(entries, ([, scale]) => scale),
    logitRows: Int32Array.from(logitRows),
    sampling: packSampling(rows),
  };
}

/** Where each of some lists begins when they stand one after another, and where the last one ends. */
function starts(lengths: readonly number[]): Int32Array {
  let sum = 0;
  return Int32Array.from([
    0,
    ...lengths.map((length) => {
      sum += length;
      return sum;
    }),
  ]);
}

function packSampling(rows: RowSpec[]): SamplingArrays {
  const history = rows.map((row) => row.history ?? []);
  const bias = rows.map((row) => row.bias ?? []);
  return {
    targetIds: Int32Array.from(rows, (row) => row.targetId ?? -1),
    temperature: Float32Array.from(rows, (row) => row.temperature ?? 0),
    topK: Int32Array.from(rows, (row) => row.topK ?? 0),
    topP: Float32Array.from(rows, (row) => row.topP ?? 1),
    minP: Float32Array.from(rows, (row) => row.minP ?? 0),
    repetitionPenalty: Float32Array.from(rows, (row) => row.repetitionPenalty ?? 1),
    presencePenalty: Float32Array.from(rows, (row) => row.presencePenalty ?? 0),
    frequencyPenalty: Float32Array.from(rows, (row) => row.frequencyPenalty ?? 0),
    seed: Uint32Array.from(
      rows.flatMap((row) => {
        const seed = row.seed ?? 0n;
        return [Number(seed & 0xffffffffn), Number(seed >> 32n)];
      }),
    ),
    sampleIndex: Int32Array.from(rows, (row) => row.sampleIndex ?? 0),
    numTopLogprobs: Int32Array.from(rows, (row) => row.numTopLogprobs ?? 0),
    historyStart: starts(history.map((list) => list.length)),
    history: Int32Array.from(history.flat()),
    historyPromptLength: Int32Array.from(rows, (row) => row.historyPromptLength ?? 0),
    biasStart: starts(bias.map((list) => list.length)),
    biasIds: Int32Array.from(bias.flat(), ([id]) => id),
    biasValues: Float32Array.from(bias.flat(), ([, value]) => value),
    maskSlots: Int32Array.from(rows, (row) => row.mask?.slot ?? -1),
    maskStamps: Int32Array.from(rows, (row) => row.mask?.stamp ?? 0),
  };
}
