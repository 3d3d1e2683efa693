import { describe, expect, it } from 'vitest';
import { setSplit } from '../../../../src/adapters/registry/entry.ts';
import { chooseGeneration, splitPoint } from '../../../../src/adapters/registry/split.ts';
import { fc } from '../../../support/properties.ts';
import { nameEntry, sha256 } from '../../../support/registry-entries.ts';

const withWeight = (weight: number, name = 'a') =>
  setSplit(nameEntry(name, 'old', 'new'), { digest: sha256('old'), weight }, 0);
const isSplit = (digest: string) => digest === sha256('old');
const never = () => {
  throw new Error('nothing is drawn for a key');
};

describe('chooseGeneration', () => {
  it('answers with the current generation when there is no split', () => {
    const entry = nameEntry('a', 'old', 'new');
    expect(chooseGeneration(entry, 'key', never)).toBe(sha256('new'));
    expect(chooseGeneration(entry, undefined, never)).toBe(sha256('new'));
  });

  it('draws without a key, by weight', () => {
    const entry = withWeight(0.25);
    expect(isSplit(chooseGeneration(entry, undefined, () => 0))).toBe(true);
    expect(isSplit(chooseGeneration(entry, undefined, () => 0.2499))).toBe(true);
    expect(isSplit(chooseGeneration(entry, undefined, () => 0.25))).toBe(false);
    expect(isSplit(chooseGeneration(entry, undefined, () => 0.9999))).toBe(false);
  });

  it('gives equal keys the same side, and keeps them in the split while it grows', () => {
    const weight = fc.double({ min: 0.001, max: 0.999, noNaN: true });
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), weight, weight, (key, a, b) => {
        const [small, large] = [withWeight(Math.min(a, b)), withWeight(Math.max(a, b))];
        const inSmall = isSplit(chooseGeneration(small, key, never));
        expect(isSplit(chooseGeneration(small, key, never))).toBe(inSmall);
        if (inSmall) expect(isSplit(chooseGeneration(large, key, never))).toBe(true);
      }),
      { numRuns: 500 },
    );
  });

  it('gives a split the share of its weight', () => {
    const keys = 20_000;
    for (const weight of [0.01, 0.1, 0.5, 0.9]) {
      const entry = withWeight(weight);
      let hits = 0;
      for (let i = 0; i < keys; i++) {
        if (isSplit(chooseGeneration(entry, `user-${i}`, never))) hits++;
      }
      // Six standard deviations; the keys are fixed, so this does not flicker.
      const deviation = Math.sqrt(keys * weight * (1 - weight));
      expect(Math.abs(hits - keys * weight)).toBeLessThan(6 * deviation);
    }
  });

  it('takes a generation of its own choice with the empty key', () => {
    expect(chooseGeneration(withWeight(0.5), '', never)).toMatch(/^[0-9a-f]{64}$/);
  });
});

describe('splitPoint', () => {
  it('is the stated hash', () => {
    const hash = sha256('team/a\0user-1');
    expect(splitPoint('team/a', 'user-1')).toBe(
      Number(BigInt(`0x${hash.slice(0, 16)}`) >> 11n) / 2 ** 53,
    );
  });

  it('is spread evenly over [0, 1)', () => {
    const bins = new Array<number>(64).fill(0);
    const count = 64 * 500;
    for (let i = 0; i < count; i++) {
      const point = splitPoint('a', String(i));
      expect(point >= 0 && point < 1).toBe(true);
      bins[Math.floor(point * 64)]!++;
    }
    const expected = count / 64;
    const chiSquare = bins.reduce((sum, n) => sum + (n - expected) ** 2 / expected, 0);
    // 63 degrees of freedom: above 120 with a probability below 0.00002.
    expect(chiSquare).toBeLessThan(120);
  });

  it('orders the keys of two names differently', () => {
    let both = 0;
    for (let i = 0; i < 10_000; i++) {
      if (splitPoint('a', `user-${i}`) < 0.1 && splitPoint('b', `user-${i}`) < 0.1) both++;
    }
    // One in a hundred when they are independent, one in ten when they are the same.
    expect(both).toBeGreaterThan(40);
    expect(both).toBeLessThan(160);
  });

  it('tells name and key apart', () => {
    expect(splitPoint('a', 'bc')).not.toBe(splitPoint('ab', 'c'));
  });
});
