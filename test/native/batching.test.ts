/** A sequence's answer must not depend on what runs beside it, in which row, or in which chunks. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { NativeSession } from '../../src/native/index.ts';
import { fixtureImage, fixtureSession, goldenCases } from '../support/native-fixtures.ts';
import { type Generation, generate, maxAbsDifference } from '../support/native-generate.ts';
import { Random } from '../support/random.ts';
import { packStep } from '../support/step-packets.ts';

const MODEL = 'qwen3';
const ADAPTERS = ['qv-r4', 'all-r8-rslora'];
const TOKENS = 24;
const BLOCKS_EACH = 8;
const LOGPROB_TOLERANCE = 1e-5;

let session: NativeSession;

beforeAll(async () => {
  session = await fixtureSession(MODEL, { numBlocks: 32 * BLOCKS_EACH, maxTokensPerStep: 4096 });
  for (const [slot, adapter] of ADAPTERS.entries()) {
    await session.loadAdapter(slot, fixtureImage(MODEL, adapter));
  }
});
afterAll(() => session.close());

/** `count` sequences over base and adapters, each with its own blocks, scattered. */
function mix(count: number, random: Random): Generation[] {
  const prompts = goldenCases(MODEL).map((golden) => golden.promptIds);
  const blocks = shuffled([...Array(32 * BLOCKS_EACH).keys()], random);
  return Array.from({ length: count }, (_, i) => ({
    prompt: random.pick(prompts),
    slot: random.int(-1, ADAPTERS.length - 1),
    blocks: blocks.slice(i * BLOCKS_EACH, (i + 1) * BLOCKS_EACH),
    ...(random.chance(0.5) ? { chunkTokens: random.int(1, 20) } : {}),
  }));
}

function shuffled<T>(items: T[], random: Random): T[] {
  const copy = [...items];
  for (let i = copy.length - 1; i > 0; i -= 1) {
    const j = random.int(0, i);
    [copy[i], copy[j]] = [copy[j]!, copy[i]!];
  }
  return copy;
}

describe('batches', () => {
  it.each([1, 2, 3])(
    'mixed batches of 2 to 32 answer as each sequence alone (seed %i)',
    async (seed) => {
      const random = new Random(seed);
      for (const count of [2, 5, 32]) {
        const generations = mix(count, random);
        const together = await generate(session, generations, TOKENS, (indices) =>
          shuffled(indices, random),
        );
        for (const [i, generation] of generations.entries()) {
          const { chunkTokens: _, ...whole } = generation;
          const [alone] = await generate(session, [whole], TOKENS);
          const label = `seed ${seed}, ${count} sequences, sequence ${i}`;
          expect(together[i]!.tokenIds, label).toEqual(alone!.tokenIds);
          expect(maxAbsDifference(together[i]!.logprobs, alone!.logprobs), label).toBeLessThan(
            LOGPROB_TOLERANCE,
          );
        }
      }
    },
  );

  it('a chunk without wanted rows returns none and still fills the cache', async () => {
    const [golden] = goldenCases(MODEL);
    const { promptIds, greedyIds } = golden!;
    const blocks = [...Array(BLOCKS_EACH).keys()];
    const first = await session.step(
      packStep([{ tokens: promptIds.slice(0, -1), cached: 0, blocks, rows: [] }]),
      true,
    );
    expect(first.tokenIds).toHaveLength(0);
    expect(first.logits).toHaveLength(0);
    const second = await session.step(
      packStep([{ tokens: promptIds.slice(-1), cached: promptIds.length - 1, blocks }]),
    );
    expect(second.tokenIds[0]).toBe(greedyIds[0]);
  });

  it('copied blocks continue as the original', async () => {
    const golden = goldenCases(MODEL).find((c) => c.adapter === null && c.promptIds.length > 16)!;
    const original = [...Array(BLOCKS_EACH).keys()];
    const copy = original.map((block) => block + BLOCKS_EACH);
    await session.step(
      packStep([{ tokens: golden.promptIds, cached: 0, blocks: original, rows: [] }]),
    );
    const used = Math.ceil(golden.promptIds.length / 16);
    const copies = original.slice(0, used).map((b): [number, number] => [b, b + BLOCKS_EACH]);
    const token = golden.greedyIds[0]!;
    const chunk = { tokens: [token], cached: golden.promptIds.length };
    const step = await session.step(
      packStep(
        [
          { ...chunk, blocks: original },
          { ...chunk, blocks: copy },
        ],
        copies,
      ),
    );
    expect([...step.tokenIds]).toEqual([golden.greedyIds[1], golden.greedyIds[1]]);
    expect(step.logprobs[0]).toBe(step.logprobs[1]);
  });

  it('the scale of a segment weighs the adapter: 0 is the base', async () => {
    const golden = goldenCases(MODEL).find((c) => c.adapter === null)!;
    const run = async (slot: number, scale: number): Promise<Float32Array> => {
      const blocks = [...Array(BLOCKS_EACH).keys()];
      const packet = packStep([{ tokens: golden.promptIds, cached: 0, blocks, slot, scale }]);
      return (await session.step(packet, true)).logits!;
    };
    const base = await run(-1, 1);
    expect(maxAbsDifference(await run(0, 0), base)).toBeLessThan(1e-5);
    expect(maxAbsDifference(await run(0, 1), base)).toBeGreaterThan(0.1);
    expect(maxAbsDifference(await run(0, 0.5), base)).toBeGreaterThan(0.05);
  });

  it('a bf16 cache changes logits little and sampling is reproducible by seed', async () => {
    const half = await fixtureSession(MODEL, { kvDtype: 'bf16' });
    const golden = goldenCases(MODEL).find((c) => c.adapter === null)!;
    const blocks = [...Array(BLOCKS_EACH).keys()];
    const packet = (seed: bigint) =>
      packStep([
        {
          tokens: golden.promptIds,
          cached: 0,
          blocks,
          rows: [{ at: golden.promptIds.length - 1, row: { temperature: 3, seed } }],
        },
      ]);
    const full = await session.step(packet(1n), true);
    const small = await half.step(packet(1n), true);
    const difference = maxAbsDifference(full.logits!, small.logits!);
    expect(difference).toBeGreaterThan(0);
    expect(difference).toBeLessThan(0.1);
    const draws = new Set<number>();
    for (let seed = 0n; seed < 20n; seed += 1n) {
      const a = await session.step(packet(seed));
      const b = await session.step(packet(seed));
      expect(a.tokenIds[0]).toBe(b.tokenIds[0]);
      draws.add(a.tokenIds[0]!);
    }
    expect(draws.size).toBeGreaterThan(3);
    await half.close();
  });
});
