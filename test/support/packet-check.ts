/** Everything a step packet must satisfy, whatever the model: each violation as a sentence. */
import type { StepPacket } from '../../src/native/addon-types.ts';

export interface PacketLimits {
  numBlocks: number;
  blockSize: number;
  maxSlots: number;
  maxTokensPerStep: number;
  maxLogitRowsPerStep: number;
  vocabSize: number;
}

export function packetViolations(packet: StepPacket, limits: PacketLimits): string[] {
  const violations = lengthViolations(packet, limits);
  if (violations.length > 0) return violations;
  return [
    ...tokenViolations(packet, limits),
    ...sharingViolations(packet, limits),
    ...segmentViolations(packet, limits),
    ...rowViolations(packet, limits),
    ...copyViolations(packet, limits),
  ];
}

function lengthViolations(p: StepPacket, limits: PacketLimits): string[] {
  const violations: string[] = [];
  const need = (name: string, length: number, least: number) => {
    if (length < least) violations.push(`${name} has ${length} entries, needs ${least}`);
  };
  need('inputIds', p.inputIds.length, p.numTokens);
  need('positions', p.positions.length, p.numTokens);
  need('ropeLengths', p.ropeLengths.length, p.numTokens);
  need('slotMapping', p.slotMapping.length, p.numTokens);
  need('queryStart', p.queryStart.length, p.numSequences + 1);
  need('contextLens', p.contextLens.length, p.numSequences);
  need('blockTables', p.blockTables.length, p.numSequences * p.maxBlocksPerSequence);
  need('segmentStart', p.segmentStart.length, p.numSegments + 1);
  need('segmentAdapterStart', p.segmentAdapterStart.length, p.numSegments + 1);
  need('adapterSlot', p.adapterSlot.length, p.segmentAdapterStart[p.numSegments]!);
  need('adapterScale', p.adapterScale.length, p.segmentAdapterStart[p.numSegments]!);
  need('logitRows', p.logitRows.length, p.numRows);
  need('blockCopies', p.blockCopies.length, p.numBlockCopies * 2);
  need('historyStart', p.sampling.historyStart.length, p.numRows + 1);
  need('biasStart', p.sampling.biasStart.length, p.numRows + 1);
  if (p.numTokens < 1) violations.push('the step has no tokens');
  if (p.numTokens > limits.maxTokensPerStep) violations.push(`${p.numTokens} tokens in one step`);
  if (p.numRows > limits.maxLogitRowsPerStep) violations.push(`${p.numRows} rows in one step`);
  return violations;
}

function tokenViolations(p: StepPacket, limits: PacketLimits): string[] {
  const violations: string[] = [];
  if (p.queryStart[0] !== 0) violations.push('queryStart does not begin at 0');
  if (p.queryStart[p.numSequences] !== p.numTokens) violations.push('queryStart does not end at T');
  for (let s = 0; s < p.numSequences; s++) {
    const from = p.queryStart[s]!;
    const to = p.queryStart[s + 1]!;
    if (to <= from) violations.push(`sequence ${s} has no tokens`);
    const start = p.contextLens[s]! - (to - from);
    const used = Math.ceil(p.contextLens[s]! / limits.blockSize);
    for (let i = 0; i < p.maxBlocksPerSequence; i++) {
      const block = p.blockTables[s * p.maxBlocksPerSequence + i]!;
      const valid = i < used ? block >= 0 && block < limits.numBlocks : block >= -1;
      if (!valid) violations.push(`sequence ${s} logical block ${i} is ${block}`);
    }
    for (let t = from; t < to; t++) {
      const position = start + t - from;
      if (p.positions[t] !== position) violations.push(`token ${t} is at ${p.positions[t]}`);
      const logical = Math.floor(position / limits.blockSize);
      const block = p.blockTables[s * p.maxBlocksPerSequence + logical]!;
      const slot = block * limits.blockSize + (position % limits.blockSize);
      if (p.slotMapping[t] !== slot) violations.push(`token ${t} writes slot ${p.slotMapping[t]}`);
      const id = p.inputIds[t]!;
      if (id < 0 || id >= limits.vocabSize) violations.push(`token ${t} has id ${id}`);
      if (p.ropeLengths[t]! <= position) violations.push(`token ${t} is beyond its rope length`);
    }
  }
  return violations;
}

