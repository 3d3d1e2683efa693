/** The server's Prometheus metrics: one registry of its own, nothing global. */
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';
import type { AdapterRecord } from '../adapters/types.ts';
import type { EngineStats } from '../engine/types.ts';
import type { Outcome, RunObserver } from '../generation/generation-run.ts';
import { LabelCap } from './label-cap.ts';
import {
  ADAPTER_COUNTERS,
  ADAPTER_GAUGES,
  ENGINE_COUNTERS,
  ENGINE_GAUGES,
  LATENCY_BUCKETS_S,
  PREFIX,
} from './names.ts';

/** The label of requests without an adapter. */
export const BASE_LABEL = 'base';

/** Running totals and states of the adapter layer. */
export type AdapterStats = Record<
  keyof typeof ADAPTER_GAUGES | keyof typeof ADAPTER_COUNTERS,
  number
>;

export interface MetricsOptions {
  /** Adapters that get a label of their own. */
  readonly maxAdapterLabels: number;
  readonly engine: () => EngineStats;
  readonly adapters: () => AdapterStats;
}

export interface Metrics {
  readonly contentType: string;
  /** Text in Prometheus format. */
  scrape(): Promise<string>;
  httpRequest(route: string, method: string, status: number, seconds: number): void;
  /** One observer per generation request; the arrival is on the clock of performance.now(). */
  observe(adapter: Pick<AdapterRecord, 'name'> | undefined, arrivalMs: number): RunObserver;
  /** Drops the series of a removed adapter. */
  forgetAdapter(name: string): void;
  /** Stops the collectors that hold on to the process. */
  close(): void;
}

type Definition = readonly [name: string, help: string];

/** A registry family whose samples are read from one snapshot per scrape. */
function mirror<Key extends string>(
  registry: Registry,
  gauges: Record<string, Definition>,
  counters: Record<string, Definition>,
  read: () => Record<Key, number>,
): void {
  for (const [key, [name, help]] of Object.entries(gauges)) {
    new Gauge({
      name: PREFIX + name,
      help,
      registers: [registry],
      collect() {
        this.set(read()[key as Key]);
      },
    });
  }
  for (const [key, [name, help]] of Object.entries(counters)) {
    new Counter({
      name: PREFIX + name,
      help,
      registers: [registry],
      collect() {
        this.reset();
        this.inc(read()[key as Key]);
      },
    });
  }
}

function engineValues(
  stats: EngineStats,
): Record<keyof typeof ENGINE_GAUGES | keyof typeof ENGINE_COUNTERS, number> {
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
    sequences: stats.batchSequencesSum,
    adapters: stats.batchAdaptersSum,
    nativeSeconds: stats.nativeMsSum / 1000,
    outsideSeconds: stats.outsideNativeMsSum / 1000,
    preemptions: stats.preemptions,
    prefixQueries: stats.prefixQueryTokens,
    prefixHits: stats.prefixHitTokens,
    promptTokens: stats.promptTokens,
    generationTokens: stats.generatedTokens,
  };
}

interface RequestFamilies {
  readonly requests: Counter<'outcome'>;
  readonly errors: Counter<'code'>;
  readonly timeToFirstToken: Histogram;
  readonly interToken: Histogram;
  readonly latency: Histogram;
  readonly adapterRequests: Counter<'adapter'>;
  readonly adapterTokens: Counter<'adapter' | 'kind'>;
}

function requestFamilies(registry: Registry): RequestFamilies {
  const registers = [registry];
  const histogram = (name: string, help: string) =>
    new Histogram({ name: PREFIX + name, help, buckets: LATENCY_BUCKETS_S, registers });
  const counter = <Label extends string>(name: string, help: string, labelNames: Label[]) =>
    new Counter<Label>({ name: PREFIX + name, help, labelNames, registers });
  return {
    requests: counter('requests_total', 'Generation requests by outcome.', ['outcome']),
    errors: counter('request_errors_total', 'Failed generation requests by code.', ['code']),
    timeToFirstToken: histogram('time_to_first_token_seconds', 'Arrival to first token.'),
    interToken: histogram('inter_token_latency_seconds', 'One token to the next of a choice.'),
    latency: histogram('e2e_request_latency_seconds', 'Arrival to the end of a request.'),
    adapterRequests: counter('adapter_requests_total', 'Requests by adapter.', ['adapter']),
    adapterTokens: counter('adapter_tokens_total', 'Tokens by adapter and kind.', [
      'adapter',
      'kind',
    ]),
  };
}

class RequestObserver implements RunObserver {
  readonly #families: RequestFamilies;
  readonly #adapter: string;
  readonly #arrivalMs: number;
  /** By choice: when its last token came. */
  readonly #lastTokenMs: number[] = [];
  #promptTokens = 0;
  #tokens = 0;

  constructor(families: RequestFamilies, adapter: string, arrivalMs: number) {
    this.#families = families;
    this.#adapter = adapter;
    this.#arrivalMs = arrivalMs;
  }

  prompt(numTokens: number): void {
    this.#promptTokens += numTokens;
  }

  token(index: number): void {
    const now = performance.now();
    const last = this.#lastTokenMs[index];
    this.#lastTokenMs[index] = now;
    if (last !== undefined) this.#families.interToken.observe((now - last) / 1000);
    if (this.#tokens === 0) {
      this.#families.timeToFirstToken.observe((now - this.#arrivalMs) / 1000);
    }
    this.#tokens += 1;
  }

  end(outcome: Outcome, error: { code: string } | undefined): void {
    const { requests, errors, latency, adapterRequests, adapterTokens } = this.#families;
    const adapter = this.#adapter;
    requests.inc({ outcome });
    if (error !== undefined) errors.inc({ code: error.code });
    latency.observe((performance.now() - this.#arrivalMs) / 1000);
    adapterRequests.inc({ adapter });
    adapterTokens.inc({ adapter, kind: 'prompt' }, this.#promptTokens);
    adapterTokens.inc({ adapter, kind: 'generation' }, this.#tokens);
  }
}

export function createMetrics(options: MetricsOptions): Metrics {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry, prefix: PREFIX });
  mirror(registry, ENGINE_GAUGES, ENGINE_COUNTERS, () => engineValues(options.engine()));
  mirror(registry, ADAPTER_GAUGES, ADAPTER_COUNTERS, options.adapters);
  const families = requestFamilies(registry);
  const http = new Histogram({
    name: `${PREFIX}http_request_duration_seconds`,
    help: 'HTTP requests by route, method and status.',
    labelNames: ['route', 'method', 'status'],
    buckets: LATENCY_BUCKETS_S,
    registers: [registry],
  });
  const cap = new LabelCap(options.maxAdapterLabels);
  return {
    contentType: registry.contentType,
    scrape: () => registry.metrics(),
    httpRequest: (route, method, status, seconds) =>
      http.observe({ route, method, status }, seconds),
    observe: (adapter, arrivalMs) => {
      const label = adapter === undefined ? BASE_LABEL : cap.label(adapter.name);
      return new RequestObserver(families, label, arrivalMs);
    },
    forgetAdapter(name) {
      if (!cap.forget(name)) return;
      families.adapterRequests.remove({ adapter: name });
      for (const kind of ['prompt', 'generation']) {
        families.adapterTokens.remove({ adapter: name, kind });
      }
    },
    close: () => registry.clear(),
  };
}
