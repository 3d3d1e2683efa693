/** The sampling arrays of one step, one entry per logit row. */
import type { SamplingArrays } from '../native/addon-types.ts';
import type { Sequence } from '../scheduler/sequence.ts';
import { BannedTokens } from './banned-tokens.ts';
import type { SamplingParams } from './types.ts';

/** The token alone, see `SamplingArrays.numTopLogprobs`. */
const NO_LOGPROBS = -1;
/** The row is not constrained. */
const NO_MASK = -1;

/** The least that is above 0 in single precision: what is smaller would be packed as 0, which is none. */
const TOP_P_MIN = 2 ** -149;

/** Whether the sequence's output ends with all but the last of `tokens`. */
function endsBefore(sequence: Sequence, tokens: Int32Array): boolean {
  const { output, numOutput } = sequence;
  const first = numOutput - (tokens.length - 1);
  if (first < 0) return false;
  for (let i = 0; i < tokens.length - 1; i++) {
    if (output[first + i] !== tokens[i]) return false;
  }
  return true;
}

/** Whether the sequence's mask is that of its banned tokens. */
function isMasked(sequence: Sequence): boolean {
  const { constraint, bannedTokenIds } = sequence.group.request.sampling;
  if (constraint !== undefined || sequence.masks === undefined) return false;
  return bannedTokenIds instanceof BannedTokens;
}

export class SamplingPacker {
  readonly arrays: SamplingArrays;

  constructor(maxRows: number) {
    this.arrays = {
      targetIds: new Int32Array(maxRows),
      temperature: new Float32Array(maxRows),
      topK: new Int32Array(maxRows),
      topP: new Float32Array(maxRows),
      minP: new Float32Array(maxRows),
      repetitionPenalty: new Float32Array(maxRows),
      presencePenalty: new Float32Array(maxRows),
      frequencyPenalty: new Float32Array(maxRows),
      seed: new Uint32Array(maxRows * 2),
      sampleIndex: new Int32Array(maxRows),
      numTopLogprobs: new Int32Array(maxRows),
      historyStart: new Int32Array(maxRows + 1),
      history: new Int32Array(256),
      historyPromptLength: new Int32Array(maxRows),
      biasStart: new Int32Array(maxRows + 1),
      biasIds: new Int32Array(64),
      biasValues: new Float32Array(64),
      maskSlots: new Int32Array(maxRows),
      maskStamps: new Int32Array(maxRows),
    };
  }

  reset(): void {
    this.arrays.historyStart[0] = 0;
    this.arrays.biasStart[0] = 0;
  }

  /** A row that scores prompt token `targetId`. Rows are packed in ascending order. */
  score(row: number, sequence: Sequence, targetId: number): void {
    const { arrays } = this;
    arrays.targetIds[row] = targetId;
    arrays.temperature[row] = 0;
    arrays.topK[row] = 0;
    arrays.topP[row] = 1;
    arrays.minP[row] = 0;
    arrays.repetitionPenalty[row] = 1;
    arrays.presencePenalty[row] = 0;
    arrays.frequencyPenalty[row] = 0;
    arrays.seed[row * 2] = 0;
    arrays.seed[row * 2 + 1] = 0;
    arrays.sampleIndex[row] = 0;
    arrays.numTopLogprobs[row] = sequence.group.request.sampling.promptLogprobs ?? 0;
    arrays.historyPromptLength[row] = 0;
    arrays.historyStart[row + 1] = arrays.historyStart[row]!;
    arrays.biasStart[row + 1] = arrays.biasStart[row]!;
    arrays.maskSlots[row] = NO_MASK;
  }

