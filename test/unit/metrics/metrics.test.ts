import { describe, expect, it } from 'vitest';
import { readMetric } from '../../../scripts/metrics.ts';
import { LabelCap } from '../../../src/metrics/label-cap.ts';
import {
  type AdapterInMemory,
  type AdapterSources,
  createMetrics,
  type Metrics,
} from '../../../src/metrics/metrics.ts';
import {
  ADAPTER_COUNTERS,
  ADAPTER_GAUGES,
  ENGINE_COUNTERS,
  ENGINE_GAUGES,
  INFO_NAMES_MAX,
  NAMES_PER_GENERATION_MAX,
  PREFIX,
  REGISTRY_COUNTERS,
  REGISTRY_GAUGES,
} from '../../../src/metrics/names.ts';
import { FakeEngine, repeating } from '../../support/fake-engine.ts';
import { noGrammarStats } from '../../support/fake-grammars.ts';
import { fakeSources, SOUND_SESSION } from '../../support/metrics-sources.ts';

const create = (maxAdapterLabels = 2, sources: Partial<AdapterSources> = {}): Metrics => {
  const engine = new FakeEngine({ script: repeating([1]) });
  engine.step();
  return createMetrics({
    maxAdapterLabels,
    engine: () => engine.stats(),
    session: () => SOUND_SESSION,
    grammars: noGrammarStats,
    adapters: fakeSources(sources),
  });
};

/** The samples of one family, sorted, without the prefix. */
async function samples(metrics: Metrics, name: string): Promise<string[]> {
  const lines = (await metrics.scrape()).split('\n');
  const own = lines.filter((line) => line.startsWith(`${PREFIX}${name}`));
  return own.map((line) => line.slice(PREFIX.length + name.length)).sort();
}

/** A whole request with two prompts and three tokens. */
function request(metrics: Metrics, name: string | undefined): void {
  const observer = metrics.observe(name === undefined ? [] : [name], performance.now());
  observer.prompt(10);
  observer.prompt(5);
  observer.scheduled(20);
  observer.scheduled(40);
  for (const index of [0, 1, 0]) observer.token(index);
  observer.end('stop', undefined);
}

describe('metrics', () => {
  it('exports every name of the tables, and the totals unchanged by scrapes', async () => {
    const metrics = create();
    await metrics.scrape();
    const text = await metrics.scrape();
    const tables = [
      ENGINE_COUNTERS,
      ENGINE_GAUGES,
      ADAPTER_COUNTERS,
      ADAPTER_GAUGES,
      REGISTRY_COUNTERS,
      REGISTRY_GAUGES,
    ];
    for (const [name] of tables.flatMap((table) => Object.values(table))) {
      expect(() => readMetric(text, PREFIX + name)).not.toThrow();
    }
    expect(readMetric(text, 'loramux_engine_steps_total')).toBe(1);
    expect(readMetric(text, 'loramux_adapter_host_hits_total')).toBe(4);
    expect(readMetric(text, 'loramux_adapter_disk_evictions_total')).toBe(3);
    expect(readMetric(text, 'loramux_registry_lag_seconds')).toBe(1.5);
    expect(readMetric(text, 'loramux_registry_errors_total')).toBe(13);
    expect(text).toContain('loramux_nodejs_eventloop_lag_p99_seconds');
    metrics.close();
  });

  it('has one state of the registry', async () => {
    const { registry } = fakeSources();
    const metrics = create(2, { registry: () => ({ ...registry(), state: 'degraded' }) });
    expect(await samples(metrics, 'registry_state')).toEqual([
      '{state="connecting"} 0',
      '{state="degraded"} 1',
      '{state="lost"} 0',
      '{state="ok"} 0',
    ]);
    metrics.close();
  });

  it('counts requests, tokens and latencies', async () => {
    const metrics = create();
    request(metrics, 'a');
    const failed = metrics.observe([], 0);
    failed.end('error', { code: 'engine_failed' } as never);
    const text = await metrics.scrape();
    expect(readMetric(text, 'loramux_time_to_first_token_seconds_count')).toBe(1);
    expect(readMetric(text, 'loramux_inter_token_latency_seconds_count')).toBe(1);
    expect(readMetric(text, 'loramux_e2e_request_latency_seconds_count')).toBe(2);
    expect(text).toContain('loramux_adapter_tokens_total{adapter="a",kind="generation"} 3');
    expect(text).toContain('loramux_adapter_tokens_total{adapter="a",kind="prompt"} 15');
    expect(text).toContain('loramux_adapter_requests_total{adapter="base"} 1');
    expect(text).toContain('loramux_adapter_queue_wait_seconds_count{adapter="a"} 2');
    expect(text).toContain('loramux_adapter_queue_wait_seconds_sum{adapter="a"} 0.06');
    expect(text).toContain('loramux_adapter_time_to_first_token_seconds_count{adapter="a"} 1');
    expect(text).not.toContain('loramux_adapter_time_to_first_token_seconds_count{adapter="base"}');
    expect(text).toContain('loramux_requests_total{outcome="error"} 1');
    expect(text).toContain('loramux_request_errors_total{code="engine_failed"} 1');
    metrics.close();
  });
});

