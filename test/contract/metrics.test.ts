/** The metrics that docs/http.md names are the ones the server exports, and the other way round. */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { beforeAll, describe, expect, it } from 'vitest';
import { createMetrics } from '../../src/metrics/metrics.ts';
import { FakeEngine, repeating } from '../support/fake-engine.ts';
import { noGrammarStats } from '../support/fake-grammars.ts';
import { fakeSources, SOUND_SESSION } from '../support/metrics-sources.ts';

const text = readFileSync(fileURLToPath(new URL('../../docs/http.md', import.meta.url)), 'utf8');
const [section = ''] = text.slice(text.indexOf('\n## Metrics') + 1).split(/\n(?=## )/);
const isOwn = (name: string) => !/^(process|nodejs)_/.test(name);

/** Names with their labels as the page gives them, `name{label,label}`. */
const documented = [...section.matchAll(/^\| (`.*?`) +\| /gm)].flatMap(([, cell]) =>
  [...cell!.matchAll(/`([a-z0-9_]+)([^`]*)`/g)].map(([, name, labels]) => ({
    name: name!,
    labels: labels!,
  })),
);

let exported: string;
beforeAll(async () => {
  const engine = new FakeEngine({ script: repeating([1]) });
  const metrics = createMetrics({
    maxAdapterLabels: 10,
    engine: () => engine.stats(),
    session: () => SOUND_SESSION,
    grammars: noGrammarStats,
    adapters: fakeSources({
      inMemory: () => [{ digest: 'd', level: 'device', pinned: true, bytes: 1 }],
      namesOf: () => ['a'],
    }),
  });
  // Every family gets a sample, so that its labels can be seen.
  metrics.httpRequest('/', 'GET', 200, 1);
  metrics.residencyEvent({ kind: 'loaded', digest: 'd', bytes: 1, ms: 1, tier: 'disk' });
  const observer = metrics.observe(['a'], 0);
  observer.scheduled(1);
  observer.token(0);
  observer.end('error', { code: 'engine_failed' } as never);
  exported = await metrics.scrape();
  metrics.close();
});

/** Labels of a family's samples, without the ones of histograms. */
function labelsOf(name: string): string {
  const sample = new RegExp(`^loramux_${name}(?:_count)?\\{(.*)\\} `, 'm').exec(exported);
  const labels = [...(sample?.[1] ?? '').matchAll(/([a-z_]+)="/g)].map(([, label]) => label!);
  return labels.length === 0 ? '' : `{${labels.join(',')}}`;
}

describe('metrics', () => {
  it('are documented', () => {
    const names = [...exported.matchAll(/^# TYPE loramux_(\w+) /gm)].map(([, name]) => name!);
    const own = documented.map(({ name }) => name).filter(isOwn);
    expect(names.filter(isOwn).sort()).toEqual(own.sort());
  });

  it('have the documented labels', () => {
    const own = documented.filter(({ name }) => isOwn(name));
    const actual = own.map(({ name }) => `${name}${labelsOf(name)}`);
    expect(actual).toEqual(own.map(({ name, labels }) => `${name}${labels}`));
  });
});
