/**
 * A native session without a model: it keeps a KV "cache" by physical slot and answers with tokens
 * that are a hash of everything a real model would let them depend on. The value written for a token
 * depends on the values of all earlier positions, read through the block table, on the adapter's
 * content in its slot, on the scale and on the rope length. So a stale or foreign block, a wrong
 * slot, a wrong position or a lost copy shows as a wrong token, and often as a thrown sentence.
 *
 * The packet is checked strictly and copied before `step` returns, as the real session does.
 */
import { MASK_HEADER_WORDS, MASK_NEVER, type MaskMemory } from '../../src/grammar/mask-memory.ts';
import {
  MAX_TOP_LOGPROBS,
  ROW_STATUS,
  type SamplingArrays,
  type StepPacket,
  type StepResult,
} from '../../src/native/addon-types.ts';
import { type PacketLimits, packetViolations } from './packet-check.ts';

export interface FakeNativeOptions extends Partial<PacketLimits> {
  numBlocks: number;
  /** As `rope.dynamic.maxPositions`: beyond it values depend on the rope length. */
  dynamicRopeMaxPositions?: number;
  /** A token whose value is NaN: every row that sees it is not finite. */
  nanTokenId?: number;
  /** Masks of allowed tokens; a step waits until those of its rows are there, or will never be. */
  masks?: MaskMemory;
}

const GARBAGE = -2;

export class FakeNative {
  readonly limits: PacketLimits;
  /** Content of each adapter slot; undefined is empty. A loader writes it. */
  readonly slots: (string | undefined)[];
  /** Copies of all packets, when `recording`. */
  readonly packets: StepPacket[] = [];
  recording = false;
  /** Tests may heal the model. */
  nanTokenId: number | undefined;
  steps = 0;
  /** Called with each packet; what it returns fails the step. */
  failure: (packet: StepPacket) => Error | undefined = () => undefined;
  /** Decides when a step ends; the default is the next turn of the event loop. */
  schedule: (run: () => void) => void = (run) => setImmediate(run);
  readonly #options: FakeNativeOptions;
  readonly #values: Uint32Array;
  readonly #positions: Int32Array;
  readonly #nan: Uint8Array;
  #inFlight = false;

  constructor(options: FakeNativeOptions) {
    this.#options = options;
    this.nanTokenId = options.nanTokenId;
    this.limits = {
      blockSize: 16,
      maxSlots: 8,
      maxTokensPerStep: 512,
      maxLogitRowsPerStep: 256,
      vocabSize: 61,
      ...options,
    };
    this.slots = new Array<string | undefined>(this.limits.maxSlots).fill(undefined);
    const numSlots = this.limits.numBlocks * this.limits.blockSize;
    this.#values = new Uint32Array(numSlots);
    this.#positions = new Int32Array(numSlots).fill(GARBAGE);
    this.#nan = new Uint8Array(numSlots);
  }

  step(packet: StepPacket): Promise<StepResult> {
    if (this.#inFlight) return Promise.reject(new Error('two steps are in flight'));
    const violations = packetViolations(packet, this.limits);
    if (violations.length > 0) return Promise.reject(new Error(violations.join('; ')));
    const isMasked = packet.sampling.maskSlots
      .subarray(0, packet.numRows)
      .some((slot) => slot >= 0);
    if (isMasked && this.#options.masks === undefined) {
      return Promise.reject(new Error('rows name masks, and the session has none'));
    }
    const own = copyPacket(packet);
    if (this.recording) this.packets.push(own);
    this.#inFlight = true;
    this.steps += 1;
    return new Promise((resolve, reject) => {
      const run = () => {
        if (!this.#masksAreSettled(own)) {
          setImmediate(run);
          return;
        }
        this.#inFlight = false;
        try {
          const failure = this.failure(own);
          if (failure !== undefined) {
            this.#scribble(own);
            throw failure;
          }
          resolve(this.#run(own));
        } catch (error) {
          reject(error);
        }
      };
      this.schedule(run);
    });
  }

  /** Another session takes its place: cache and slots are empty. */
  lose(): void {
    this.slots.fill(undefined);
    this.#positions.fill(GARBAGE);
  }

  #masksAreSettled({ numRows, sampling }: StepPacket): boolean {
    for (let r = 0; r < numRows; r++) {
      const stamp = this.#stampOf(sampling, r);
      if (stamp !== sampling.maskStamps[r] && stamp !== MASK_NEVER) return false;
    }
    return true;
  }

  /** Of the row's mask now; that which is expected where there is none. */
  #stampOf(sampling: SamplingArrays, r: number): number {
    const { masks } = this.#options;
    const slot = sampling.maskSlots[r]!;
    if (slot < 0 || masks === undefined) return sampling.maskStamps[r]!;
    return Atomics.load(masks.words, slot * masks.stride);
  }

