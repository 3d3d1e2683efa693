/** Which blob is where, and which may be deleted; kept in Redis beside the names that need it. */
import { randomUUID } from 'node:crypto';
import { LoramuxError } from '../../../errors.ts';
import type { BlobLedger } from '../../blobs/types.ts';
import { expectStatus, text } from './decode.ts';
import type { RedisKeys } from './keys.ts';
import type { RedisLink } from './link.ts';
import type { ScriptName } from './scripts.ts';

/** Digests of one answer. */
const WANTED_MAX = 256;
/** Locations of one claim. */
const CLAIM_MAX = 256;
/** After this long a claim that was not confirmed may be taken by others. */
const CLAIM_TTL_MS = 120_000;
/** Pause between two counts of all references. */
const REBUILD_PAUSE_MS = 60_000;
/** Times the command timeout that a script which may run twice is repeated for. */
const REPEAT_WINDOW_FACTOR = 2;

export interface LedgerOptions {
  readonly link: RedisLink;
  readonly keys: RedisKeys;
  readonly timeoutMs: number;
  /** How long a blob stays after its last reference, milliseconds. */
  readonly graceMs: number;
  /** How long an upload may take, milliseconds. */
  readonly uploadTtlMs: number;
  readonly sharesBlobs: boolean;
  /** Id of the registry. @throws LoramuxError registry_unavailable, registry_lost. */
  readonly registryId: () => string;
  /** Makes any failure a LoramuxError. */
  readonly toError: (error: unknown) => LoramuxError;
  readonly onWarning: (message: string) => void;
}

/** Every method throws LoramuxError registry_unavailable or registry_lost. */
export class RedisBlobLedger implements BlobLedger {
  readonly #options: LedgerOptions;
  #rebuiltAtMs = Number.NEGATIVE_INFINITY;

  constructor(options: LedgerOptions) {
    this.#options = options;
  }

  async locate(digest: string): Promise<string | undefined> {
    const { blobs, garbage, wanted, refs } = this.#options.keys;
    const keys = [blobs, garbage, wanted, refs];
    const { status, rest } = await this.#run('blob-locate', keys, [digest], ['at', 'nowhere']);
    return status === 'at' ? text(rest[0]) : undefined;
  }

  async beginUpload(digest: string): Promise<string> {
    const { keys, uploadTtlMs } = this.#options;
    const location = `${digest}/${randomUUID()}`;
    await this.#run('blob-begin', [keys.uploads], [location, uploadTtlMs]);
    return location;
  }

  /** @throws LoramuxError blob_unavailable when the upload took too long and was given up. */
  async commitUpload(digest: string, location: string): Promise<string> {
    const { uploads, blobs, garbage, wanted, refs, deleting } = this.#options.keys;
    const { status, rest } = await this.#run(
      'blob-commit',
      [uploads, blobs, garbage, wanted, refs, deleting],
      [digest, location],
      ['ok', 'expired'],
    );
    if (status === 'ok') return text(rest[0]);
    const seconds = Math.round(this.#options.uploadTtlMs / 1000);
    throw new LoramuxError(
      'blob_unavailable',
      `The upload of ${digest} to the blob store took longer than ${seconds} s and was given up; ` +
        'upload it again.',
    );
  }

  async reportMissing(digest: string, location: string): Promise<void> {
    const { blobs, garbage, wanted, refs, deleting } = this.#options.keys;
    const keys = [blobs, garbage, wanted, refs, deleting];
    await this.#run('blob-missing', keys, [digest, location]);
  }

  async wanted(): Promise<readonly string[]> {
    const { blobs, wanted, refs } = this.#options.keys;
    const { rest } = await this.#run('blob-wanted', [blobs, wanted, refs], [WANTED_MAX]);
    return rest.map(text);
  }

  async claimGarbage(max: number): Promise<readonly string[]> {
    const { uploads, blobs, garbage, refs, deleting } = this.#options.keys;
    const { rest } = await this.#run(
      'blob-claim',
      [uploads, blobs, garbage, refs, deleting],
      [Math.min(max, CLAIM_MAX), this.#options.graceMs, CLAIM_TTL_MS],
    );
    if (rest[0] === '1') await this.#countReferences();
    return rest.slice(1).map(text);
  }

  async confirmRemoved(location: string): Promise<void> {
    const { uploads, deleting } = this.#options.keys;
    await this.#run('blob-confirm', [uploads, deleting], [location]);
  }

  /** After damage: the next claims go by the new count. */
  async #countReferences(): Promise<void> {
    const { keys, sharesBlobs, onWarning } = this.#options;
    if (performance.now() - this.#rebuiltAtMs < REBUILD_PAUSE_MS) return;
    this.#rebuiltAtMs = performance.now();
    const { blobs, garbage, wanted, refs, names } = keys;
    const { status, rest } = await this.#run(
      'refs-rebuild',
      [blobs, garbage, wanted, refs],
      [names, sharesBlobs ? 1 : 0],
      ['ok', 'unreadable'],
    );
    onWarning(
      status === 'ok'
        ? `References to shared adapter files were counted again: ${text(rest[0])} are in use.`
        : 'Shared adapter files without a name are not deleted while the adapter ' +
            `${JSON.stringify(text(rest[0]))} is damaged; replace it or remove it.`,
    );
  }

  async #run(
    name: ScriptName,
    keyNames: readonly string[],
    args: readonly (string | number)[],
    statuses: readonly string[] = ['ok'],
  ): Promise<{ readonly status: string; readonly rest: readonly unknown[] }> {
    const { link, keys, timeoutMs, registryId, toError } = this.#options;
    const { meta, index, root } = keys;
    try {
      const result = await link.runRepeatable(
        name,
        [meta, index, ...keyNames],
        [registryId(), ...args],
        REPEAT_WINDOW_FACTOR * timeoutMs,
      );
      return expectStatus(result, root, ...statuses);
    } catch (error) {
      throw toError(error);
    }
  }
}
