/** Measures what a format of weights or of the KV cache does to a model's predictions. */
import { availableParallelism } from 'node:os';
import { LoramuxError } from '../../errors.ts';
import { createNativeSession, type NativeSession } from '../../native/index.ts';
import { importModel } from '../import.ts';
import type { ImportedModel, ProgressCallback } from '../types.ts';
import { comparePosition, type Divergence, DivergenceTotals } from './divergence.ts';
import type { AccuracyFormat } from './formats.ts';
import { scorePacket } from './score-packet.ts';
import { positionsOf, type TextSequence } from './texts.ts';

export interface AccuracyOptions {
  formats: readonly AccuracyFormat[];
  sequences: readonly TextSequence[];
  /** Default: all processors. */
  threads?: number;
  onProgress?: ProgressCallback;
}

export interface FormatAccuracy extends Divergence {
  name: string;
}

const BLOCK_SIZE = 16;
/** Tokens of a step. */
const CHUNK_TOKENS_MAX = 256;
/** Bytes of the logits of one step and session. */
const CHUNK_LOGIT_BYTES_MAX = 64 * 2 ** 20;

/**
 * Runs the float32 model and each format over the same tokens and compares the distributions that
 * they predict, position by position. Two sessions are open at a time and one step's logits of each
 * in memory; so the reference is run once for every format.
 * @throws LoramuxError config_invalid (a sequence longer than the model's context), and as
 *   importModel and createNativeSession
 */
export async function measureAccuracy(
  dir: string,
  options: AccuracyOptions,
): Promise<FormatAccuracy[]> {
  const { formats, sequences, onProgress } = options;
  const imported = await importModel(dir, { weights: 'float32' });
  checkLengths(imported, sequences);
  const size = sessionSize(imported, sequences, options.threads ?? availableParallelism());
  const reference = await createNativeSession({ ...size, model: imported.native, kvDtype: 'f32' });
  const results: FormatAccuracy[] = [];
  try {
    for (const [index, format] of formats.entries()) {
      const candidate = await createNativeSession({
        ...size,
        model: (await importModel(dir, format.import)).native,
        kvDtype: format.kvDtype,
      });
      try {
        const divergence = await compareSessions(reference, candidate, {
          sequences,
          chunkTokens: size.maxTokensPerStep,
          onSequence: (done) =>
            onProgress?.(
              index * sequences.length + done,
              formats.length * sequences.length,
              format.name,
            ),
        });
        results.push({ name: format.name, ...divergence });
      } finally {
        await candidate.close();
      }
    }
  } finally {
    await reference.close();
  }
  return results;
}

interface Comparison {
  sequences: readonly TextSequence[];
  /** Tokens of a step; both sessions must take as many, and as many logit rows. */
  chunkTokens: number;
  onSequence?: (done: number) => void;
}

async function compareSessions(
  reference: NativeSession,
  candidate: NativeSession,
  comparison: Comparison,
): Promise<Divergence> {
  const { sequences, chunkTokens, onSequence } = comparison;
  const totals = new DivergenceTotals();
  for (const [index, sequence] of sequences.entries()) {
    const { tokenIds, compareFrom, nextId } = sequence;
    for (let start = 0; start < tokenIds.length; start += chunkTokens) {
      const count = Math.min(chunkTokens, tokenIds.length - start);
      // A step needs a row; a chunk of mere context gives its last one, which is not looked at.
      const rowsFrom = Math.min(Math.max(compareFrom, start), start + count - 1);
      const packet = scorePacket({ tokenIds, start, count, rowsFrom, blockSize: BLOCK_SIZE });
      const expected = await logitsOf(reference, packet);
      const actual = await logitsOf(candidate, packet);
      const vocab = expected.length / packet.numRows;
      for (let row = 0; row < packet.numRows; row++) {
        const position = rowsFrom + row;
        if (position < compareFrom) continue;
        const span = [row * vocab, (row + 1) * vocab] as const;
        totals.add(
          comparePosition(
            expected.subarray(...span),
            actual.subarray(...span),
            tokenIds[position + 1] ?? nextId,
          ),
        );
      }
    }
    onSequence?.(index + 1);
  }
  return totals.result();
}

async function logitsOf(
  session: NativeSession,
  packet: ReturnType<typeof scorePacket>,
): Promise<Float32Array> {
  const { logits, rowStatus } = await session.step(packet, true);
  if (logits === undefined || rowStatus?.some((status) => status !== 0)) {
    throw new LoramuxError('logits_not_finite', 'The model answered NaN or infinity.');
  }
  return logits;
}

function checkLengths(imported: ImportedModel, sequences: readonly TextSequence[]): void {
  const { maxPositionEmbeddings, vocabSize } = imported.metadata.config;
  for (const { tokenIds } of sequences) {
    if (tokenIds.length > maxPositionEmbeddings) {
      throw new LoramuxError(
        'config_invalid',
        `A sequence has ${tokenIds.length} tokens, the model's context is ` +
          `${maxPositionEmbeddings}.`,
      );
    }
    if (tokenIds.some((id) => id >= vocabSize)) {
      throw new LoramuxError(
        'tokenizer_invalid',
        `tokenizer.json gives ids beyond the model's vocabulary of ${vocabSize}.`,
      );
    }
  }
}

function sessionSize(
  imported: ImportedModel,
  sequences: readonly TextSequence[],
  intraOpThreads: number,
) {
  const { vocabSize } = imported.metadata.config;
  const longest = sequences.reduce((most, { tokenIds }) => Math.max(most, tokenIds.length), 0);
  const rowsMax = Math.max(1, Math.floor(CHUNK_LOGIT_BYTES_MAX / (4 * vocabSize)));
  const chunkTokens = Math.min(CHUNK_TOKENS_MAX, rowsMax, longest);
  return {
    intraOpThreads,
    numBlocks: Math.ceil(longest / BLOCK_SIZE),
    blockSize: BLOCK_SIZE,
    maxSlots: 0,
    maxTokensPerStep: chunkTokens,
    maxLogitRowsPerStep: chunkTokens,
  };
}

/** Positions that will be compared. */
export function countPositions(sequences: readonly TextSequence[]): number {
  return sequences.reduce((sum, sequence) => sum + positionsOf(sequence), 0);
}
