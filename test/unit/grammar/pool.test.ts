/** Grammar threads with the real library: masks, turns, failures that stay where they are. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { TokenMasks } from '../../../src/engine/types.ts';
import {
  MASK_HEADER_WORDS,
  MASK_NEVER,
  MaskMemory,
  NEVER_SLOT,
} from '../../../src/grammar/mask-memory.ts';
import {
  type GrammarLease,
  GrammarPool,
  type GrammarPoolOptions,
} from '../../../src/grammar/pool.ts';
import { keyed } from '../../../src/grammar/source.ts';
import { loadTokenizer } from '../../../src/tokenizer/tokenizer.ts';
import { makeSmallBase } from '../../support/small-base.ts';
import { until } from '../../support/until.ts';

const VOCAB = 300;
const EOS = 2;
const never = new AbortController().signal;
const regex = (pattern: string) => keyed({ kind: 'regex', pattern });
let base: Awaited<ReturnType<typeof makeSmallBase>>;
/** Token of each character of ASCII. */
let idOf: Map<string, number>;
const pools: GrammarPool[] = [];

beforeAll(async () => {
  base = await makeSmallBase();
  const tokenizer = await loadTokenizer(base.dir);
  idOf = new Map(Array.from({ length: VOCAB }, (_, id) => [tokenizer.tokenText(id), id]));
});
afterAll(async () => {
  await Promise.all(pools.map((pool) => pool.close()));
  await base.end();
});

type PoolOptions = Pick<GrammarPoolOptions, 'workerUrl' | 'onWarning'>;

function openPool(options: PoolOptions & { compileMsMax?: number; cachedMax?: number } = {}) {
  const masks = new MaskMemory(VOCAB, 4);
  const setup = { modelDir: base.dir, vocabSize: VOCAB, stopTokenIds: [EOS] };
  const pool = new GrammarPool({ setup, masks, compileMsMax: 60_000, cachedMax: 8, ...options });
  pools.push(pool);
  const allowed = async (stream: TokenMasks, index: number): Promise<string[]> => {
    const at = () => stream.slot * masks.stride;
    await until(
      `the mask of token ${index}`,
      () => Atomics.load(masks.words, at()),
      (stamp) => stamp === index + 1,
    );
    const words = masks.words.subarray(at() + MASK_HEADER_WORDS);
    const isAllowed = (id: number) => ((words[id >> 5]! >>> (id & 31)) & 1) === 1;
    const found = [...idOf].filter(([, id]) => isAllowed(id)).map(([text]) => text);
    return found.sort();
  };
  const follow = (stream: TokenMasks, text: string) => {
    for (const char of text) stream.accept(idOf.get(char)!);
    pool.flush();
  };
  return { pool, masks, allowed, follow };
}

/** An entry of a thread. */
const moduleOf = (code: string) => new URL(`data:text/javascript,${encodeURIComponent(code)}`);
/** Prepares whatever it is given and ends when a choice is opened. */
const CRASHING = `
  import { parentPort } from 'node:worker_threads';
  parentPort.on('message', ({ kind }) => {
    if (kind === 'open') throw new Error('crash');
    parentPort.postMessage({ kind: 'compiled', ms: 1, length: 1 });
  });
  parentPort.postMessage({ kind: 'ready' });`;

const open = (lease: GrammarLease | undefined, tokens: number[] = []) =>
  lease!.open(Int32Array.from(tokens));

describe('masks', () => {
  it('allow what the grammar does, and the end where the text is whole', async () => {
    const { pool, allowed, follow } = openPool();
    const lease = await pool.acquire(regex('ab?c'), never);
    const stream = open(lease);
    expect(await allowed(stream, 0)).toEqual(['a']);
    follow(stream, 'a');
    expect(await allowed(stream, 1)).toEqual(['b', 'c']);
    follow(stream, 'c');
    expect(await allowed(stream, 2)).toEqual(['</s>']);
    const again = open(lease, [idOf.get('a')!, idOf.get('b')!]);
    expect(await allowed(again, 2)).toEqual(['c']);
  });

  it('go on when new grammars are prepared meanwhile, and the threads trade places', async () => {
    const { pool, masks, allowed, follow } = openPool();
    const stream = open(await pool.acquire(regex('a{1,9}'), never));
    expect(await allowed(stream, 0)).toEqual(['a']);
    for (let i = 1; i <= 4; i++) {
      const slot = stream.slot;
      const other = open(await pool.acquire(regex(`b{${i}}c`), never));
      expect(stream.slot).not.toBe(slot);
      expect(await allowed(other, 0)).toEqual(['b']);
      other.close();
      follow(stream, 'a');
      expect(await allowed(stream, i)).toEqual(['</s>', 'a']);
      masks.stepEnded();
    }
    expect(pool.stats()).toMatchObject({ compiles: 5, hits: 0, waiting: 0 });
  });

  it('keep coming however often the threads trade places within one step', async () => {
    const { pool, masks, allowed } = openPool();
    const lease = await pool.acquire(regex('a{1,9}'), never);
    const streams = Array.from({ length: 4 }, () => open(lease));
    for (let i = 1; i <= 3; i++) await pool.acquire(regex(`b{${i}}`), never);
    // Every slot has been used in this step: the next trade is put off.
    const slots = streams.map(({ slot }) => slot);
    const late = pool.acquire(regex('late'), never);
    await until(
      'it is prepared',
      () => pool.stats().compiles,
      (compiles) => compiles === 5,
    );
    expect(streams.map(({ slot }) => slot)).toEqual(slots);
    await until(
      'all threads have left their slots',
      () => {
        pool.stepEnded();
        return masks.numFree;
      },
      (free) => free >= streams.length,
    );
    await late;
    for (const stream of streams) expect(await allowed(stream, 0)).toEqual(['a']);
  });

  it('never come for a token that the grammar does not allow', async () => {
    const { pool, masks, allowed, follow } = openPool();
    const stream = open(await pool.acquire(regex('ab'), never));
    expect(await allowed(stream, 0)).toEqual(['a']);
    follow(stream, 'x');
    await until(
      'a stamp that says so',
      () => Atomics.load(masks.words, stream.slot * masks.stride),
      (stamp) => stamp === MASK_NEVER,
    );
  });

  it('leave no half characters that cannot be completed', async () => {
    const { pool, allowed } = openPool();
    const stream = open(await pool.acquire(regex('[^a]{2}'), never));
    const texts = await allowed(stream, 0);
    expect(texts).toContain('bytes:\\xe0');
    for (const lead of ['\\xc0', '\\xc1', '\\xf5', '\\xff']) {
      expect(texts).not.toContain(`bytes:${lead}`);
    }
    stream.accept(idOf.get('bytes:\\xed')!);
    pool.flush();
    const after = await allowed(stream, 1);
    expect(after).toContain('bytes:\\x9f');
    expect(after).not.toContain('bytes:\\xa0');
  });
});

