/** Loads, and which adapter is in which memory. */
import { Counter, Gauge, Histogram, type Registry } from 'prom-client';
import type { ResidencyEvent } from '../adapters/residency/types.ts';
import { type LabelCap, OTHER_LABEL } from './label-cap.ts';
import { LATENCY_BUCKETS_S, LOAD_TIERS, NAMES_PER_GENERATION_MAX, PREFIX } from './names.ts';
import type { AdapterInMemory, AdapterSources } from './sources.ts';

const OTHER_ONLY: ReadonlySet<string> = new Set([OTHER_LABEL]);

export class ResidencyMetrics {
  readonly #sources: AdapterSources;
  readonly #labels: LabelCap;
  readonly #loads: Counter<'adapter' | 'tier'>;
  readonly #loadSeconds: Histogram<'tier'>;
  readonly #prefetches: Counter;
  readonly #loaded: Gauge<'adapter' | 'level' | 'pinned'>;
  readonly #loadedBytes: Gauge<'adapter' | 'level'>;

  constructor(registry: Registry, sources: AdapterSources, labels: LabelCap) {
    this.#sources = sources;
    this.#labels = labels;
    const registers = [registry];
    this.#loads = new Counter({
      name: `${PREFIX}adapter_loads_total`,
      help: 'Adapters loaded into a slot, by adapter and where their bytes were.',
      labelNames: ['adapter', 'tier'],
      registers,
    });
    this.#loadSeconds = new Histogram({
      name: `${PREFIX}adapter_load_seconds`,
      help: 'Time of a load, by where the bytes were.',
      labelNames: ['tier'],
      buckets: LATENCY_BUCKETS_S,
      registers,
    });
    this.#prefetches = new Counter({
      name: `${PREFIX}adapter_prefetches_total`,
      help: 'Loads that had ended before anybody waited for them.',
      registers,
    });
    this.#loaded = new Gauge({
      name: `${PREFIX}adapter_loaded`,
      help: 'Generations of an adapter in device memory, or else in host memory.',
      labelNames: ['adapter', 'level', 'pinned'],
      registers,
    });
    this.#loadedBytes = new Gauge({
      name: `${PREFIX}adapter_loaded_bytes`,
      help: 'Their bytes.',
      labelNames: ['adapter', 'level'],
      registers,
    });
  }

  /** Quick, and does not throw: residency calls it in the middle of its work. */
  event(event: ResidencyEvent): void {
    if (event.kind === 'prefetched') this.#prefetches.inc();
    if (event.kind !== 'loaded') return;
    const { digest, tier, ms } = event;
    for (const adapter of this.#labelsOf(digest)) this.#loads.inc({ adapter, tier });
    this.#loadSeconds.observe({ tier }, ms / 1000);
  }

  update(): void {
    this.#loaded.reset();
    this.#loadedBytes.reset();
    for (const adapter of this.#sources.inMemory()) this.#add(adapter);
  }

  forget(adapter: string): void {
    for (const tier of LOAD_TIERS) this.#loads.remove({ adapter, tier });
  }

  /** One for every name, so that each of them can be looked up. */
  #labelsOf(digest: string): ReadonlySet<string> {
    const names = this.#sources.namesOf(digest).slice(0, NAMES_PER_GENERATION_MAX);
    // Without any, its name has moved on or is gone, and a request still uses it.
    if (names.length === 0) return OTHER_ONLY;
    return new Set(names.map((name) => this.#labels.label(name).text));
  }

  #add({ digest, level, pinned, bytes }: AdapterInMemory): void {
    for (const adapter of this.#labelsOf(digest)) {
      this.#loaded.inc({ adapter, level, pinned: String(pinned) }, 1);
      this.#loadedBytes.inc({ adapter, level }, bytes);
    }
  }
}
