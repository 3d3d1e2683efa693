/** One change of one name: read, compute, write, again when somebody else was faster. */
import { setTimeout as sleep } from 'node:timers/promises';
import { LoramuxError } from '../errors.ts';
import type { NameEntry, RegistryBackend, VersionedEntry } from './registry/types.ts';

/** Tries before a name that others change all the time is given up. */
export const CHANGE_ATTEMPTS_MAX = 64;
/** Upper bound of the random pause after a conflict, milliseconds, times the number of tries. */
const CONFLICT_PAUSE_MS = 4;
/** Times that blobs which vanished meanwhile are shared again. */
const BLOB_ATTEMPTS_MAX = 3;

export interface NameChange {
  readonly name: string;
  /** The next entry, undefined to remove the name. Called again after a conflict. */
  readonly next: (entry: NameEntry | undefined, isDamaged: boolean) => NameEntry | undefined;
  /** A damaged entry may be overwritten or removed; otherwise it is an error. */
  readonly replacesDamaged: boolean;
  /** Makes blobs available that the registry says it lacks. */
  readonly shareBlobs?: ((digests: readonly string[]) => Promise<void>) | undefined;
}

export interface ChangedName {
  readonly before: VersionedEntry | undefined;
  readonly wasDamaged: boolean;
  /** Undefined when the name was removed. */
  readonly after: VersionedEntry | undefined;
  readonly revision: number;
}

/**
 * @throws LoramuxError registry_conflict, adapter_limit_exceeded, blob_missing, what `next` and the
 *   backend throw.
 */
export async function changeName(
  backend: RegistryBackend,
  change: NameChange,
): Promise<ChangedName> {
  let blobAttempts = 0;
  for (let attempt = 1; attempt <= CHANGE_ATTEMPTS_MAX; attempt++) {
    const { before, wasDamaged } = await readName(backend, change);
    const entry = change.next(before?.entry, wasDamaged);
    if (entry !== undefined && entry === before?.entry) {
      return { before, wasDamaged, after: before, revision: before.revision };
    }
    const expected = wasDamaged ? 'damaged' : (before?.revision ?? 0);
    const result = await backend.write(change.name, expected, entry);
    if (result.status === 'written') {
      const { revision, changeId } = result;
      const after = entry && { revision, changeId, entry };
      return { before, wasDamaged, after, revision };
    }
    if (result.status === 'full') {
      throw new LoramuxError(
        'adapter_limit_exceeded',
        'The registry has as many adapters as it may have (--max-adapters). Remove one first.',
      );
    }
    if (result.status === 'blobs_missing') {
      if (change.shareBlobs === undefined || ++blobAttempts > BLOB_ATTEMPTS_MAX) {
        throw new LoramuxError(
          'blob_missing',
          `The blob store lost the content of ${result.digests.join(', ')}. Upload it again.`,
        );
      }
      await change.shareBlobs(result.digests);
      continue;
    }
    await sleep(Math.random() * CONFLICT_PAUSE_MS * attempt);
  }
  throw new LoramuxError(
    'registry_conflict',
    `Others changed ${JSON.stringify(change.name)} ${CHANGE_ATTEMPTS_MAX} times meanwhile; retry.`,
  );
}

async function readName(
  backend: RegistryBackend,
  change: NameChange,
): Promise<{ before: VersionedEntry | undefined; wasDamaged: boolean }> {
  try {
    return { before: await backend.read(change.name), wasDamaged: false };
  } catch (error) {
    const damaged = error instanceof LoramuxError && error.code === 'store_corrupt';
    if (!damaged || !change.replacesDamaged) throw error;
    return { before: undefined, wasDamaged: true };
  }
}
