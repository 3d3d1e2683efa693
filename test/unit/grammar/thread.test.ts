/** A grammar thread by itself: whatever fails in it ends it, and is heard of. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { MaskMemory } from '../../../src/grammar/mask-memory.ts';
import { GrammarThread } from '../../../src/grammar/thread.ts';
import { makeSmallBase } from '../../support/small-base.ts';

const VOCAB = 300;
let base: Awaited<ReturnType<typeof makeSmallBase>>;
beforeAll(async () => {
  base = await makeSmallBase();
});
afterAll(() => base.end());

function start(modelDir: string) {
  const { words, stride } = new MaskMemory(VOCAB, 1);
  let onLost: (thread: GrammarThread) => void = () => {};
  const lost = new Promise<GrammarThread>((resolve) => {
    onLost = resolve;
  });
  const thread = new GrammarThread({
    setup: { modelDir, vocabSize: VOCAB, stopTokenIds: [2], words, stride },
    cachedMax: 1,
    openMax: 4,
    onLost,
    onClosed: () => {},
  });
  return { thread, lost };
}

describe('a grammar thread', () => {
  it('ends when it is told what cannot be', async () => {
    const { thread, lost } = start(base.dir);
    await thread.started;
    thread.accept(7, 1);
    thread.flush();
    expect(await lost).toBe(thread);
    expect(thread.lost).toBe(true);
    await thread.empty();
  });

  it('does not start without a tokenizer', async () => {
    const { thread, lost } = start('/nowhere');
    await expect(thread.started).rejects.toMatchObject({ code: 'internal_error' });
    expect(await lost).toBe(thread);
  });
});