  /**
   * A row that samples the sequence's next token.
   * @param ahead tokens that the sequence will have by then beyond those it has; their places at the
   *   end of the row's history are left to the caller
   */
  sample(row: number, sequence: Sequence, ahead: number): void {
    const { arrays } = this;
    const { sampling } = sequence.group.request;
    arrays.targetIds[row] = -1;
    arrays.temperature[row] = sampling.temperature;
    arrays.topK[row] = sampling.topK;
    arrays.topP[row] = Math.max(sampling.topP, TOP_P_MIN);
    arrays.minP[row] = sampling.minP;
    arrays.repetitionPenalty[row] = sampling.repetitionPenalty;
    arrays.presencePenalty[row] = sampling.presencePenalty;
    arrays.frequencyPenalty[row] = sampling.frequencyPenalty;
    // Choices of one request differ only by their seed: seed + index, modulo 2^64.
    const { seedLow, seedHigh } = sequence.group;
    const low = seedLow + sequence.index;
    arrays.seed[row * 2] = low;
    arrays.seed[row * 2 + 1] = seedHigh + (low >= 2 ** 32 ? 1 : 0);
    arrays.sampleIndex[row] = sequence.numOutput + ahead;
    arrays.numTopLogprobs[row] = sampling.logprobs ?? NO_LOGPROBS;
    arrays.maskSlots[row] = sequence.masks?.slot ?? NO_MASK;
    arrays.maskStamps[row] = sequence.masks?.stamp ?? sequence.numOutput + ahead + 1;
    this.#packHistory(row, sequence, sampling, ahead);
    this.#packBias(row, sequence, sequence.numOutput + ahead);
  }

  #packHistory(row: number, sequence: Sequence, sampling: SamplingParams, ahead: number): void {
    const { arrays } = this;
    const start = arrays.historyStart[row]!;
    const penalised =
      sampling.repetitionPenalty !== 1 ||
      sampling.presencePenalty !== 0 ||
      sampling.frequencyPenalty !== 0;
    const length = penalised ? sequence.numTokens + ahead : 0;
    if (start + length > arrays.history.length) {
      const grown = new Int32Array((start + length) * 2);
      grown.set(arrays.history);
      arrays.history = grown;
    }
    if (penalised) sequence.copyTokens(0, length - ahead, arrays.history, start);
    arrays.historyPromptLength[row] = penalised ? sequence.group.prompt.length : 0;
    arrays.historyStart[row + 1] = start + length;
  }

  #packBias(row: number, sequence: Sequence, numOutput: number): void {
    const { sampling } = sequence.group.request;
    const masked = numOutput < sampling.minTokens;
    let at = this.arrays.biasStart[row]!;
    if (sampling.logitBias !== undefined) {
      for (const [tokenId, bias] of sampling.logitBias) {
        if (masked && sampling.stopTokenIds.has(tokenId)) continue;
        this.#pushBias(at++, tokenId, bias);
      }
    }
    if (masked) {
      for (const tokenId of sampling.stopTokenIds) {
        this.#pushBias(at++, tokenId, Number.NEGATIVE_INFINITY);
      }
    }
    for (const tokens of sampling.bannedSequences ?? []) {
      if (!endsBefore(sequence, tokens)) continue;
      this.#pushBias(at++, tokens.at(-1)!, Number.NEGATIVE_INFINITY);
    }
    if (!isMasked(sequence)) {
      for (const tokenId of sampling.bannedTokenIds ?? []) {
        this.#pushBias(at++, tokenId, Number.NEGATIVE_INFINITY);
      }
    }
    this.arrays.biasStart[row + 1] = at;
  }

  #reserveBias(size: number): void {
    const { arrays } = this;
    if (size <= arrays.biasIds.length) return;
    const ids = new Int32Array(size * 2);
    const values = new Float32Array(size * 2);
    ids.set(arrays.biasIds);
    values.set(arrays.biasValues);
    arrays.biasIds = ids;
    arrays.biasValues = values;
  }

  #pushBias(at: number, tokenId: number, bias: number): void {
    const { arrays } = this;
    this.#reserveBias(at + 1);
    arrays.biasIds[at] = tokenId;
    arrays.biasValues[at] = bias;
  }
}
