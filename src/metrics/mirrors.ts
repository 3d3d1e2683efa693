/** Families that mirror numbers kept elsewhere, read once per scrape. */
import { Counter, Gauge, type Registry } from 'prom-client';
import type { AdapterResidencyStats } from '../adapters/residency/types.ts';
import {
  ADAPTER_COUNTERS,
  ADAPTER_GAUGES,
  ENGINE_COUNTERS,
  ENGINE_GAUGES,
  GRAMMAR_COUNTERS,
  GRAMMAR_GAUGES,
  PREFIX,
  REGISTRY_COUNTERS,
  REGISTRY_GAUGES,
  REGISTRY_STATES,
  SESSION_COUNTERS,
  SESSION_GAUGES,
} from './names.ts';
import type { MetricsOptions } from './sources.ts';

type Definition = readonly [name: string, help: string];
type Values<Table> = Record<keyof Table, number>;

/** Sets the families of one table to what was read. */
type Update<Key extends string> = (values: Record<Key, number>) => void;

function mirror<Gauges extends string, Counters extends string>(
  registry: Registry,
  gauges: Record<Gauges, Definition>,
  counters: Record<Counters, Definition>,
): Update<Gauges | Counters> {
  const registers = [registry];
  const updates: ((values: Record<string, number>) => void)[] = [];
  for (const [key, [name, help]] of Object.entries<Definition>(gauges)) {
    const gauge = new Gauge({ name: PREFIX + name, help, registers });
    updates.push((values) => gauge.set(values[key]!));
  }
  for (const [key, [name, help]] of Object.entries<Definition>(counters)) {
    const counter = new Counter({ name: PREFIX + name, help, registers });
    updates.push((values) => {
      counter.reset();
      counter.inc(values[key]!);
    });
  }
  return (values) => {
    for (const update of updates) update(values);
  };
}

function engineValues(
  options: MetricsOptions,
): Values<typeof ENGINE_GAUGES & typeof ENGINE_COUNTERS> {
  const stats = options.engine();
  const used = stats.blocksTotal - stats.blocksFree;
  return {
    running: stats.running,
    waiting: stats.waiting,
    blocksTotal: stats.blocksTotal,
    blocksUsed: used,
    blocksCached: stats.blocksCached,
    usage: stats.blocksTotal === 0 ? 0 : used / stats.blocksTotal,
    adaptersMax: stats.maxAdaptersInOneStep,
    sequencesMax: stats.maxSequencesInOneStep,
    steps: stats.steps,
    preparedSteps: stats.preparedSteps,
    sequences: stats.batchSequencesSum,
    adapters: stats.batchAdaptersSum,
    nativeSeconds: stats.nativeMsSum / 1000,
    outsideSeconds: stats.outsideNativeMsSum / 1000,
    gapSeconds: stats.gapMsSum / 1000,
    maskWaitSeconds: stats.maskWaitMsSum / 1000,
    preemptions: stats.preemptions,
    prefixQueries: stats.prefixQueryTokens,
    prefixHits: stats.prefixHitTokens,
    promptTokens: stats.promptTokens,
    generationTokens: stats.generatedTokens,
  };
}

function adapterValues(
  { adapters }: MetricsOptions,
  stats: AdapterResidencyStats,
): Values<typeof ADAPTER_GAUGES & typeof ADAPTER_COUNTERS> {
  const { names, damaged, generations, storedBytes, disk } = adapters.service();
  return {
    registered: names,
    damaged,
    generations,
    storedBytes,
    resident: stats.resident,
    inUse: stats.referenced,
    pinned: stats.pinned,
    loading: stats.loading,
    waiting: stats.waiting,
    slots: stats.maxSlots,
    residentBytes: stats.residentBytes,
    memoryBytes: stats.maxBytes,
    hostEntries: stats.hostEntries,
    hostBytes: stats.hostBytes,
    hostMaxBytes: stats.hostMaxBytes,
    diskFiles: disk.files,
    diskBytes: disk.bytes,
    hits: stats.hits,
    misses: stats.misses,
    loadFailures: stats.loadFailures,
    evictions: stats.evictions,
    hostHits: stats.hostHits,
    diskEvictions: disk.evictions,
  };
}

/** @returns what brings all of them up to date */
export function mirrorFamilies(
  registry: Registry,
  options: MetricsOptions,
): (residency: AdapterResidencyStats) => void {
  const engine = mirror(registry, ENGINE_GAUGES, ENGINE_COUNTERS);
  const adapters = mirror(registry, ADAPTER_GAUGES, ADAPTER_COUNTERS);
  const session = mirror(registry, SESSION_GAUGES, SESSION_COUNTERS);
  const status = mirror(registry, REGISTRY_GAUGES, REGISTRY_COUNTERS);
  const grammars = mirror(registry, GRAMMAR_GAUGES, GRAMMAR_COUNTERS);
  const state = new Gauge({
    name: `${PREFIX}registry_state`,
    help: 'State of the registry: 1 for the one it is in, 0 for the others.',
    labelNames: ['state'],
    registers: [registry],
  });
  return (residency) => {
    engine(engineValues(options));
    const { state: sessionState, restarts } = options.session();
    session({ up: sessionState === 'ok' ? 1 : 0, restarts });
    const { compileMsSum, ...counts } = options.grammars();
    grammars({ ...counts, compileSeconds: compileMsSum / 1000 });
    adapters(adapterValues(options, residency));
    const read = options.adapters.registry();
    const { reconciles, events, errors } = read;
    status({ lag: read.lagMs / 1000, reconciles, events, errors });
    for (const one of REGISTRY_STATES) state.set({ state: one }, one === read.state ? 1 : 0);
  };
}
