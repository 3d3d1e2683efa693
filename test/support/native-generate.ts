/** Greedy generation on a native session, one or many sequences per step, for tests. */
import type { NativeSession } from '../../src/native/addon-types.ts';
import { type ChunkSpec, packStep } from './step-packets.ts';

export interface Generation {
  prompt: number[];
  blocks: number[];
  slot?: number;
  /** The prompt enters the cache in chunks of at most this many tokens. */
  chunkTokens?: number;
}

export interface Generated {
  tokenIds: number[];
  logprobs: number[];
}

/**
 * Runs all generations together until each has `count` tokens; those that ended drop out. `order`
 * gives the order of the sequences in each step, e.g. a shuffle.
 */
export async function generate(
  session: NativeSession,
  generations: Generation[],
  count: number,
  order: (indices: number[]) => number[] = (indices) => indices,
): Promise<Generated[]> {
  const states = generations.map((generation) => ({
    generation,
    pending: generation.prompt,
    cached: 0,
    result: { tokenIds: [], logprobs: [] } as Generated,
  }));
  for (;;) {
    const open = order([...states.keys()]).filter((i) => states[i]!.result.tokenIds.length < count);
    if (open.length === 0) return states.map((state) => state.result);
    const chunks = open.map((i): ChunkSpec & { last: boolean } => {
      const { generation, pending, cached } = states[i]!;
      const tokens = pending.slice(0, generation.chunkTokens ?? pending.length);
      const last = tokens.length === pending.length;
      return {
        tokens,
        cached,
        blocks: generation.blocks,
        slot: generation.slot ?? -1,
        ropeLength: cached === 0 && last ? tokens.length : cached + tokens.length,
        last,
        ...(last ? {} : { rows: [] }),
      };
    });
    const result = await session.step(packStep(chunks));
    let row = 0;
    for (const [k, i] of open.entries()) {
      const state = states[i]!;
      const chunk = chunks[k]!;
      state.cached += chunk.tokens.length;
      state.pending = state.pending.slice(chunk.tokens.length);
      if (!chunk.last) continue;
      state.result.tokenIds.push(result.tokenIds[row]!);
      state.result.logprobs.push(result.logprobs[row]!);
      state.pending = [result.tokenIds[row]!];
      row += 1;
    }
  }
}

export function maxAbsDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) return Number.POSITIVE_INFINITY;
  let max = 0;
  for (let i = 0; i < a.length; i += 1) max = Math.max(max, Math.abs(a[i]! - b[i]!));
  return max;
}
