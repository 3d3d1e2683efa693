/** Which threads share a step's work must not show in its answers. */
import { describe, expect, it } from 'vitest';
import { createNativeSession } from '../../src/native/index.ts';
import { fixtureImage, fixtureOptions, goldenCases } from '../support/native-fixtures.ts';
import { type Generated, generate } from '../support/native-generate.ts';

const MODEL = 'qwen3';
const TOKENS = 12;
const BLOCKS_EACH = 8;

async function answers(packedWeights: boolean, intraOpThreads: number): Promise<Generated[]> {
  const options = await fixtureOptions(MODEL, { intraOpThreads });
  const session = await createNativeSession({
    ...options,
    model: { ...options.model, packedWeights },
  });
  try {
    await session.loadAdapter(0, fixtureImage(MODEL, 'qv-r4'));
    const generations = goldenCases(MODEL)
      .slice(0, 4)
      .map(({ promptIds }, i) => ({
        prompt: promptIds,
        slot: (i % 2) - 1,
        blocks: Array.from({ length: BLOCKS_EACH }, (_, block) => i * BLOCKS_EACH + block),
      }));
    return await generate(session, generations, TOKENS);
  } finally {
    await session.close();
  }
}

describe("a step on the session's own threads", () => {
  it.each([1, 2, 3])(
    "answers with the same bits as on ONNX Runtime's (%i threads)",
    async (threads) => {
      const expected = await answers(false, threads);
      expect(await answers(true, threads)).toEqual(expected);
    },
  );
});
