/** Tokens that a request does not want, in batches that are packed ahead. */
import { describe, expect, it } from 'vitest';
import {
  createHarness,
  leftovers,
  type RequestSpec,
  runAlone,
} from '../../support/engine-harness.ts';

const MAX_TOKENS = 60;
const spec = (sampling: RequestSpec['sampling']): RequestSpec => ({
  prompt: [3, 1, 4, 1, 5],
  sampling: { maxTokens: MAX_TOKENS, ...sampling },
});
const drawn = { temperature: 1, seed: 7n };

describe('banned tokens', () => {
  it.each([
    ['greedy', {}],
    ['drawn', drawn],
  ])('are never sampled when %s', async (_how, sampling) => {
    const free = (await runAlone(spec(sampling))).tokens[0]!;
    const wanted = new Set(free.slice(0, 3));
    const bannedTokenIds = Int32Array.from(wanted);
    const { tokens } = await runAlone(spec({ ...sampling, bannedTokenIds }));
    expect(tokens[0]).toHaveLength(MAX_TOKENS);
    expect(tokens[0]!.filter((id) => wanted.has(id))).toEqual([]);
  });

  it.each([
    ['greedy', {}],
    ['drawn', drawn],
  ])('are never sampled after others when %s', async (_how, sampling) => {
    const free = (await runAlone(spec(sampling))).tokens[0]!;
    const bannedSequences = [Int32Array.from(free.slice(0, 2)), Int32Array.from(free.slice(4, 7))];
    const harness = createHarness({ engine: { numBlocks: 128 } });
    const request = harness.submit(spec({ ...sampling, bannedSequences }));
    const other = harness.submit(spec(sampling));
    await harness.engine.idle();
    expect(other.tokens[0]).toEqual(free);
    const text = ` ${request.tokens[0]!.join(' ')} `;
    for (const sequence of bannedSequences) {
      expect(` ${free.join(' ')} `).toContain(` ${sequence.join(' ')} `);
      expect(text).not.toContain(` ${sequence.join(' ')} `);
    }
    // A word's first token alone is not banned.
    expect(request.tokens[0]![0]).toBe(free[0]);
    expect(leftovers(harness)).toEqual([]);
  });
});
