/** The arithmetic of accuracy: closed forms, and what must hold of every divergence. */
import { describe, expect, it } from 'vitest';
import { comparePosition, DivergenceTotals } from '../../../../src/importer/accuracy/divergence.ts';
import { Random } from '../../../support/random.ts';

const row = (...values: number[]) => Float32Array.from(values);
const rowOf = (values: readonly number[]) => Float32Array.from(values);

/** KL of two lists of probabilities by its definition. */
function klOf(p: readonly number[], q: readonly number[]): number {
  return p.reduce((sum, pi, i) => sum + pi * Math.log(pi / q[i]!), 0);
}

function softmax(logits: Float32Array): number[] {
  const powers = Array.from(logits, (logit) => Math.exp(logit));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((power) => power / sum);
}

describe('comparePosition', () => {
  it('gives the closed form of two outcomes', () => {
    // 3/4 and 1/4 against even chances: log 2 less the entropy.
    const { kl } = comparePosition(row(Math.log(3), 0), row(0, 0), -1);
    expect(kl).toBeCloseTo(0.75 * Math.log(1.5) + 0.25 * Math.log(0.5), 7);
  });

  it('is exactly 0 for equal rows, and does not see a shift of all logits', () => {
    const random = new Random(1);
    const a = Float32Array.from({ length: 1000 }, () => random.next() * 40 - 20);
    expect(comparePosition(a, a.slice(), 3).kl).toBe(0);
    // Powers of two move no digit.
    const wide = a.map((logit) => Math.round(logit * 1024) / 1024);
    expect(
      comparePosition(
        wide,
        wide.map((logit) => logit + 64),
        3,
      ).kl,
    ).toBeLessThan(1e-13);
  });

  it('agrees with the definition on random rows and is never negative', () => {
    for (let seed = 0; seed < 20; seed++) {
      const random = new Random(seed);
      const a = Float32Array.from({ length: 257 }, () => random.next() * 10);
      const b = a.map((logit) => logit + (random.next() - 0.5) * 10 ** -(seed % 6));
      const { kl } = comparePosition(a, b, 0);
      const expected = klOf(softmax(a), softmax(b));
      expect(kl, `seed ${seed}`).toBeGreaterThanOrEqual(0);
      expect(Math.abs(kl - expected), `seed ${seed}`).toBeLessThan(1e-12);
    }
  });

  it('stays finite where probabilities underflow', () => {
    const { kl, referenceLogprob } = comparePosition(row(0, -3e4), row(0, 3e4), 1);
    expect(kl).toBeCloseTo(3e4, 6);
    expect(referenceLogprob).toBe(-3e4);
  });

  it('says whether the first of the most likely tokens is the same', () => {
    expect(comparePosition(row(1, 3, 3), row(0, 2, 2), -1).sameTop).toBe(true);
    expect(comparePosition(row(1, 3, 3), row(0, 2, 2.1), -1).sameTop).toBe(false);
  });

  it('gives log-probabilities of the token that follows', () => {
    const one = comparePosition(row(0, Math.log(3)), row(0, 0), 1);
    expect(one.referenceLogprob).toBeCloseTo(Math.log(0.75), 7);
    expect(one.candidateLogprob).toBeCloseTo(Math.log(0.5), 12);
    expect(comparePosition(row(0, 1), row(0, 0), -1).referenceLogprob).toBeNaN();
  });

  it('refuses rows that cannot be compared', () => {
    expect(() => comparePosition(row(0), row(0, 1), -1)).toThrow(RangeError);
    expect(() => comparePosition(row(), row(), -1)).toThrow(RangeError);
    expect(() => comparePosition(row(0, Number.NaN), row(0, 1), -1)).toThrow(RangeError);
    expect(() => comparePosition(row(0, 1), row(0, Infinity), -1)).toThrow(RangeError);
  });
});

describe('DivergenceTotals', () => {
  it('adds up positions; the 99th percentile is by nearest rank', () => {
    const totals = new DivergenceTotals();
    for (let i = 200; i >= 1; i--) {
      totals.add({
        kl: i,
        sameTop: i % 4 !== 0,
        referenceLogprob: i === 1 ? Number.NaN : -1,
        candidateLogprob: i === 1 ? Number.NaN : -2,
      });
    }
    expect(totals.result()).toEqual({
      positions: 200,
      klMean: 100.5,
      klP99: 198,
      klMax: 200,
      topAgreement: 0.75,
      scored: 199,
      referencePerplexity: Math.exp(1),
      perplexity: Math.exp(2),
    });
  });

  it('has no perplexity without a known next token, and no result without positions', () => {
    const totals = new DivergenceTotals();
    expect(() => totals.result()).toThrow(RangeError);
    totals.add(comparePosition(rowOf([0, 1]), rowOf([0, 1]), -1));
    expect(totals.result()).toMatchObject({ scored: 0, perplexity: null, klMean: 0 });
  });
});