describe('labels of adapters', () => {
  it('are bounded; a removed name gives its place to the next', async () => {
    const metrics = create(1);
    for (const name of ['a', 'b', 'c']) request(metrics, name);
    let text = await metrics.scrape();
    expect(text).toContain('loramux_adapter_requests_total{adapter="other"} 2');
    metrics.forgetAdapter('a');
    request(metrics, 'b');
    text = await metrics.scrape();
    expect(text).toContain('loramux_adapter_requests_total{adapter="b"} 1');
    expect(text).not.toContain('adapter="a"');
    metrics.close();
  });

  it('go when another replica removed the name', async () => {
    const names = new Set(['a', 'b']);
    const metrics = create(2, { has: (name) => names.has(name), namesOf: () => ['a'] });
    request(metrics, 'a');
    metrics.residencyEvent({ kind: 'loaded', digest: 'd', bytes: 1, ms: 1, tier: 'disk' });
    expect(await metrics.scrape()).toContain('adapter="a"');
    names.delete('a');
    expect(await metrics.scrape()).not.toContain('adapter="a"');
    metrics.close();
  });

  it('do not come back with a request that outlives its name', async () => {
    const metrics = create(1);
    const observer = metrics.observe(['a'], 0);
    metrics.forgetAdapter('a');
    observer.scheduled(1);
    observer.token(0);
    observer.end('stop', undefined);
    const text = await metrics.scrape();
    expect(text).not.toContain('adapter="a"');
    expect(text).toContain('loramux_adapter_requests_total{adapter="other"} 1');
    metrics.close();
  });

  it('keep their meaning when an adapter is called like one', async () => {
    const metrics = create(5);
    for (const name of ['base', 'other']) request(metrics, name);
    expect(await samples(metrics, 'adapter_requests_total')).toEqual(['{adapter="other"} 2']);
    metrics.close();
  });

  it('stay few whatever comes and goes', async () => {
    const inMemory = Array.from({ length: 50 }, (_, i) => ({
      digest: `d${i}`,
      level: 'host' as const,
      pinned: false,
      bytes: 1,
    }));
    const metrics = create(3, {
      inMemory: () => inMemory,
      namesOf: (digest) => [`m${digest}`, `n${digest}`],
    });
    for (let i = 0; i < 1000; i++) {
      request(metrics, `a${i}`);
      const event = { kind: 'loaded', digest: `d${i}`, bytes: 1, ms: 1 } as const;
      metrics.residencyEvent({ ...event, tier: 'host' });
      if (i % 2 === 0) metrics.forgetAdapter(`a${i}`);
    }
    const text = await metrics.scrape();
    const adapters = new Set([...text.matchAll(/adapter="([^"]*)"/g)].map(([, name]) => name));
    expect(adapters.size).toBeLessThanOrEqual(3 + 1);
    expect(adapters).toContain('other');
    metrics.close();
  });
});

describe('loads and residency', () => {
  it('counts loads by adapter and tier, and prefetches', async () => {
    const names: Record<string, string[]> = { d1: ['a', 'b'], d2: ['c'] };
    const metrics = create(2, { namesOf: (digest) => names[digest] ?? [] });
    const loaded = (digest: string, tier: 'host' | 'disk') =>
      metrics.residencyEvent({ kind: 'loaded', digest, bytes: 1, ms: 30, tier });
    loaded('d1', 'disk');
    loaded('d1', 'host');
    loaded('d1', 'host');
    loaded('gone', 'disk');
    metrics.residencyEvent({ kind: 'prefetched', digest: 'd1' });
    metrics.residencyEvent({ kind: 'retired', digest: 'd1' });
    expect(await samples(metrics, 'adapter_loads_total')).toEqual([
      '{adapter="a",tier="disk"} 1',
      '{adapter="a",tier="host"} 2',
      '{adapter="b",tier="disk"} 1',
      '{adapter="b",tier="host"} 2',
      '{adapter="other",tier="disk"} 1',
    ]);
    expect(await samples(metrics, 'adapter_load_seconds_sum')).toEqual([
      '{tier="disk"} 0.06',
      '{tier="host"} 0.06',
    ]);
    expect(await samples(metrics, 'adapter_prefetches_total')).toEqual([' 1']);
    metrics.close();
  });

  it('shows what is in memory for every name, and nothing that left', async () => {
    let inMemory: AdapterInMemory[] = [
      { digest: 'current', level: 'device', pinned: true, bytes: 100 },
      { digest: 'canary', level: 'device', pinned: true, bytes: 50 },
      { digest: 'shared', level: 'host', pinned: false, bytes: 10 },
      { digest: 'retired', level: 'device', pinned: false, bytes: 7 },
    ];
    const names: Record<string, string[]> = {
      current: ['a'],
      canary: ['a'],
      shared: ['b', 'c'],
    };
    const metrics = create(5, {
      inMemory: () => inMemory,
      namesOf: (digest) => names[digest] ?? [],
    });
    expect(await samples(metrics, 'adapter_loaded{')).toEqual([
      'adapter="a",level="device",pinned="true"} 2',
      'adapter="b",level="host",pinned="false"} 1',
      'adapter="c",level="host",pinned="false"} 1',
      'adapter="other",level="device",pinned="false"} 1',
    ]);
    expect(await samples(metrics, 'adapter_loaded_bytes')).toEqual([
      '{adapter="a",level="device"} 150',
      '{adapter="b",level="host"} 10',
      '{adapter="c",level="host"} 10',
      '{adapter="other",level="device"} 7',
    ]);
    inMemory = [{ digest: 'current', level: 'host', pinned: false, bytes: 100 }];
    expect(await samples(metrics, 'adapter_loaded{')).toEqual([
      'adapter="a",level="host",pinned="false"} 1',
    ]);
    metrics.close();
  });

  it('bounds the names of one content', async () => {
    const metrics = create(100, {
      inMemory: () => [{ digest: 'd', level: 'device', pinned: false, bytes: 1 }],
      namesOf: () => Array.from({ length: 5000 }, (_, i) => `n${i}`),
    });
    expect(await samples(metrics, 'adapter_loaded{')).toHaveLength(NAMES_PER_GENERATION_MAX);
    metrics.close();
  });
});

describe('lora_requests_info', () => {
  const info = async (metrics: Metrics) => {
    const lines = await samples(metrics, 'lora_requests_info');
    expect(lines).toHaveLength(1);
    const match =
      /^\{max_lora="4",running_lora_adapters="(.*)",waiting_lora_adapters="(.*)"\} ([\d.]+)$/.exec(
        lines[0]!,
      );
    const [, running, waiting, time] = match!;
    expect(Math.abs(Number(time) - Date.now() / 1000)).toBeLessThan(60);
    return [running, waiting];
  };

  it('names the adapters that run and wait, each once, and then no more', async () => {
    const metrics = create(0);
    expect(await info(metrics)).toEqual(['', '']);
    const [a, a2, b] = ['a', 'a', 'b'].map((name) => metrics.observe([name], 0));
    const base = metrics.observe([], 0);
    base.scheduled(0);
    expect(await info(metrics)).toEqual(['', 'a,b']);
    a!.scheduled(0);
    // The second prompt of the same request.
    a!.scheduled(0);
    expect(await info(metrics)).toEqual(['a', 'a,b']);
    b!.scheduled(0);
    b!.end('stop', undefined);
    a2!.end('cancelled', undefined);
    expect(await info(metrics)).toEqual(['a', '']);
    a!.end('stop', undefined);
    expect(await info(metrics)).toEqual(['', '']);
    metrics.close();
  });

  it('names each adapter of a request with several, which has a label of its own', async () => {
    const metrics = create();
    const observer = metrics.observe(['a', 'b', 'a'], 0);
    expect(await info(metrics)).toEqual(['', 'a,b']);
    observer.scheduled(0);
    expect(await info(metrics)).toEqual(['a,b', '']);
    observer.end('stop', undefined);
    expect(await info(metrics)).toEqual(['', '']);
    const text = await metrics.scrape();
    expect(text).toContain('loramux_adapter_requests_total{adapter="several"} 1');
    metrics.close();
  });

  it('is bounded', async () => {
    const metrics = create(0);
    const { length } = Array.from({ length: 5000 }, (_, i) => metrics.observe([`n${i}`], 0));
    const [, waiting] = await info(metrics);
    expect(length).toBe(5000);
    expect(waiting!.split(',')).toHaveLength(INFO_NAMES_MAX);
    metrics.close();
  });
});

describe('a scrape', () => {
  it('does not look at registered names that nobody uses', async () => {
    const registered = new Set(Array.from({ length: 10_000 }, (_, i) => `n${i}`));
    const sources = fakeSources({
      has: (name) => registered.has(name),
      inMemory: () =>
        Array.from({ length: 16 }, (_, i) => ({
          digest: `d${i}`,
          level: 'device' as const,
          pinned: false,
          bytes: 1,
        })),
      namesOf: (digest) => [`n${digest.slice(1)}`],
    });
    const engine = new FakeEngine({ script: repeating([1]) });
    const metrics = createMetrics({
      maxAdapterLabels: 100,
      engine: () => engine.stats(),
      session: () => SOUND_SESSION,
      grammars: noGrammarStats,
      adapters: sources,
    });
    for (let i = 0; i < 1000; i++) request(metrics, `n${i}`);
    await metrics.scrape();
    expect(Object.fromEntries(sources.reads)).toEqual({
      service: 1,
      residency: 1,
      inMemory: 1,
      registry: 1,
      namesOf: 16,
      has: 100,
    });
    metrics.close();
  });
});

describe('LabelCap', () => {
  it('keeps a known value and gives a freed place to the next', () => {
    const cap = new LabelCap(1, ['base']);
    const text = (value: string) => cap.label(value).text;
    expect(['base', 'a', 'b', 'a'].map(text)).toEqual(['other', 'a', 'other', 'a']);
    const held = cap.label('a');
    expect(cap.values()).toEqual(['a']);
    expect(cap.forget('b')).toBe(false);
    expect(cap.forget('a')).toBe(true);
    expect([held.text, text('b')]).toEqual(['other', 'b']);
  });
});
