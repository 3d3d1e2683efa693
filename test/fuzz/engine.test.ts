/**
 * Random lives of the engine. A failure prints its seed; `LORAMUX_FUZZ_SEED=<seed>` runs only that
 * one, `LORAMUX_FUZZ_RUNS=<n>` runs more.
 */
import { afterAll, describe, expect, it } from 'vitest';
import { type CacheIdentity, rootHash } from '../../src/kvcache/block-hash.ts';
import { type FuzzOptions, type FuzzReport, fuzzEngine } from '../support/engine-fuzz.ts';
import { openFuzzGrammars } from '../support/fuzz-grammars.ts';

const only = process.env.LORAMUX_FUZZ_SEED;
const numRuns = Number(process.env.LORAMUX_FUZZ_RUNS ?? 12);
const seeds =
  only === undefined ? Array.from({ length: numRuns }, (_, i) => i + 1) : [Number(only)];

/** In a batch at once where there are grammars; masks are there for so many. */
const MAX_CONSTRAINED = 4;
const grammars = await openFuzzGrammars(MAX_CONSTRAINED);
afterAll(() => grammars.close());

const MIXES: Record<string, Omit<FuzzOptions, 'seed'>> = {
  'roomy pool': { numRequests: 40, numAdapters: 3, maxSlots: 4, numBlocks: 200 },
  'tiny pool': { numRequests: 40, numAdapters: 3, maxSlots: 2, numBlocks: 24, interruption: 0.3 },
  'one slot, many adapters': { numRequests: 30, numAdapters: 6, maxSlots: 1, numBlocks: 40 },
  'sums of adapters': {
    numRequests: 40,
    numAdapters: 5,
    maxSlots: 3,
    numBlocks: 60,
    sums: 0.5,
    interruption: 0.2,
  },
  'failing steps': {
    numRequests: 40,
    numAdapters: 4,
    maxSlots: 2,
    numBlocks: 30,
    sums: 0.2,
    failure: 0.05,
    interruption: 0.3,
  },
  'sessions at fault': {
    numRequests: 60,
    numAdapters: 4,
    maxSlots: 2,
    numBlocks: 30,
    failure: 0.02,
    fault: 0.04,
    interruption: 0.3,
  },
  'answers of a form': {
    numRequests: 40,
    numAdapters: 3,
    maxSlots: 2,
    numBlocks: 24,
    interruption: 0.3,
    grammars,
  },
  'answers of a form, and sessions at fault': {
    numRequests: 40,
    numAdapters: 2,
    maxSlots: 2,
    numBlocks: 30,
    failure: 0.02,
    fault: 0.04,
    interruption: 0.2,
    grammars,
  },
  'dynamic rope': {
    numRequests: 40,
    numAdapters: 2,
    maxSlots: 2,
    numBlocks: 40,
    dynamicRopeMaxPositions: 22,
  },
};

async function runAll(mix: Omit<FuzzOptions, 'seed'>): Promise<FuzzReport[]> {
  const reports: FuzzReport[] = [];
  for (const seed of seeds) {
    const report = await fuzzEngine({ ...mix, seed });
    expect(report.violations, `LORAMUX_FUZZ_SEED=${seed}`).toEqual([]);
    reports.push(report);
  }
  return reports;
}

const sum = (reports: FuzzReport[], key: Exclude<keyof FuzzReport, 'violations'>) =>
  reports.reduce((total, report) => total + report[key], 0);

describe('engine under random load', () => {
  for (const [name, mix] of Object.entries(MIXES)) {
    it(name, async () => {
      const reports = await runAll(mix);
      if (only !== undefined) return;
      // The mixes must reach what they are there for.
      expect(sum(reports, 'prefixHitTokens')).toBeGreaterThan(0);
      if (mix.numBlocks < 30) expect(sum(reports, 'preemptions')).toBeGreaterThan(0);
      if (mix.numAdapters > mix.maxSlots) expect(sum(reports, 'evictions')).toBeGreaterThan(0);
      if (mix.grammars !== undefined) {
        expect(sum(reports, 'formed')).toBeGreaterThan(0);
        expect(sum(reports, 'moved')).toBeGreaterThan(0);
      }
      if (mix.failure !== undefined) expect(sum(reports, 'failedSteps')).toBeGreaterThan(0);
      if (mix.fault !== undefined) {
        expect(sum(reports, 'restarts')).toBeGreaterThan(0);
        expect(sum(reports, 'refused')).toBeGreaterThan(0);
      }
    });
  }
});

describe('mutation check: the fuzz goes red when a field leaves the block hash', () => {
  const mix = { numRequests: 60, numAdapters: 3, maxSlots: 4, numBlocks: 200 };
  const broken: Record<string, (identity: CacheIdentity) => string> = {
    'adapter digest': (identity) =>
      rootHash({
        ...identity,
        adapters: identity.adapters.map(({ weight }) => ({ generation: { digest: '' }, weight })),
      }),
    'adapter scale': (identity) =>
      rootHash({
        ...identity,
        adapters: identity.adapters.map(({ generation }) => ({ generation, weight: 1 })),
      }),
  };
  for (const [field, identify] of Object.entries(broken)) {
    it(field, async () => {
      const report = await fuzzEngine({ ...mix, seed: 1, identify });
      expect(report.violations.join('\n')).toContain('instead of');
      expect((await fuzzEngine({ ...mix, seed: 1 })).violations).toEqual([]);
    });
  }
});
