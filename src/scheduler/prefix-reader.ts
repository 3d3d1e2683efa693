/** Which leading blocks of a sequence the prefix cache already has, and which may be shared at all. */
import type { BlockHasher } from '../kvcache/block-hash.ts';
import type { PrefixCache } from '../kvcache/prefix-cache.ts';
import type { SchedulerLimits } from './limits.ts';
import type { Sequence, SequenceGroup } from './sequence.ts';

export class PrefixReader {
  /** Blocks found by the last `match`. */
  readonly hits: number[] = [];
  readonly #limits: SchedulerLimits;
  readonly #prefix: PrefixCache;
  readonly #hasher: BlockHasher;

  constructor(limits: SchedulerLimits, prefix: PrefixCache, hasher: BlockHasher) {
    this.#limits = limits;
    this.#prefix = prefix;
    this.#hasher = hasher;
  }

  /**
   * Leading tokens whose keys are a function of the tokens alone. With dynamic rope scaling a prompt
   * beyond the trained length rotates every key by its own length, and so does a generated token
   * beyond it.
   */
  cacheableTokens(group: SequenceGroup): number {
    const { prefixCaching, dynamicRopeMaxPositions } = this.#limits;
    if (!prefixCaching) return 0;
    if (dynamicRopeMaxPositions === undefined) return Number.POSITIVE_INFINITY;
    return group.prompt.length > dynamicRopeMaxPositions ? 0 : dynamicRopeMaxPositions;
  }

  /** Tokens that may come from the cache: prompt rows still to be scored must be computed. */
  readableTokens(group: SequenceGroup): number {
    const cacheable = this.cacheableTokens(group);
    return group.isScored ? cacheable : Math.min(cacheable, group.numScored);
  }

  /**
   * Finds the longest cached run of leading full blocks; they are in `hits` and not yet referenced.
   * Hashes only as far as it finds: a miss on the first block costs one hash.
   *
   * @returns the tokens they hold
   */
  match(sequence: Sequence): number {
    const { blockSize } = this.#limits;
    this.hits.length = 0;
    const readable = Math.min(sequence.numTokens, this.readableTokens(sequence.group));
    const numBlocks = Math.floor(readable / blockSize);
    for (let logical = 0; logical < numBlocks; logical++) {
      const block = this.#prefix.find(sequence.hashAt(logical, this.#hasher));
      if (block === undefined) break;
      this.hits.push(block);
    }
    return this.hits.length * blockSize;
  }
}
