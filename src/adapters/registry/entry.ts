/**
 * What can be done to one name, as pure functions: an entry goes in, the next entry comes out. They
 * hold for every registry and are called again on a conflict, so they must not do anything else.
 *
 * - A put adds a generation at the front of the history and moves the name to it, which ends a split;
 *   with a canary weight the name stays where it is and the new generation gets that share.
 * - Only a put drops generations: the longest not put ones beyond the limit. The current generation
 *   and that of a split are never dropped, so a limit of 1 keeps two while there is a split.
 * - A change that changes nothing returns the very object it was given.
 */
import { LoramuxError } from '../../errors.ts';
import type { Condition } from '../service-types.ts';
import type { KeptGeneration, NameEntry, Split } from './types.ts';

export interface PutChange {
  /** Share of the requests for the new generation, above 0 and below 1; undefined moves the name. */
  readonly canaryWeight?: number | undefined;
  /** Generations that the name may keep, at least 1. */
  readonly maxGenerations: number;
  /** Seconds since the epoch. */
  readonly nowSeconds: number;
}

/**
 * @param entry undefined when the name does not exist.
 * @throws LoramuxError generation_mismatch with the current generation, null when there is none.
 */
export function checkCondition(
  name: string,
  entry: NameEntry | undefined,
  { ifMatch, ifNoneMatch }: Condition,
): void {
  const shown = JSON.stringify(name);
  const matches = ifMatch === '*' ? entry !== undefined : ifMatch === entry?.current;
  if (ifMatch !== undefined && !matches) {
    const found = entry === undefined ? 'does not exist' : `points to ${entry.current}`;
    const wanted = ifMatch === '*' ? 'an existing name' : `generation ${ifMatch}`;
    throw new LoramuxError(
      'generation_mismatch',
      `The change is for ${wanted}, but ${shown} ${found}. Look at it and try again.`,
      { currentGeneration: entry?.current ?? null },
    );
  }
  if (ifNoneMatch === true && entry !== undefined) {
    throw new LoramuxError(
      'generation_mismatch',
      `${shown} must not exist for this change, but points to ${entry.current}.`,
      { currentGeneration: entry.current },
    );
  }
}

/**
 * Puts a generation under a name. Content that the name keeps already moves to the front of the
 * history with its new source and time; there is never a second one of the same digest. Putting the
 * split's content without a weight promotes it; another canary takes the place of the one before.
 * @throws LoramuxError invalid_request: a canary of a new name, of the current content, or with a
 *   weight out of range.
 */
export function putGeneration(
  entry: NameEntry | undefined,
  name: string,
  kept: KeptGeneration,
  { canaryWeight, maxGenerations, nowSeconds }: PutChange,
): NameEntry {
  if (entry === undefined) {
    if (canaryWeight !== undefined) {
      throw invalid(
        `${JSON.stringify(name)} does not exist, so there is nothing to share its requests with. ` +
          'Put the adapter without a canary weight first.',
      );
    }
    return Object.freeze({
      name,
      generations: [kept],
      current: kept.digest,
      split: undefined,
      pinned: false,
      createdAt: nowSeconds,
      updatedAt: nowSeconds,
    });
  }
  const split =
    canaryWeight === undefined
      ? undefined
      : checkedSplit(entry, { digest: kept.digest, weight: canaryWeight });
  const current = split === undefined ? kept.digest : entry.current;
  const others = entry.generations.filter(({ digest }) => digest !== kept.digest);
  const needed = new Set([current, split?.digest]);
  const generations = bounded([kept, ...others], maxGenerations, needed);
  return Object.freeze({ ...entry, generations, current, split, updatedAt: nowSeconds });
}

/**
 * Makes a kept generation current and ends a split: that of `digest`, or without one the generation
 * put before the current one. Going back twice therefore goes back two puts; going forward again
 * needs a digest. The split's digest promotes it. The current digest only ends a split.
 * The order of the history stays: it says when contents were put.
 * @throws LoramuxError generation_not_found, with what the name keeps.
 */
export function rollback(
  entry: NameEntry,
  digest: string | undefined,
  nowSeconds: number,
): NameEntry {
  const target = digest ?? putBeforeCurrent(entry);
  if (!keeps(entry, target)) throw notKept(entry, target);
  if (target === entry.current && entry.split === undefined) return entry;
  return Object.freeze({ ...entry, current: target, split: undefined, updatedAt: nowSeconds });
}

/**
 * Gives a kept generation a share of the requests, or with undefined ends the split.
 * @throws LoramuxError generation_not_found; invalid_request for a weight that is not above 0 and
 *   below 1, or the current generation.
 */
export function setSplit(
  entry: NameEntry,
  split: Split | undefined,
  nowSeconds: number,
): NameEntry {
  const next = split === undefined ? undefined : checkedSplit(entry, split);
  if (next !== undefined && !keeps(entry, next.digest)) throw notKept(entry, next.digest);
  if (next?.digest === entry.split?.digest && next?.weight === entry.split?.weight) return entry;
  return Object.freeze({ ...entry, split: next, updatedAt: nowSeconds });
}

export function setPinned(entry: NameEntry, pinned: boolean, nowSeconds: number): NameEntry {
  if (pinned === entry.pinned) return entry;
  return Object.freeze({ ...entry, pinned, updatedAt: nowSeconds });
}

/** The newest `max` generations and those that are needed, in their order. */
function bounded(
  generations: readonly KeptGeneration[],
  max: number,
  needed: ReadonlySet<string | undefined>,
): readonly KeptGeneration[] {
  let surplus = generations.length - Math.max(1, max);
  const kept: KeptGeneration[] = [];
  for (const generation of [...generations].reverse()) {
    if (surplus > 0 && !needed.has(generation.digest)) surplus--;
    else kept.unshift(generation);
  }
  return kept;
}

function checkedSplit(entry: NameEntry, { digest, weight }: Split): Split {
  if (!(weight > 0 && weight < 1)) {
    throw invalid(
      `The weight ${weight} is not above 0 and below 1. ` +
        'To give a generation all requests, roll the name back to it; for none, end the split.',
    );
  }
  if (digest === entry.current) {
    throw new LoramuxError(
      'generation_current',
      `Generation ${digest} is the current one of ${JSON.stringify(entry.name)} and gets all ` +
        'requests that a split leaves; split with another one.',
    );
  }
  return Object.freeze({ digest, weight });
}

function putBeforeCurrent(entry: NameEntry): string {
  const index = entry.generations.findIndex(({ digest }) => digest === entry.current);
  const before = entry.generations[index + 1];
  if (before !== undefined) return before.digest;
  throw new LoramuxError(
    'generation_not_found',
    `${JSON.stringify(entry.name)} keeps no generation from before the current one ` +
      `(${entry.current}); there is nothing to roll back to.`,
  );
}

function keeps(entry: NameEntry, digest: string): boolean {
  return entry.generations.some((generation) => generation.digest === digest);
}

function notKept(entry: NameEntry, digest: string): LoramuxError {
  return new LoramuxError(
    'generation_not_found',
    `${JSON.stringify(entry.name)} does not keep generation ${digest}. It keeps ` +
      `${entry.generations.map((generation) => generation.digest).join(', ')}.`,
  );
}

function invalid(message: string): LoramuxError {
  return new LoramuxError('invalid_request', message);
}
