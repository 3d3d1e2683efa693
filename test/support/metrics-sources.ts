/** Numbers for the metrics without an adapter layer. Counts how often each source is read. */
import type { AdapterSources } from '../../src/metrics/metrics.ts';
import type { SessionReport } from '../../src/native/index.ts';

/** A session that has never been at fault. */
export const SOUND_SESSION: SessionReport = {
  state: 'ok',
  sinceMs: 1_700_000_000_000,
  restarts: 0,
  lastError: undefined,
};

export interface FakeSources extends AdapterSources {
  /** By name of the source. */
  readonly reads: Map<string, number>;
}

const RESIDENCY: ReturnType<AdapterSources['residency']> = {
  hits: 20,
  misses: 9,
  loads: 7,
  loadsByTier: { host: 4, disk: 2, registry: 1 },
  loadFailures: 1,
  evictions: 2,
  freesRefused: 0,
  loadMsSum: 70,
  residentBytes: 4096,
  maxBytes: 8192,
  resident: 3,
  loading: 1,
  waiting: 2,
  referenced: 2,
  maxSlots: 4,
  pinned: 1,
  hostBytes: 1024,
  hostMaxBytes: 2048,
  hostEntries: 2,
  hostHits: 4,
};

export function fakeSources(overrides: Partial<AdapterSources> = {}): FakeSources {
  const reads = new Map<string, number>();
  const sources: AdapterSources = {
    service: () => ({
      names: 5,
      damaged: 1,
      generations: 6,
      storedBytes: 12_288,
      disk: { files: 6, bytes: 12_288, maxBytes: undefined, evictions: 3 },
    }),
    residency: () => RESIDENCY,
    inMemory: () => [],
    registry: () => ({
      kind: 'redis',
      state: 'ok',
      reason: undefined,
      sinceMs: 0,
      lagMs: 1500,
      reconciles: 11,
      events: 12,
      errors: 13,
    }),
    namesOf: () => [],
    has: () => true,
    ...overrides,
  };
  const counted = Object.entries(sources).map(([name, source]) => [
    name,
    (...args: never[]) => {
      reads.set(name, (reads.get(name) ?? 0) + 1);
      return (source as (...args: never[]) => unknown)(...args);
    },
  ]);
  return { ...(Object.fromEntries(counted) as AdapterSources), reads };
}