  #run(packet: StepPacket): StepResult {
    this.#copyBlocks(packet);
    const rows = { hash: new Uint32Array(packet.numTokens), nan: new Uint8Array(packet.numTokens) };
    // Backwards: no sequence may depend on another one of the same step.
    for (let s = packet.numSequences - 1; s >= 0; s--) this.#runSequence(packet, s, rows);
    const result = sampleRows(packet, rows, this.limits.vocabSize, this.#options.masks);
    for (let r = 0; r < packet.numRows; r++) {
      if (this.#stampOf(packet.sampling, r) !== packet.sampling.maskStamps[r]) {
        result.rowStatus![r] ||= ROW_STATUS.noMask;
      }
    }
    return result;
  }

  #runSequence(packet: StepPacket, s: number, rows: { hash: Uint32Array; nan: Uint8Array }): void {
    const { blockSize } = this.limits;
    const from = packet.queryStart[s]!;
    const to = packet.queryStart[s + 1]!;
    let fold = 1;
    let nan = 0;
    const read = (position: number) => {
      const logical = Math.floor(position / blockSize);
      const block = packet.blockTables[s * packet.maxBlocksPerSequence + logical]!;
      const slot = block * blockSize + (position % blockSize);
      if (this.#positions[slot] !== position) {
        throw new Error(
          `sequence ${s} reads position ${position} in slot ${slot}, which holds ` +
            `position ${this.#positions[slot]}`,
        );
      }
      fold = mix(fold, this.#values[slot]!);
      nan |= this.#nan[slot]!;
    };
    for (let position = 0; position < packet.positions[from]!; position++) read(position);
    for (let t = from; t < to; t++) {
      const adapter = this.#adapterOf(packet, t);
      const slot = packet.slotMapping[t]!;
      const position = packet.positions[t]!;
      this.#values[slot] = mix(
        mix(mix(fold, packet.inputIds[t]!), adapter),
        this.#rope(packet.ropeLengths[t]!),
      );
      this.#positions[slot] = position;
      this.#nan[slot] = packet.inputIds[t] === this.nanTokenId ? 1 : nan;
      read(position);
      rows.hash[t] = mix(fold, adapter);
      rows.nan[t] = nan;
    }
  }

  #adapterOf(packet: StepPacket, token: number): number {
    let g = 0;
    while (packet.segmentStart[g + 1]! <= token) g += 1;
    let adapters = 0;
    for (let e = packet.segmentAdapterStart[g]!; e < packet.segmentAdapterStart[g + 1]!; e++) {
      const slot = packet.adapterSlot[e]!;
      const content = this.slots[slot];
      if (content === undefined) throw new Error(`segment ${g} uses slot ${slot}, which is empty`);
      // The order counts, as in sums of floating point numbers.
      adapters = mix(adapters, mix(hashText(content), Math.round(packet.adapterScale[e]! * 4096)));
    }
    return adapters;
  }

  #rope(length: number): number {
    const { dynamicRopeMaxPositions } = this.#options;
    return dynamicRopeMaxPositions !== undefined && length > dynamicRopeMaxPositions ? length : 0;
  }

  #copyBlocks(packet: StepPacket): void {
    const { blockSize } = this.limits;
    for (let c = 0; c < packet.numBlockCopies; c++) {
      const from = packet.blockCopies[c * 2]! * blockSize;
      const to = packet.blockCopies[c * 2 + 1]! * blockSize;
      for (const array of [this.#values, this.#positions, this.#nan]) {
        array.copyWithin(to, from, from + blockSize);
      }
    }
  }

  /** A failed step may leave garbage in the slots that it named. */
  #scribble(packet: StepPacket): void {
    for (let t = 0; t < packet.numTokens; t++) this.#positions[packet.slotMapping[t]!] = GARBAGE;
  }
}

