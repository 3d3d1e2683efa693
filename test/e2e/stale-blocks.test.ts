/** Cached keys and values never answer for another adapter, weight or content. */
import { cp, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { goldenCases } from '../support/native-fixtures.ts';
import { FIXTURES, Stack } from '../support/stack.ts';

const MODEL = 'llama3';
const A = 'qv-r4';
const B = 'all-r8-rslora';
const adapterDir = (name: string) => path.join(FIXTURES, 'adapters', MODEL, name);

describe('prefix reuse', () => {
  let stack: Stack;
  const golden = (adapter: string | null) =>
    goldenCases(MODEL).find((entry) => entry.adapter === adapter && entry.promptIds.length === 70)!;
  const prompt = golden(null).promptIds;
  const tokensUnder = async (adapter: string | undefined, scale = 1) => {
    const answer = await stack.ask({ prompt, adapter, scale }).answer;
    return { tokens: answer.tokens[0], cached: answer.cachedPromptTokens };
  };
  const expected = (adapter: string | null) => golden(adapter).greedyIds.slice(0, 32);

  beforeAll(async () => {
    stack = await Stack.open(path.join(FIXTURES, 'models', MODEL));
    for (const name of [A, B]) await stack.put(name, adapterDir(name));
  });
  afterAll(() => stack?.close());

  it('asks the same prompts of all', () => {
    for (const adapter of [A, B]) expect(golden(adapter).promptIds).toEqual(prompt);
    expect(expected(A)).not.toEqual(expected(B));
    expect(expected(A)).not.toEqual(expected(null));
  });

  it('answers A, B, A and the base rightly, and reuses only what is its own', async () => {
    const first = await tokensUnder(A);
    expect(first).toEqual({ tokens: expected(A), cached: 0 });
    expect(await tokensUnder(B)).toEqual({ tokens: expected(B), cached: 0 });
    const again = await tokensUnder(A);
    expect(again.tokens).toEqual(expected(A));
    expect(again.cached).toBeGreaterThanOrEqual(64);
    expect(await tokensUnder(undefined)).toEqual({ tokens: expected(null), cached: 0 });
    const base = await tokensUnder(undefined);
    expect(base.tokens).toEqual(expected(null));
    expect(base.cached).toBeGreaterThanOrEqual(64);
  });

  it('keeps weights of one adapter apart', async () => {
    const half = await tokensUnder(A, 0.5);
    expect(half.cached).toBe(0);
    expect(half.tokens).not.toEqual(expected(A));
    expect((await tokensUnder(A)).tokens).toEqual(expected(A));
  });

  it('answers with the new bytes when a name is uploaded again', async () => {
    await stack.put('name', adapterDir(A));
    expect((await tokensUnder('name')).tokens).toEqual(expected(A));
    await stack.put('name', adapterDir(B));
    expect((await tokensUnder('name')).tokens).toEqual(expected(B));
    await stack.put('name', adapterDir(A));
    expect((await tokensUnder('name')).tokens).toEqual(expected(A));
  });

  it('lets two names with the same bytes share', async () => {
    const folder = await mkdtemp(path.join(tmpdir(), 'loramux-same-'));
    await cp(adapterDir(B), folder, { recursive: true });
    await stack.put('copy', folder);
    const copy = await tokensUnder('copy');
    expect(copy.tokens).toEqual(expected(B));
    expect(copy.cached).toBeGreaterThanOrEqual(64);
    await rm(folder, { recursive: true });
  });

  it('finishes a running request on the bytes it began with', async () => {
    await stack.put('moving', adapterDir(A));
    const running = stack.ask({ prompt, adapter: 'moving' });
    await stack.put('moving', adapterDir(B));
    const later = stack.ask({ prompt, adapter: 'moving' });
    await stack.adapters.remove('moving');
    expect((await running.answer).tokens[0]).toEqual(expected(A));
    expect((await later.answer).tokens[0]).toEqual(expected(B));
    expect(await stack.violations()).toEqual([]);
  });

  it('shares the prompt between choices by copy on write', async () => {
    const answer = await stack.ask({
      prompt,
      adapter: A,
      n: 4,
      sampling: { temperature: 1, seed: 7n },
    }).answer;
    const single = await Promise.all(
      [0n, 1n, 2n, 3n].map(
        (i) => stack.ask({ prompt, adapter: A, sampling: { temperature: 1, seed: 7n + i } }).answer,
      ),
    );
    expect(answer.tokens).toEqual(single.map(({ tokens }) => tokens[0]));
    expect(new Set(answer.tokens.map(String)).size).toBe(4);
    expect(await stack.violations()).toEqual([]);
  });
});
