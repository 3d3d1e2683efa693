/**
 * A request and its choices as the scheduler sees them. A *group* is one request; a *sequence* is
 * one of its choices. Until the prompt is computed only one sequence of the group, the carrier, is
 * scheduled; the others are born from it and share its blocks.
 */
import type { EngineRequest, FinishReason, TokenMasks } from '../engine/types.ts';
import type { BlockHash, BlockHasher } from '../kvcache/block-hash.ts';
import { BlockTable } from '../kvcache/block-table.ts';
import type { Lane } from './lane.ts';

export type SequenceStatus =
  /** Waits for the carrier to compute the prompt; holds nothing. */
  | 'unborn'
  /** Never ran; holds nothing. */
  | 'waiting'
  /** In the batch; holds blocks and a share of the adapter reference. */
  | 'running'
  /** Ran and gave everything back; will be recomputed. */
  | 'preempted'
  | 'finished';

export class Sequence {
  readonly group: SequenceGroup;
  /** Choice, 0 to n - 1. Changes only while unborn or carrier, when choices trade places. */
  index: number;
  status: SequenceStatus;
  readonly table = new BlockTable();
  /** int32 [>= numOutput]: generated tokens. */
  output = new Int32Array(16);
  numOutput = 0;
  /** Leading tokens whose keys and values are in the blocks. */
  numComputed = 0;
  /** Hash chain of the leading full blocks, extended when needed. */
  readonly hashes: BlockHash[] = [];
  /** Leading blocks that were offered to the prefix cache (or came from it). */
  numRegistered = 0;
  /** Set between steps; the choice ends with this reason at the next border. */
  endRequested: FinishReason | undefined = undefined;
  /** How it ended: by itself, or because that was asked for. */
  endedAs: FinishReason | 'asked' | undefined = undefined;
  /** Of a constrained request, while the sequence is in the batch and samples. */
  masks: TokenMasks | undefined = undefined;

  constructor(group: SequenceGroup, index: number) {
    this.group = group;
    this.index = index;
    this.status = index === 0 ? 'waiting' : 'unborn';
  }

  /** Prompt and output tokens. */
  get numTokens(): number {
    return this.group.prompt.length + this.numOutput;
  }

  get isCarrier(): boolean {
    return this.group.carrier === this;
  }

  tokenAt(position: number): number {
    const { prompt } = this.group;
    return position < prompt.length ? prompt[position]! : this.output[position - prompt.length]!;
  }

  /** Copies the tokens at positions [from, from + count) to `target[offset...]`. */
  copyTokens(from: number, count: number, target: Int32Array, offset: number): void {
    const { prompt } = this.group;
    const fromPrompt = Math.min(count, Math.max(0, prompt.length - from));
    for (let i = 0; i < fromPrompt; i++) target[offset + i] = prompt[from + i]!;
    const first = from - prompt.length;
    for (let i = fromPrompt; i < count; i++) target[offset + i] = this.output[first + i]!;
  }

  append(tokenId: number): void {
    if (this.numOutput === this.output.length) {
      const grown = new Int32Array(this.output.length * 2);
      grown.set(this.output);
      this.output = grown;
    }
    this.output[this.numOutput++] = tokenId;
  }

  /** Hash of logical block `logical`, all of whose tokens must be known. */
  hashAt(logical: number, hasher: BlockHasher): BlockHash {
    while (this.hashes.length <= logical) {
      const next = this.hashes.length;
      this.copyTokens(next * hasher.blockSize, hasher.blockSize, hasher.tokens, 0);
      this.hashes.push(hasher.next(next === 0 ? this.group.rootHash : this.hashes[next - 1]!));
    }
    return this.hashes[logical]!;
  }
}

/** Of the base, and of who waits. */
export const NO_SLOTS: readonly number[] = [];

const LOW_32 = 0xffff_ffffn;

export class SequenceGroup {
  readonly request: EngineRequest;
  /** int32 [L]: the group's own copy. */
  readonly prompt: Int32Array;
  /** Position in the order of arrival. */
  readonly order: number;
  readonly lane: Lane<Sequence>;
  readonly rootHash: BlockHash;
  /** Uint32 words of the request's seed: every step needs them, and big integers are slow. */
  readonly seedLow: number;
  readonly seedHigh: number;
  readonly sequences: Sequence[] = [];
  /** Computes the prompt for all; undefined once the others are born. */
  carrier: Sequence | undefined;
  /** Choices that have not finished. */
  numLive: number;
  /** Sequences in the batch; the group holds its adapter references while it is above 0. */
  numRunning = 0;
  /** Slots of the request's adapters, in their order, while a sequence runs. */
  slots: readonly number[] = NO_SLOTS;
  /** Prompt tokens taken from the prefix cache at the first admission; undefined before it. */
  cachedPromptTokens: number | undefined = undefined;
  /** Prompt positions [0, numScored) whose log-probabilities are known. */
  numScored = 0;

  constructor(request: EngineRequest, order: number, lane: Lane<Sequence>, rootHash: BlockHash) {
    this.request = request;
    this.prompt = request.promptTokenIds.slice();
    this.order = order;
    this.lane = lane;
    this.rootHash = rootHash;
    this.seedLow = Number(request.sampling.seed & LOW_32);
    this.seedHigh = Number((request.sampling.seed >> 32n) & LOW_32);
    this.numLive = request.n;
    for (let i = 0; i < request.n; i++) this.sequences.push(new Sequence(this, i));
    this.carrier = this.sequences[0];
  }

  /** Rows to score: row p gives the log-probability of prompt token p + 1. */
  get numToScore(): number {
    return this.request.sampling.promptLogprobs === undefined ? 0 : this.prompt.length - 1;
  }

  get isScored(): boolean {
    return this.numScored >= this.numToScore;
  }

  /**
   * Lets the carrier stand for another living choice: the two trade places, for they are still
   * equal. False when no unborn choice is left.
   */
  replaceCarrier(): boolean {
    const old = this.carrier;
    const heir = this.sequences.find((sequence) => sequence.status === 'unborn');
    if (old === undefined || heir === undefined) return false;
    const index = old.index;
    old.index = heir.index;
    heir.index = index;
    this.sequences[old.index] = old;
    this.sequences[heir.index] = heir;
    const end = old.endRequested;
    old.endRequested = heir.endRequested;
    heir.endRequested = end;
    return true;
  }
}
