/** Block arithmetic of admission: plain numbers in and out. */
import { ADMISSION_WATERMARK } from './limits.ts';

/** Blocks that hold `numTokens` tokens. */
export function blocksForTokens(numTokens: number, blockSize: number): number {
  return Math.ceil(numTokens / blockSize);
}

/**
 * Tokens of one choice that ever reach the KV cache. The last generated token is answered but never
 * fed back, so it needs no slot.
 */
export function worstCaseCachedTokens(promptTokens: number, maxTokens: number): number {
  return Math.max(promptTokens, promptTokens + maxTokens - 1);
}

/**
 * Most blocks a request can hold: its choices share the full blocks of all but the last prompt token
 * (which each choice computes for itself) and own the rest.
 */
export function worstCaseBlocks(
  promptTokens: number,
  maxTokens: number,
  n: number,
  blockSize: number,
): number {
  const perChoice = blocksForTokens(worstCaseCachedTokens(promptTokens, maxTokens), blockSize);
  if (n === 1 || maxTokens === 0) return perChoice;
  const shared = Math.floor((promptTokens - 1) / blockSize);
  return shared + n * (perChoice - shared);
}

/** The most tokens of each of `n` choices with which a request can still run. */
export function outputRoom(
  promptTokens: number,
  n: number,
  limits: { maxModelLen: number; numBlocks: number; blockSize: number },
): number {
  const { maxModelLen, numBlocks, blockSize } = limits;
  const fits = (maxTokens: number) =>
    worstCaseBlocks(promptTokens, maxTokens, n, blockSize) <= numBlocks;
  let most = maxModelLen - promptTokens;
  if (most < 1 || fits(most)) return most;
  let least = 0;
  while (most - least > 1) {
    const middle = Math.floor((least + most) / 2);
    if (fits(middle)) least = middle;
    else most = middle;
  }
  return least;
}

export interface AdmissionNeed {
  /** All tokens known of the sequence. */
  numTokens: number;
  /** Leading tokens whose blocks are reused whole. */
  sharedTokens: number;
  /** Of those blocks, how many are free now and would leave the free list. */
  sharedFreeBlocks: number;
  /** A free block that must be kept as the source of a copy: 1, else 0. */
  copySourceFreeBlocks: number;
  blockSize: number;
}

/** Free blocks an admission uses up before the sequence's first new token. */
export function admissionBlocks(need: AdmissionNeed): number {
  const total = blocksForTokens(need.numTokens, need.blockSize);
  const shared = need.sharedTokens / need.blockSize;
  return total - shared + need.sharedFreeBlocks + need.copySourceFreeBlocks;
}

/**
 * "Now" or "not now". `debtBlocks` are blocks that admitted prompts still need; while others run, a
 * watermark is kept for their growth. With nothing running everything is free, so whatever passed
 * `worstCaseBlocks` at submission is admitted: waiting cannot last for ever.
 */
export function fitsNow(
  neededBlocks: number,
  freeBlocks: number,
  debtBlocks: number,
  numBlocks: number,
  othersRunning: boolean,
): boolean {
  const watermark = othersRunning ? Math.ceil(numBlocks * ADMISSION_WATERMARK) : 0;
  return freeBlocks - debtBlocks - watermark >= neededBlocks;
}
