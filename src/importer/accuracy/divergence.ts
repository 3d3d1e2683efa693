/** How far one next-token distribution is from another, in double precision. */

/** One position of a text, seen by the reference and by a candidate. */
export interface PositionDivergence {
  /** KL(reference || candidate) in nats; 0 for equal logits. */
  kl: number;
  /** Whether both have the same most likely token; of equal logits the lowest id counts. */
  sameTop: boolean;
  /** Log-probability of the token that follows in the text; NaN when there is none. */
  referenceLogprob: number;
  candidateLogprob: number;
}

/**
 * Compares two rows of logits of the same position.
 *
 * With P and Q the softmax of a and b: KL(P || Q) = sum_i p_i (a_i - b_i) - lse(a) + lse(b). The
 * form takes differences of logits before anything is multiplied, so that near-equal rows, whose KL
 * is the square of their difference, keep their digits.
 * @param reference float32 [vocab] logits, finite
 * @param candidate float32 [vocab] logits, finite
 * @param targetId token that follows, or -1
 */
export function comparePosition(
  reference: Float32Array,
  candidate: Float32Array,
  targetId: number,
): PositionDivergence {
  if (reference.length !== candidate.length || reference.length === 0) {
    throw new RangeError(`rows of ${reference.length} and ${candidate.length} logits`);
  }
  const referenceTop = argMax(reference);
  const candidateTop = argMax(candidate);
  const referenceMax = reference[referenceTop]!;
  const candidateMax = candidate[candidateTop]!;
  let referenceSum = 0;
  let candidateSum = 0;
  let weighted = 0;
  for (let i = 0; i < reference.length; i++) {
    const a = reference[i]!;
    const b = candidate[i]!;
    const p = Math.exp(a - referenceMax);
    referenceSum += p;
    candidateSum += Math.exp(b - candidateMax);
    weighted += p * (a - b);
  }
  const referenceLse = referenceMax + Math.log(referenceSum);
  const candidateLse = candidateMax + Math.log(candidateSum);
  const kl = weighted / referenceSum - referenceLse + candidateLse;
  if (!Number.isFinite(kl)) throw new RangeError('a row of logits is not finite');
  return {
    // Rounding may leave a hair below zero, which no divergence is.
    kl: Math.max(0, kl),
    sameTop: referenceTop === candidateTop,
    referenceLogprob: targetId < 0 ? Number.NaN : reference[targetId]! - referenceLse,
    candidateLogprob: targetId < 0 ? Number.NaN : candidate[targetId]! - candidateLse,
  };
}

function argMax(row: Float32Array): number {
  let best = 0;
  for (let i = 1; i < row.length; i++) if (row[i]! > row[best]!) best = i;
  return best;
}

/** What a text says about one format. */
export interface Divergence {
  /** Positions compared. */
  positions: number;
  /** Nats. */
  klMean: number;
  /** 99th percentile, nearest rank. */
  klP99: number;
  klMax: number;
  /** Share of positions with the same most likely token, 0 to 1. */
  topAgreement: number;
  /** Positions whose next token is known; both perplexities are over these. */
  scored: number;
  /** exp of the mean negative log-probability; null when nothing was scored. */
  referencePerplexity: number | null;
  perplexity: number | null;
}

/** Adds up positions. */
export class DivergenceTotals {
  readonly #kl: number[] = [];
  #sameTop = 0;
  #scored = 0;
  #referenceLogprob = 0;
  #candidateLogprob = 0;

  add(position: PositionDivergence): void {
    this.#kl.push(position.kl);
    if (position.sameTop) this.#sameTop += 1;
    if (Number.isNaN(position.referenceLogprob)) return;
    this.#scored += 1;
    this.#referenceLogprob += position.referenceLogprob;
    this.#candidateLogprob += position.candidateLogprob;
  }

  /** @throws RangeError when no position was added */
  result(): Divergence {
    const positions = this.#kl.length;
    if (positions === 0) throw new RangeError('no position was compared');
    const sorted = Float64Array.from(this.#kl).sort();
    const perplexity = (sum: number) => (this.#scored === 0 ? null : Math.exp(-sum / this.#scored));
    return {
      positions,
      klMean: sorted.reduce((sum, kl) => sum + kl, 0) / positions,
      klP99: sorted[Math.ceil(0.99 * positions) - 1]!,
      klMax: sorted[positions - 1]!,
      topAgreement: this.#sameTop / positions,
      scored: this.#scored,
      referencePerplexity: perplexity(this.#referenceLogprob),
      perplexity: perplexity(this.#candidateLogprob),
    };
  }
}
