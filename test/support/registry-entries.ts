/** Entries for registry tests, and a listener that keeps what it is told. */
import { createHash } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { putGeneration } from '../../src/adapters/registry/entry.ts';
import type {
  KeptGeneration,
  NameEntry,
  RegistryBackend,
  RegistryDelta,
  RegistryListener,
  RegistrySnapshot,
  RegistryStatus,
  ReplicaInfo,
  VersionedEntry,
} from '../../src/adapters/registry/types.ts';
import { LoramuxError } from '../../src/errors.ts';
import { PATIENCE_MS } from './until.ts';

export const sha256 = (data: string | Uint8Array): string =>
  createHash('sha256').update(data).digest('hex');

/** A generation whose digest is the hash of `content`. */
export function keptGeneration(
  content: string,
  overrides: Partial<KeptGeneration> = {},
): KeptGeneration {
  return {
    digest: sha256(content),
    fileBytes: 4096,
    headerBytes: 512,
    headerDigest: sha256(`header of ${content}`),
    rank: 8,
    residentBytes: 16_384,
    targetModules: ['q_proj', 'v_proj'],
    base: sha256('shapes'),
    source: 'upload',
    createdAt: 1_700_000_000,
    ...overrides,
  };
}

/** An entry that got the contents one after the other; the last one is current. */
export function nameEntry(name: string, ...contents: readonly string[]): NameEntry {
  const entry = contents.reduce<NameEntry | undefined>(
    (before, content, index) =>
      putGeneration(before, name, keptGeneration(content), {
        maxGenerations: 64,
        nowSeconds: 1_700_000_000 + index,
      }),
    undefined,
  );
  if (entry === undefined) throw new Error('an entry needs at least one content');
  return entry;
}

export function replicaInfo(id: string, overrides: Partial<ReplicaInfo> = {}): ReplicaInfo {
  return {
    id,
    url: `http://${id}.example:8000`,
    version: '1.2.3',
    model: 'base',
    startedAtMs: 1_700_000_000_000,
    updatedAtMs: Date.now(),
    slots: 16,
    revision: 7,
    requestsRunning: 2,
    requestsWaiting: 1,
    adapters: [{ generation: sha256('a'), names: ['a', 'b'], level: 'device', pinned: true }],
    ...overrides,
  };
}

/** Applies snapshots and deltas to a map, and keeps them. */
export class RecordingListener implements RegistryListener {
  readonly snapshots: { readonly snapshot: RegistrySnapshot; readonly before: number }[] = [];
  readonly deltas: RegistryDelta[] = [];
  readonly statuses: RegistryStatus[] = [];
  readonly entries = new Map<string, VersionedEntry>();
  readonly damaged = new Map<string, string>();
  /** Newest revision it was told of. */
  revision = 0;

  onSnapshot(snapshot: RegistrySnapshot, before: number): void {
    this.snapshots.push({ snapshot, before });
    this.entries.clear();
    this.damaged.clear();
    for (const versioned of snapshot.entries) this.entries.set(versioned.entry.name, versioned);
    for (const { name, reason } of snapshot.damaged) this.damaged.set(name, reason);
    this.revision = snapshot.revision;
  }

  onDelta(delta: RegistryDelta): void {
    this.deltas.push(delta);
    for (const { name, revision } of delta.removed) {
      if ((this.entries.get(name)?.revision ?? 0) < revision) this.entries.delete(name);
      this.damaged.delete(name);
    }
    for (const versioned of delta.changed) {
      const { name } = versioned.entry;
      const known = this.entries.get(name)?.revision ?? 0;
      if (known <= versioned.revision) this.entries.set(name, versioned);
      this.damaged.delete(name);
    }
    for (const { name, reason } of delta.damaged) {
      this.entries.delete(name);
      this.damaged.set(name, reason);
    }
    this.revision = Math.max(this.revision, delta.revision);
  }

  onStatus(status: RegistryStatus): void {
    this.statuses.push(status);
  }
}

const POLL_MS = 5;

/** Polls until the condition holds; fails with `what` after a bound. */
export async function until(
  what: string,
  condition: () => boolean | Promise<boolean>,
  boundMs = PATIENCE_MS,
): Promise<void> {
  const end = performance.now() + boundMs;
  while (!(await condition())) {
    if (performance.now() > end) throw new Error(`not within ${boundMs} ms: ${what}`);
    await sleep(POLL_MS);
  }
}

/** The code of the LoramuxError that a promise rejects with; 'resolved' when it does not. */
export async function codeOf(promise: Promise<unknown>): Promise<string> {
  try {
    await promise;
    return 'resolved';
  } catch (error) {
    if (error instanceof LoramuxError) return error.code;
    throw error;
  }
}

/** Writes and returns the new version; fails when it was not written. */
export async function written(
  backend: RegistryBackend,
  name: string,
  expected: number | 'damaged',
  next: NameEntry | undefined,
): Promise<{ readonly revision: number; readonly changeId: string }> {
  const result = await backend.write(name, expected, next);
  if (result.status !== 'written') {
    throw new Error(`${name} at ${expected}: not written but ${JSON.stringify(result)}`);
  }
  return result;
}
