/** This server's place in the fleet: what it tells the others, and keeping what is pinned resident. */
import { randomBytes } from 'node:crypto';
import { hostname } from 'node:os';
import type { AdapterRegistry } from './adapters/adapter-registry.ts';
import type { SlotResidency } from './adapters/index.ts';
import { Periodic } from './adapters/periodic.ts';
import type { ReplicaAdapter, ReplicaInfo } from './adapters/registry/types.ts';
import type { EngineStats } from './engine/types.ts';
import type { AdapterInMemory } from './metrics/sources.ts';
import { VERSION } from './version.ts';

/** Signs of life within the time to live: one or two may be lost. */
const ANNOUNCEMENTS_PER_TTL = 3;
/** Changes of residency within this time are told at once, milliseconds. */
const SETTLE_MS = 150;
/** Adapters an announcement lists, resident ones first. */
export const ANNOUNCED_ADAPTERS_MAX = 4096;

export interface ReplicaOptions {
  readonly adapters: AdapterRegistry;
  readonly residency: SlotResidency;
  readonly engine: { stats(): EngineStats };
  readonly id: string;
  readonly url: string;
  readonly model: string;
  readonly ttlMs: number;
  readonly onWarning: (message: string, error: unknown) => void;
}

/** A name for a replica that was given none. */
export function drawReplicaId(): string {
  return `${hostname().slice(0, 64)}-${process.pid}-${randomBytes(4).toString('hex')}`;
}

export class Replica {
  readonly #options: ReplicaOptions;
  readonly #startedAtMs = Date.now();
  readonly #announcer: Periodic;

  /** Announces from now on until `close`. */
  constructor(options: ReplicaOptions) {
    this.#options = options;
    let failing = false;
    this.#announcer = new Periodic({
      everyMs: options.ttlMs / ANNOUNCEMENTS_PER_TTL,
      settleMs: SETTLE_MS,
      work: async () => {
        await options.adapters.announce(this.describe());
        failing = false;
      },
      onError: (error) => {
        // The registry's state says the rest; one line for each outage is enough.
        if (!failing) options.onWarning('this replica could not announce itself', error);
        failing = true;
      },
    });
    this.#announcer.touch();
  }

  /** What is resident here has changed. */
  touch(): void {
    this.#announcer.touch();
  }

  describe(): ReplicaInfo {
    const { id, url, model, adapters, residency, engine } = this.#options;
    const { running, waiting } = engine.stats();
    return {
      id,
      url,
      version: VERSION,
      model,
      startedAtMs: this.#startedAtMs,
      updatedAtMs: Date.now(),
      slots: residency.maxSlots,
      revision: adapters.revision,
      requestsRunning: running,
      requestsWaiting: waiting,
      adapters: this.#adapters(),
    };
  }

  close(): Promise<void> {
    return this.#announcer.close();
  }

  #adapters(): ReplicaAdapter[] {
    const { adapters, residency } = this.#options;
    return adaptersInMemory(adapters, residency)
      .slice(0, ANNOUNCED_ADAPTERS_MAX)
      .map(({ digest, level, pinned }) => ({
        generation: digest,
        names: adapters.namesOf(digest),
        level,
        pinned,
      }));
  }
}

/** Every generation in device or host memory, each once, nearest first. */
export function adaptersInMemory(
  adapters: Pick<AdapterRegistry, 'hostImages'>,
  residency: Pick<SlotResidency, 'adapters'>,
): AdapterInMemory[] {
  const listed: AdapterInMemory[] = [];
  const resident = new Set<string>();
  for (const { digest, state, pinned, bytes } of residency.adapters()) {
    if (state !== 'resident') continue;
    resident.add(digest);
    listed.push({ digest, level: 'device', pinned, bytes });
  }
  for (const { digest, bytes } of adapters.hostImages()) {
    if (!resident.has(digest)) listed.push({ digest, level: 'host', pinned: false, bytes });
  }
  return listed;
}
