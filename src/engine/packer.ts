/** Turns a step plan into the flat arrays of the native boundary. Arrays are made once and reused. */
import type { StepPacket } from '../native/addon-types.ts';
import type { Sequence, SequenceGroup } from '../scheduler/sequence.ts';
import type { ScheduledSequence, StepPlan } from '../scheduler/step-plan.ts';
import { REQUEST_ADAPTERS_MAX } from './adapter-set.ts';
import type { EngineSettings } from './options.ts';
import { SamplingPacker } from './sampling-packer.ts';

export class StepPacker {
  /** Distinct adapters of the last packed step, the base not counted. */
  numAdapters = 0;
  readonly #blockSize: number;
  readonly #packet: StepPacket;
  readonly #sampling: SamplingPacker;
  /** Opened the last segment of the packet. */
  #segmentOf: SequenceGroup | undefined;
  /** Adapters of all segments of the packet. */
  #numEntries = 0;
  #numPacked = 0;
  /** By slot: the last packet that names it. */
  readonly #packedIn: number[] = [];

  constructor(settings: EngineSettings) {
    const { maxTokensPerStep, maxSequences, maxLogitRowsPerStep, blockSize } = settings;
    const maxBlocks = Math.min(Math.ceil(settings.maxModelLen / blockSize), settings.numBlocks);
    this.#blockSize = blockSize;
    this.#sampling = new SamplingPacker(maxLogitRowsPerStep);
    this.#packet = {
      numTokens: 0,
      numSequences: 0,
      numSegments: 0,
      numRows: 0,
      maxBlocksPerSequence: maxBlocks,
      inputIds: new Int32Array(maxTokensPerStep),
      positions: new Int32Array(maxTokensPerStep),
      ropeLengths: new Int32Array(maxTokensPerStep),
      queryStart: new Int32Array(maxSequences + 1),
      contextLens: new Int32Array(maxSequences),
      blockTables: new Int32Array(maxSequences * maxBlocks),
      slotMapping: new Int32Array(maxTokensPerStep),
      blockCopies: new Int32Array(maxSequences * 2),
      numBlockCopies: 0,
      segmentStart: new Int32Array(maxSequences + 1),
      segmentAdapterStart: new Int32Array(maxSequences + 1),
      adapterSlot: new Int32Array(maxSequences * REQUEST_ADAPTERS_MAX),
      adapterScale: new Float32Array(maxSequences * REQUEST_ADAPTERS_MAX),
      logitRows: new Int32Array(maxLogitRowsPerStep),
      sampling: this.#sampling.arrays,
    };
  }

  /**
   * The packet of a plan, whose entries are sorted by adapter slot. Valid until the next call.
   * @param ahead 1 packs the step after the plan's, when each entry samples a token and its sequence
   *   goes on with it; the caller fills in the tokens, where they are read and at the end of the
   *   histories that are not empty
   */
  pack(plan: StepPlan, ahead: 0 | 1 = 0): StepPacket {
    const packet = this.#packet;
    packet.numTokens = 0;
    packet.numSequences = 0;
    packet.numSegments = 0;
    packet.numRows = 0;
    this.numAdapters = 0;
    this.#segmentOf = undefined;
    this.#numEntries = 0;
    this.#numPacked += 1;
    packet.maxBlocksPerSequence = longestTable(plan.entries);
    packet.numBlockCopies = ahead > 0 ? 0 : plan.reservation.copies(packet.blockCopies);
    this.#sampling.reset();
    for (const entry of plan.entries) {
      this.#openSegment(entry.sequence);
      this.#packRows(entry, ahead);
      this.#packTokens(entry, ahead);
      this.#packTable(entry);
    }
    packet.queryStart[packet.numSequences] = packet.numTokens;
    packet.segmentStart[packet.numSegments] = packet.numTokens;
    packet.segmentAdapterStart[packet.numSegments] = this.#numEntries;
    // The sampler may have grown its arrays.
    packet.sampling = this.#sampling.arrays;
    return packet;
  }

  #openSegment({ group }: Sequence): void {
    if (this.#segmentOf !== undefined && haveSameAdapters(group, this.#segmentOf)) return;
    this.#segmentOf = group;
    const packet = this.#packet;
    const { adapters } = group.request;
    packet.segmentStart[packet.numSegments] = packet.numTokens;
    packet.segmentAdapterStart[packet.numSegments] = this.#numEntries;
    for (let i = 0; i < adapters.length; i++) {
      const slot = group.slots[i]!;
      packet.adapterSlot[this.#numEntries] = slot;
      packet.adapterScale[this.#numEntries] = adapters[i]!.weight;
      this.#numEntries += 1;
      if (this.#packedIn[slot] === this.#numPacked) continue;
      this.#packedIn[slot] = this.#numPacked;
      this.numAdapters += 1;
    }
    packet.numSegments += 1;
  }

  #packRows(entry: ScheduledSequence, ahead: number): void {
    const packet = this.#packet;
    const { sequence, start, count } = entry;
    for (let i = 0; i < entry.numScored; i++) {
      const position = entry.scoreFrom + i;
      packet.logitRows[packet.numRows] = packet.numTokens + position - start;
      this.#sampling.score(packet.numRows, sequence, sequence.tokenAt(position + 1));
      packet.numRows += 1;
    }
    if (!entry.samples) return;
    packet.logitRows[packet.numRows] = packet.numTokens + count - 1;
    this.#sampling.sample(packet.numRows, sequence, ahead);
    packet.numRows += 1;
  }

  #packTokens(entry: ScheduledSequence, ahead: number): void {
    const packet = this.#packet;
    const { sequence, count } = entry;
    const start = entry.start + ahead;
    const { blocks } = sequence.table;
    const promptLength = sequence.group.prompt.length;
    if (ahead === 0) sequence.copyTokens(start, count, packet.inputIds, packet.numTokens);
    for (let i = 0; i < count; i++) {
      const token = packet.numTokens + i;
      const position = start + i;
      packet.positions[token] = position;
      packet.ropeLengths[token] = position < promptLength ? promptLength : position + 1;
      const block = blocks[Math.floor(position / this.#blockSize)]!;
      packet.slotMapping[token] = block * this.#blockSize + (position % this.#blockSize);
    }
    packet.queryStart[packet.numSequences] = packet.numTokens;
    packet.contextLens[packet.numSequences] = start + count;
    packet.numTokens += count;
  }

  #packTable(entry: ScheduledSequence): void {
    const packet = this.#packet;
    const { table } = entry.sequence;
    const columns = packet.maxBlocksPerSequence;
    const row = packet.numSequences * columns;
    for (let i = 0; i < table.length; i++) packet.blockTables[row + i] = table.blocks[i]!;
    packet.blockTables.fill(-1, row + table.length, row + columns);
    packet.numSequences += 1;
  }
}

function longestTable(entries: readonly ScheduledSequence[]): number {
  let longest = 1;
  for (const { sequence } of entries) longest = Math.max(longest, sequence.table.length);
  return longest;
}

/** Groups of one lane have the same adapters in the same slots. */
function haveSameAdapters(a: SequenceGroup, b: SequenceGroup): boolean {
  if (a.lane !== b.lane) return false;
  const [first, second] = [a.request.adapters, b.request.adapters];
  for (let i = 0; i < first.length; i++) {
    if (first[i]!.weight !== second[i]!.weight) return false;
  }
  return true;
}