describe('what is prepared', () => {
  it('is kept, and the least recently used goes', async () => {
    const { pool } = openPool({ cachedMax: 2 });
    for (const pattern of ['a', 'b', 'c', 'd']) {
      (await pool.acquire(regex(pattern), never))?.release();
    }
    expect(pool.stats().cached).toBeLessThanOrEqual(2);
    (await pool.acquire(regex('d'), never))?.release();
    expect(pool.stats()).toMatchObject({ compiles: 4, hits: 1 });
  });

  it('is there for all who waited for a round of it, however few are kept', async () => {
    const { pool, allowed } = openPool({ cachedMax: 1 });
    const letters = ['a', 'b', 'c', 'd'];
    const streams = letters.map(async (letter) => open(await pool.acquire(regex(letter), never)));
    for (const [i, stream] of streams.entries()) {
      expect(await allowed(await stream, 0)).toEqual([letters[i]]);
    }
  });

  it('is refused when it is no grammar, and nobody else hears of it', async () => {
    const { pool, allowed, follow } = openPool();
    const stream = open(await pool.acquire(regex('aa'), never));
    const bad = keyed({ kind: 'grammar', ebnf: 'root ::= missing' });
    await expect(pool.acquire(bad, never)).rejects.toMatchObject({
      code: 'grammar_invalid',
      message: expect.stringContaining('Rule "missing" is not defined'),
    });
    follow(stream, 'a');
    expect(await allowed(stream, 1)).toEqual(['a']);
    expect(open(await pool.acquire(regex('b'), never)).slot).not.toBe(NEVER_SLOT);
  });

  it('has limited time; those who gave up are not waited for', async () => {
    const { pool, allowed, follow } = openPool({ compileMsMax: 4000 });
    const stream = open(await pool.acquire(regex('aa'), never));
    const parts = Array.from({ length: 200 }, (_, i) => `([a-z]|abab){0,${1000 + i}}`);
    const hostile = pool.acquire(regex(parts.join('x')), never);
    const controller = new AbortController();
    const given = pool.acquire(regex('zz'), controller.signal);
    controller.abort();
    expect(await given).toBeUndefined();
    follow(stream, 'a');
    expect(await allowed(stream, 1)).toEqual(['a']);
    await expect(hostile).rejects.toMatchObject({ code: 'grammar_too_complex' });
    expect(open(await pool.acquire(regex('c'), never)).slot).not.toBe(NEVER_SLOT);
  });

  it('goes with its thread: the choices end, and another one is started', async () => {
    const warnings: string[] = [];
    const { pool, masks } = openPool({
      workerUrl: moduleOf(CRASHING),
      onWarning: (message, error) => warnings.push(`${message}: ${(error as Error).message}`),
    });
    for (let i = 1; i <= 2; i++) {
      const lease = await pool.acquire(regex('a'), never);
      const free = masks.numFree;
      const stream = open(lease);
      const { slot } = stream;
      expect(slot).not.toBe(NEVER_SLOT);
      await until(
        'the thread has ended',
        () => stream.slot,
        (now) => now === NEVER_SLOT,
      );
      expect(Atomics.load(masks.words, slot * masks.stride)).toBe(MASK_NEVER);
      expect(warnings.length).toBe(i);
      expect(warnings[i - 1]).toBe(
        'the thread that writes token masks ended: 1 choices end with it',
      );
      // Its request has yet to hear of it.
      stream.accept(1);
      pool.flush();
      stream.close();
      lease!.release();
      expect(masks.numFree).toBe(free - 1);
      pool.stepEnded();
      expect(masks.numFree).toBe(free);
    }
    expect(pool.stats()).toMatchObject({ compiles: 2, hits: 0 });
  });

  it('is not to be had where no thread starts', async () => {
    const { pool } = openPool({ workerUrl: moduleOf('process.exit(7)') });
    await expect(pool.acquire(regex('a'), never)).rejects.toMatchObject({ code: 'internal_error' });
  });

  it('ends with the pool', async () => {
    const { pool } = openPool();
    const waiting = pool.acquire(regex('a'), never);
    const ended = expect(waiting).rejects.toMatchObject({ code: 'shutting_down' });
    await pool.close();
    await ended;
    await expect(pool.acquire(regex('a'), never)).rejects.toMatchObject({ code: 'shutting_down' });
  });
});
