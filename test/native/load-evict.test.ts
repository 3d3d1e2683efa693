/** Memory stays where it is over ten thousand loads and evictions of real adapters. */
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';

interface Outcome {
  /** Resident bytes of the process after each 250 loads. */
  samples: number[];
  counts: Record<'host' | 'disk' | 'loadFailures' | 'evictions' | 'filesHeld', number>;
  left: Record<'resident' | 'adapterBytes' | 'freesRefused' | 'hostBytes', number>;
}

const GROWTH_MAX = 1.02;
const SAMPLES = 40;
/** The first 500 loads. */
const WARM_SAMPLES = 2;

describe('loading and evicting', () => {
  it('10,000 adapters leaves resident memory where it was', async () => {
    const script = fileURLToPath(new URL('../support/load-evict-process.ts', import.meta.url));
    const { stdout } = await promisify(execFile)(process.execPath, ['--import', 'tsx', script]);
    const { samples, counts, left } = JSON.parse(stdout) as Outcome;
    expect(left).toEqual({ resident: 0, adapterBytes: 0, freesRefused: 0, hostBytes: 0 });
    expect(counts).toMatchObject({ loadFailures: 0, filesHeld: 0 });
    expect(counts.host, 'loads from host memory').toBeGreaterThan(0);
    expect(counts.disk, 'loads from disk').toBeGreaterThan(counts.host);
    expect(counts.host + counts.disk).toBeGreaterThanOrEqual(10_000);
    expect(samples).toHaveLength(SAMPLES);
    const baseline = samples[WARM_SAMPLES - 1]!;
    const largest = Math.max(...samples.slice(WARM_SAMPLES));
    const mib = samples.map((bytes) => (bytes / 2 ** 20).toFixed(1)).join(' ');
    expect(largest / baseline, `resident MiB: ${mib}`).toBeLessThan(GROWTH_MAX);
  });
});
