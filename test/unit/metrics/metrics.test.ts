import { describe, expect, it } from 'vitest';
import { readMetric } from '../../../scripts/metrics.ts';
import { LabelCap } from '../../../src/metrics/label-cap.ts';
import { createMetrics, type Metrics } from '../../../src/metrics/metrics.ts';
import {
  ADAPTER_COUNTERS,
  ADAPTER_GAUGES,
  ENGINE_COUNTERS,
  ENGINE_GAUGES,
  PREFIX,
} from '../../../src/metrics/names.ts';
import { FakeEngine, repeating } from '../../support/fake-engine.ts';

const create = (maxAdapterLabels = 2): Metrics => {
  const engine = new FakeEngine({ script: repeating([1]) });
  engine.step();
  return createMetrics({
    maxAdapterLabels,
    engine: () => engine.stats(),
    adapters: () => ({
      registered: 5,
      resident: 3,
      slots: 4,
      residentBytes: 4096,
      loads: 7,
      loadFailures: 1,
      evictions: 2,
    }),
  });
};

describe('metrics', () => {
  it('exports every name of the tables, and the totals of the engine unchanged by scrapes', async () => {
    const metrics = create();
    await metrics.scrape();
    const text = await metrics.scrape();
    const tables = [ENGINE_COUNTERS, ENGINE_GAUGES, ADAPTER_COUNTERS, ADAPTER_GAUGES];
    for (const [name] of tables.flatMap((table) => Object.values(table))) {
      expect(() => readMetric(text, PREFIX + name)).not.toThrow();
    }
    expect(readMetric(text, 'loramux_engine_steps_total')).toBe(1);
    expect(readMetric(text, 'loramux_adapter_loads_total')).toBe(7);
    expect(text).toContain('loramux_nodejs_eventloop_lag_p99_seconds');
    metrics.close();
  });

  it('counts requests, tokens and latencies', async () => {
    const metrics = create();
    const observer = metrics.observe({ name: 'a' }, 0);
    observer.prompt(10);
    observer.token(0);
    observer.token(1);
    observer.token(0);
    observer.end('stop', undefined);
    const failed = metrics.observe(undefined, 0);
    failed.end('error', { code: 'engine_failed' } as never);
    const text = await metrics.scrape();
    expect(readMetric(text, 'loramux_time_to_first_token_seconds_count')).toBe(1);
    expect(readMetric(text, 'loramux_inter_token_latency_seconds_count')).toBe(1);
    expect(readMetric(text, 'loramux_e2e_request_latency_seconds_count')).toBe(2);
    expect(text).toContain('loramux_adapter_tokens_total{adapter="a",kind="generation"} 3');
    expect(text).toContain('loramux_adapter_tokens_total{adapter="a",kind="prompt"} 10');
    expect(text).toContain('loramux_adapter_requests_total{adapter="base"} 1');
    expect(text).toContain('loramux_requests_total{outcome="error"} 1');
    expect(text).toContain('loramux_request_errors_total{code="engine_failed"} 1');
    metrics.close();
  });

  it('bounds the adapters with a label of their own', async () => {
    const metrics = create(1);
    for (const name of ['a', 'b', 'c']) metrics.observe({ name }, 0).end('stop', undefined);
    let text = await metrics.scrape();
    expect(text).toContain('loramux_adapter_requests_total{adapter="other"} 2');
    metrics.forgetAdapter('a');
    metrics.observe({ name: 'b' }, 0).end('stop', undefined);
    text = await metrics.scrape();
    expect(text).toContain('loramux_adapter_requests_total{adapter="b"} 1');
    expect(text).not.toContain('adapter="a"');
    metrics.close();
  });
});

describe('LabelCap', () => {
  it('keeps a known value and gives a freed place to the next', () => {
    const cap = new LabelCap(1);
    expect([cap.label('a'), cap.label('b'), cap.label('a')]).toEqual(['a', 'other', 'a']);
    expect(cap.forget('b')).toBe(false);
    expect(cap.forget('a')).toBe(true);
    expect(cap.label('b')).toBe('b');
  });
});