/** A slot written in this step must be visible to the writing sequence only. */
function sharingViolations(p: StepPacket, limits: PacketLimits): string[] {
  const violations: string[] = [];
  const writer = new Map<number, number>();
  for (let s = 0; s < p.numSequences; s++) {
    for (let t = p.queryStart[s]!; t < p.queryStart[s + 1]!; t++) {
      const slot = p.slotMapping[t]!;
      if (writer.has(slot)) violations.push(`slot ${slot} is written twice`);
      writer.set(slot, s);
    }
  }
  for (let s = 0; s < p.numSequences; s++) {
    for (let position = 0; position < p.contextLens[s]!; position++) {
      const logical = Math.floor(position / limits.blockSize);
      const block = p.blockTables[s * p.maxBlocksPerSequence + logical]!;
      const by = writer.get(block * limits.blockSize + (position % limits.blockSize));
      if (by !== undefined && by !== s) {
        violations.push(`sequence ${s} reads position ${position}, which sequence ${by} writes`);
      }
    }
  }
  return violations;
}

function segmentViolations(p: StepPacket, limits: PacketLimits): string[] {
  const violations: string[] = [];
  const borders = new Set(p.queryStart.subarray(0, p.numSequences + 1));
  if (p.segmentStart[0] !== 0) violations.push('segments do not begin at 0');
  if (p.segmentStart[p.numSegments] !== p.numTokens) violations.push('segments do not end at T');
  if (p.segmentAdapterStart[0] !== 0) violations.push('adapters do not begin at 0');
  const seen = new Set<string>();
  let previous: readonly number[] = [];
  for (let g = 0; g < p.numSegments; g++) {
    const [from, to] = [p.segmentAdapterStart[g]!, p.segmentAdapterStart[g + 1]!];
    const slots = [...p.adapterSlot.subarray(from, to)];
    if (p.segmentStart[g + 1]! <= p.segmentStart[g]!) violations.push(`segment ${g} is empty`);
    if (!borders.has(p.segmentStart[g]!)) violations.push(`segment ${g} cuts a sequence`);
    if (to < from) violations.push(`segment ${g} has ${to - from} adapters`);
    if (new Set(slots).size < slots.length) violations.push(`segment ${g} has a slot twice`);
    for (const slot of slots) {
      if (slot < 0 || slot >= limits.maxSlots) violations.push(`segment ${g} has slot ${slot}`);
    }
    if (isBefore(slots, previous)) violations.push(`segment ${g} is not in slot order`);
    previous = slots;
    const key = `${slots}/${p.adapterScale.subarray(from, to)}`;
    if (seen.has(key)) violations.push(`segment ${g} could be joined with an earlier one`);
    seen.add(key);
  }
  return violations;
}

/** As words by their letters. */
function isBefore(a: readonly number[], b: readonly number[]): boolean {
  const at = a.findIndex((slot, i) => slot !== b[i]);
  if (at < 0) return a.length < b.length;
  return a[at]! < (b[at] ?? -1);
}

function rowViolations(p: StepPacket, limits: PacketLimits): string[] {
  const violations: string[] = [];
  const { sampling } = p;
  for (let r = 0; r < p.numRows; r++) {
    const row = p.logitRows[r]!;
    if (row < 0 || row >= p.numTokens) violations.push(`row ${r} is token ${row}`);
    if (r > 0 && row <= p.logitRows[r - 1]!) violations.push(`row ${r} is not ascending`);
    const target = sampling.targetIds[r]!;
    if (target < -1 || target >= limits.vocabSize) violations.push(`row ${r} targets ${target}`);
    const historyFrom = sampling.historyStart[r]!;
    const historyTo = sampling.historyStart[r + 1]!;
    if (historyTo < historyFrom || historyTo > sampling.history.length) {
      violations.push(`row ${r} has a bad history range`);
    }
    if (sampling.historyPromptLength[r]! > historyTo - historyFrom) {
      violations.push(`row ${r} has more prompt than history`);
    }
    const biasTo = sampling.biasStart[r + 1]!;
    if (biasTo < sampling.biasStart[r]! || biasTo > sampling.biasIds.length) {
      violations.push(`row ${r} has a bad bias range`);
    }
    if (sampling.sampleIndex[r]! < 0) violations.push(`row ${r} has a negative sample index`);
  }
  if (sampling.historyStart[0] !== 0) violations.push('historyStart does not begin at 0');
  if (sampling.biasStart[0] !== 0) violations.push('biasStart does not begin at 0');
  return violations;
}

function copyViolations(p: StepPacket, limits: PacketLimits): string[] {
  const violations: string[] = [];
  const sources = new Set<number>();
  const destinations = new Set<number>();
  for (let c = 0; c < p.numBlockCopies; c++) {
    const source = p.blockCopies[c * 2]!;
    const destination = p.blockCopies[c * 2 + 1]!;
    for (const block of [source, destination]) {
      if (block < 0 || block >= limits.numBlocks) violations.push(`copy ${c} names block ${block}`);
    }
    if (destinations.has(destination)) violations.push(`block ${destination} is copied to twice`);
    sources.add(source);
    destinations.add(destination);
  }
  for (const block of destinations) {
    if (sources.has(block)) violations.push(`block ${block} is source and destination of copies`);
  }
  return violations;
}