function sampleRows(
  packet: StepPacket,
  rows: { hash: Uint32Array; nan: Uint8Array },
  vocabSize: number,
  masks: MaskMemory | undefined,
): StepResult {
  const { numRows } = packet;
  const result: StepResult = {
    tokenIds: new Int32Array(numRows),
    logprobs: new Float32Array(numRows),
    ranks: new Int32Array(numRows),
    topIds: new Int32Array(numRows * MAX_TOP_LOGPROBS),
    topLogprobs: new Float32Array(numRows * MAX_TOP_LOGPROBS),
    rowStatus: new Uint8Array(numRows),
    nativeMs: 0,
    gapMs: 0,
    maskWaitMs: 0,
  };
  for (let r = 0; r < numRows; r++) {
    const token = packet.logitRows[r]!;
    if (rows.nan[token] === 1) {
      result.rowStatus![r] = 1;
      continue;
    }
    const raw = Array.from(
      { length: vocabSize },
      (_, v) => (mix(rows.hash[token]!, v) / 2 ** 32) * 6,
    );
    const target = packet.sampling.targetIds[r]!;
    const chosen = target >= 0 ? target : draw(raw, packet.sampling, r, masks);
    const total = Math.log(raw.reduce((sum, logit) => sum + Math.exp(logit), 0));
    const order = raw.map((_, v) => v).sort((a, b) => raw[b]! - raw[a]! || a - b);
    result.tokenIds[r] = chosen;
    if (packet.sampling.numTopLogprobs[r]! < 0) continue;
    result.logprobs[r] = raw[chosen]! - total;
    result.ranks[r] = 1 + raw.filter((logit) => logit > raw[chosen]!).length;
    for (let i = 0; i < packet.sampling.numTopLogprobs[r]!; i++) {
      result.topIds[r * MAX_TOP_LOGPROBS + i] = order[i]!;
      result.topLogprobs[r * MAX_TOP_LOGPROBS + i] = raw[order[i]!]! - total;
    }
  }
  return result;
}

/** Bias, penalties, mask, temperature and top-k as the real sampler, with a hash for its generator. */
function draw(
  raw: number[],
  sampling: SamplingArrays,
  r: number,
  masks: MaskMemory | undefined,
): number {
  const logits = [...raw];
  for (let i = sampling.biasStart[r]!; i < sampling.biasStart[r + 1]!; i++) {
    logits[sampling.biasIds[i]!]! += sampling.biasValues[i]!;
  }
  const from = sampling.historyStart[r]!;
  const history = sampling.history.subarray(from, sampling.historyStart[r + 1]!);
  for (const id of new Set(history)) logits[id]! /= sampling.repetitionPenalty[r]!;
  const output = history.subarray(sampling.historyPromptLength[r]!);
  for (const id of output) logits[id]! -= sampling.frequencyPenalty[r]!;
  for (const id of new Set(output)) logits[id]! -= sampling.presencePenalty[r]!;
  if (masks !== undefined && sampling.maskSlots[r]! >= 0) {
    const at = sampling.maskSlots[r]! * masks.stride + MASK_HEADER_WORDS;
    for (const id of logits.keys()) {
      if (((masks.words[at + (id >> 5)]! >>> (id & 31)) & 1) === 0) logits[id] = -Infinity;
    }
  }
  const temperature = sampling.temperature[r]!;
  const topK = sampling.topK[r]!;
  const kept = logits.map((_, v) => v).sort((a, b) => logits[b]! - logits[a]! || a - b);
  if (topK > 0) kept.length = Math.min(kept.length, topK);
  if (temperature === 0) return kept[0]!;
  const seed = mix(mix(sampling.seed[r * 2]!, sampling.seed[r * 2 + 1]!), sampling.sampleIndex[r]!);
  const noisy = (v: number) =>
    logits[v]! / temperature - Math.log(-Math.log((mix(seed, v) + 0.5) / 2 ** 32));
  return kept.reduce((best, v) => (noisy(v) > noisy(best) ? v : best));
}

function copyPacket(packet: StepPacket): StepPacket {
  return structuredClone(packet);
}

/** Murmur3's finaliser over a running value. */
function mix(hash: number, value: number): number {
  let h = Math.imul(hash ^ Math.imul(value | 0, 0xcc9e2d51), 0x1b873593) + 0x9e3779b9;
  h ^= h >>> 16;
  h = Math.imul(h, 0x85ebca6b);
  h ^= h >>> 13;
  h = Math.imul(h, 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}

function hashText(text: string): number {
  let h = 7;
  for (let i = 0; i < text.length; i++) h = mix(h, text.charCodeAt(i));
  return h;
}
