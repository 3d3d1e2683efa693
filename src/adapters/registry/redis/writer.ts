/** One change of the registry, carried out exactly once although connections break. */
import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { LoramuxError } from '../../../errors.ts';
import type { NameEntry, WriteResult } from '../types.ts';
import { encodeForRedis, expectStatus, integer, text } from './decode.ts';
import type { RedisKeys } from './keys.ts';
import { RedisFailure, type RedisLink } from './link.ts';
import { runScript, type ScriptResult } from './scripts.ts';

/** Times the command timeout that a change may take, from the call to the end of its retries. */
export const WRITE_WINDOW_FACTOR = 2;
/** Share of the command timeout that replicas get to confirm a change. */
const WAIT_SHARE = 0.8;
const RETRY_PAUSE_MS = 25;
/** Removals that a reading can still tell; older ones need a complete reading. */
const REMOVED_MAX = 10_000;
/** Changes by which a reader's position is checked. */
const LOG_MAX = 10_000;
/** How long a retry finds the outcome of its change. */
const DONE_TTL_MS = 600_000;

export interface WriterOptions {
  readonly link: RedisLink;
  readonly keys: RedisKeys;
  readonly timeoutMs: number;
  /** Redis replicas that must have the change. */
  readonly waitReplicas: number;
  readonly maxNames: number;
  readonly sharesBlobs: boolean;
}

export interface WriteOrder {
  readonly registryId: string;
  readonly name: string;
  readonly expected: number | 'damaged';
  readonly next: NameEntry | undefined;
  /** Change id of the content that was found damaged; empty for none. */
  readonly proofOfDamage: string;
  /** End of the retries, on the clock of `performance.now()`. */
  readonly deadlineMs: number;
}

export interface WriteOutcome {
  readonly result: WriteResult;
  /** Change id of the change before; undefined when it is not known any more. */
  readonly changeIdBefore?: string | undefined;
  /** The change is made, but so many replicas have it, which is too few. */
  readonly confirmedBy?: number | undefined;
}

export class RegistryWriter {
  readonly #options: WriterOptions;

  constructor(options: WriterOptions) {
    this.#options = options;
  }

  /**
   * @throws RedisFailure when certainly nothing was changed, Unusable, LoramuxError
   *   registry_outcome_unknown.
   */
  async write(order: WriteOrder): Promise<WriteOutcome> {
    const changeId = randomUUID().replaceAll('-', '');
    const args = this.#args(order, changeId);
    let mayBeDone = false;
    for (;;) {
      try {
        const { result, confirmedBy } = await this.#try(order.name, changeId, args);
        return { ...this.#outcome(result, changeId), confirmedBy };
      } catch (error) {
        if (!(error instanceof RedisFailure)) throw error;
        mayBeDone ||= error.kind === 'unknown';
        if (!mayBeDone) throw error;
        const isFinal = error.kind === 'refused' && !error.isPassing;
        if (isFinal || !(await this.#ready(order.deadlineMs))) throw outcomeUnknown(error);
      }
    }
  }

  /** Sends the change, and where replicas count, waits for them on the same connection. */
  async #try(
    name: string,
    changeId: string,
    args: readonly (string | number)[],
  ): Promise<{ result: ScriptResult; confirmedBy?: number }> {
    const { link, keys, waitReplicas, timeoutMs } = this.#options;
    const { meta, index, removed, log, names, refs, blobs, garbage, wanted, done } = keys;
    const keyNames = [
      ...[meta, index, removed, log, names + name],
      ...[refs, blobs, garbage, wanted, done + changeId],
    ];
    const result = await link.callWriter((redis) => runScript(redis, 'write', keyNames, args));
    if (waitReplicas === 0 || result[0] !== 'written') return { result };
    const waitMs = Math.max(1, Math.floor(timeoutMs * WAIT_SHARE));
    try {
      const confirmedBy = await link.callWriter((redis) => redis.wait(waitReplicas, waitMs));
      return confirmedBy >= waitReplicas ? { result } : { result, confirmedBy };
    } catch (error) {
      if (!(error instanceof RedisFailure)) throw error;
      if (error.kind === 'refused') throw outcomeUnknown(error);
      // Whatever became of the question: the change is made.
      throw new RedisFailure('unknown', error.message, error);
    }
  }

  #outcome(result: ScriptResult, changeId: string): WriteOutcome {
    const { root } = this.#options.keys;
    const statuses = ['written', 'conflict', 'full', 'blobs_missing'] as const;
    const { status, rest } = expectStatus(result, root, ...statuses);
    switch (status as (typeof statuses)[number]) {
      case 'conflict':
        return { result: { status: 'conflict' } };
      case 'full':
        return { result: { status: 'full' } };
      case 'blobs_missing':
        return { result: { status: 'blobs_missing', digests: rest.map(text) } };
      case 'written': {
        const before = text(rest[1]);
        return {
          result: { status: 'written', revision: integer(rest[0]), changeId },
          changeIdBefore: before === '?' ? undefined : before.replace('-', ''),
        };
      }
    }
  }

  #args(order: WriteOrder, changeId: string): (string | number)[] {
    const { keys, maxNames, sharesBlobs } = this.#options;
    const { registryId, name, expected, next, proofOfDamage } = order;
    const encoded = next === undefined ? { text: '', digests: '' } : encodeForRedis(next);
    return [
      ...[registryId, name, expected, changeId, encoded.text, encoded.digests],
      ...[maxNames, sharesBlobs ? 1 : 0, proofOfDamage, keys.channel],
      ...[REMOVED_MAX, LOG_MAX, DONE_TTL_MS],
    ];
  }

  async #ready(deadlineMs: number): Promise<boolean> {
    await sleep(RETRY_PAUSE_MS);
    return this.#options.link.writerReady(deadlineMs - performance.now());
  }
}

function outcomeUnknown(failure: RedisFailure): LoramuxError {
  return new LoramuxError(
    'registry_outcome_unknown',
    `It is not known whether the change was made: ${failure.message}. Read it back before you retry.`,
    { cause: failure },
  );
}
