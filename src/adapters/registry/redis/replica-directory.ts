/** The replicas of a fleet: each announces itself for a while, and lists the others. */
import type { ReplicaAdapter, ReplicaInfo } from '../types.ts';
import { expectStatus, integer } from './decode.ts';
import type { RedisKeys } from './keys.ts';
import type { RedisLink } from './link.ts';

/** Replicas of one deployment. */
export const MAX_REPLICAS = 256;
/** What one replica says of itself; adapters beyond it are left out. */
export const MAX_REPLICA_BYTES = 256 * 1024;
/** Replicas of one answer. */
const PAGE_REPLICAS = 16;

export interface DirectoryOptions {
  readonly ttlMs: number;
  readonly onWarning: (message: string) => void;
}

export class ReplicaDirectory {
  readonly #link: RedisLink;
  readonly #keys: RedisKeys;
  readonly #options: DirectoryOptions;
  readonly #warned = new Set<string>();
  #announced: string | undefined;

  constructor(link: RedisLink, keys: RedisKeys, options: DirectoryOptions) {
    this.#link = link;
    this.#keys = keys;
    this.#options = options;
  }

  /** @throws RedisFailure, Unusable. */
  async announce(self: ReplicaInfo): Promise<void> {
    const { replicas, replica, root } = this.#keys;
    const result = await this.#link.run(
      'announce',
      [replicas, replica + self.id],
      [self.id, this.#encode(self), this.#options.ttlMs, MAX_REPLICAS],
    );
    const { status } = expectStatus(result, root, 'ok', 'full');
    if (status === 'ok') this.#announced = self.id;
    else this.#warn(`There are ${MAX_REPLICAS} replicas already; this one is not listed.`);
  }

  /** @throws RedisFailure, Unusable. */
  async list(): Promise<readonly ReplicaInfo[]> {
    const { replicas, replica, root } = this.#keys;
    const live = new Map<string, ReplicaInfo>();
    for (let from = 0; from < MAX_REPLICAS; from += PAGE_REPLICAS) {
      const result = await this.#link.run('replicas', [replicas], [from, PAGE_REPLICAS, replica]);
      const { rest } = expectStatus(result, root, 'ok');
      for (const said of rest.slice(1)) {
        const info = parseReplica(String(said));
        if (info !== undefined) live.set(info.id, info);
        else this.#warn('A replica of another version announces itself in a form not known here.');
      }
      if (integer(rest[0]) < PAGE_REPLICAS) break;
    }
    return [...live.values()].sort((a, b) => (a.id < b.id ? -1 : 1));
  }

  /** @throws RedisFailure, Unusable. */
  async withdraw(): Promise<void> {
    const id = this.#announced;
    if (id === undefined) return;
    this.#announced = undefined;
    const { replicas, replica, root } = this.#keys;
    expectStatus(await this.#link.run('withdraw', [replicas, replica + id], [id]), root, 'ok');
  }

  #encode(self: ReplicaInfo): string {
    const whole = JSON.stringify(self);
    if (Buffer.byteLength(whole) <= MAX_REPLICA_BYTES) return whole;
    this.#warn('This replica has more resident adapters than its announcement can hold.');
    let room = MAX_REPLICA_BYTES - Buffer.byteLength(JSON.stringify({ ...self, adapters: [] }));
    const adapters: ReplicaAdapter[] = [];
    for (const adapter of self.adapters) {
      room -= Buffer.byteLength(JSON.stringify(adapter)) + 1;
      if (room < 0) break;
      adapters.push(adapter);
    }
    return JSON.stringify({ ...self, adapters });
  }

  /** Once per message: announcements come every few seconds. */
  #warn(message: string): void {
    if (this.#warned.has(message)) return;
    this.#warned.add(message);
    this.#options.onWarning(message);
  }
}

const TEXTS = ['id', 'url', 'version', 'model'] as const;
const NUMBERS = [
  ...(['startedAtMs', 'updatedAtMs', 'slots', 'revision'] as const),
  ...(['requestsRunning', 'requestsWaiting'] as const),
];

/** Undefined when it is not what this version announces. */
export function parseReplica(said: string): ReplicaInfo | undefined {
  let raw: Record<string, unknown>;
  try {
    raw = JSON.parse(said) as Record<string, unknown>;
  } catch {
    return undefined;
  }
  if (typeof raw !== 'object' || raw === null || !Array.isArray(raw.adapters)) return undefined;
  if (!TEXTS.every((key) => typeof raw[key] === 'string')) return undefined;
  if (!NUMBERS.every((key) => Number.isFinite(raw[key]))) return undefined;
  if (!raw.adapters.every(isReplicaAdapter)) return undefined;
  const known = [...TEXTS, ...NUMBERS, 'adapters'];
  const fields = Object.entries(raw).filter(([key]) => known.includes(key));
  return Object.fromEntries(fields) as unknown as ReplicaInfo;
}

function isReplicaAdapter(raw: unknown): raw is ReplicaAdapter {
  const { generation, names, level, pinned } = (raw ?? {}) as Record<string, unknown>;
  return (
    typeof generation === 'string' &&
    Array.isArray(names) &&
    names.every((name) => typeof name === 'string') &&
    (level === 'device' || level === 'host') &&
    typeof pinned === 'boolean'
  );
}
