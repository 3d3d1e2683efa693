/** Where the numbers come from: functions, so that this folder needs nothing of the layers. */
import type { RegistryStatus } from '../adapters/registry/types.ts';
import type { AdapterResidencyStats } from '../adapters/residency/types.ts';
import type { AdapterServiceStats } from '../adapters/service-types.ts';
import type { EngineStats } from '../engine/types.ts';
import type { GrammarStats } from '../grammar/pool.ts';
import type { SessionReport } from '../native/index.ts';
import type { MEMORY_LEVELS } from './names.ts';

/** A generation in device or host memory. */
export interface AdapterInMemory {
  readonly digest: string;
  /** The nearest one. */
  readonly level: (typeof MEMORY_LEVELS)[number];
  readonly pinned: boolean;
  readonly bytes: number;
}

/** Read once per scrape. None may take time that grows with the number of registered names. */
export interface AdapterSources {
  readonly service: () => Pick<
    AdapterServiceStats,
    'names' | 'damaged' | 'generations' | 'storedBytes' | 'disk'
  >;
  readonly residency: () => AdapterResidencyStats;
  readonly inMemory: () => Iterable<AdapterInMemory>;
  readonly registry: () => RegistryStatus;
  /** Names that lead to a generation. */
  readonly namesOf: (digest: string) => readonly string[];
  /** Whether a name is registered. */
  readonly has: (name: string) => boolean;
}

export interface MetricsOptions {
  /** Adapters that get a label of their own. */
  readonly maxAdapterLabels: number;
  readonly engine: () => EngineStats;
  readonly session: () => Pick<SessionReport, 'state' | 'restarts'>;
  readonly grammars: () => GrammarStats;
  readonly adapters: AdapterSources;
}
