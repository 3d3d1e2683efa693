/** The server's Prometheus metrics: one registry of its own, nothing global. */
import { collectDefaultMetrics, Histogram, Registry } from 'prom-client';
import type { ResidencyEvent } from '../adapters/residency/types.ts';
import type { RunObserver } from '../generation/generation-run.ts';
import { LabelCap } from './label-cap.ts';
import { mirrorFamilies } from './mirrors.ts';
import { LATENCY_BUCKETS_S, PREFIX } from './names.ts';
import { RequestMetrics } from './requests.ts';
import { ResidencyMetrics } from './residency.ts';
import type { MetricsOptions } from './sources.ts';

export type { AdapterInMemory, AdapterSources, MetricsOptions } from './sources.ts';

/** The label of requests without an adapter. */
export const BASE_LABEL = 'base';
/** The label of requests with several. */
export const SEVERAL_LABEL = 'several';
const BASE = { names: new Set<string>(), label: { text: BASE_LABEL } };
const SEVERAL = { text: SEVERAL_LABEL };

/** What /health tells of adapters. */
export interface AdapterStats {
  readonly registered: number;
  readonly resident: number;
  readonly slots: number;
}

export interface Metrics {
  readonly contentType: string;
  /** Text in Prometheus format. */
  scrape(): Promise<string>;
  httpRequest(route: string, method: string, status: number, seconds: number): void;
  /** One observer per generation request, by its adapters' names; the arrival is on the clock of performance.now(). */
  observe(names: readonly string[], arrivalMs: number): RunObserver;
  /** For `ResidencyOptions.onEvent`. */
  residencyEvent(event: ResidencyEvent): void;
  /** Drops the series of a removed adapter. Names that are gone are also noticed at a scrape. */
  forgetAdapter(name: string): void;
  /** Stops the collectors that hold on to the process. */
  close(): void;
}

export function createMetrics(options: MetricsOptions): Metrics {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry, prefix: PREFIX });
  const labels = new LabelCap(options.maxAdapterLabels, [BASE_LABEL, SEVERAL_LABEL]);
  const updateMirrors = mirrorFamilies(registry, options);
  const requests = new RequestMetrics(registry);
  const residency = new ResidencyMetrics(registry, options.adapters, labels);
  const http = new Histogram({
    name: `${PREFIX}http_request_duration_seconds`,
    help: 'HTTP requests by route, method and status.',
    labelNames: ['route', 'method', 'status'],
    buckets: LATENCY_BUCKETS_S,
    registers: [registry],
  });
  const forgetAdapter = (name: string): void => {
    if (!labels.forget(name)) return;
    requests.forget(name);
    residency.forget(name);
  };
  /** Names that another replica removed give their labels back here. */
  const forgetRemoved = (): void => {
    for (const name of labels.values()) if (!options.adapters.has(name)) forgetAdapter(name);
  };
  return {
    contentType: registry.contentType,
    scrape() {
      forgetRemoved();
      const stats = options.adapters.residency();
      updateMirrors(stats);
      requests.update(stats.maxSlots);
      residency.update();
      return registry.metrics();
    },
    httpRequest: (route, method, status, seconds) =>
      http.observe({ route, method, status }, seconds),
    observe: (names, arrivalMs) => {
      const [name] = names;
      if (name === undefined) return requests.observe(BASE, arrivalMs);
      const label = names.length === 1 ? labels.label(name) : SEVERAL;
      return requests.observe({ names: new Set(names), label }, arrivalMs);
    },
    residencyEvent: (event) => residency.event(event),
    forgetAdapter,
    close: () => registry.clear(),
  };
}
