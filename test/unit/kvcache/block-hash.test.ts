import { createHash } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { BlockHasher, rootHash } from '../../../src/kvcache/block-hash.ts';

const part = (digest: string, weight = 1) => ({ generation: { digest }, weight });
const identity = { adapters: [part('a')], cacheSalt: '' };

function chain(root: string, tokens: number[], blockSize = 4): string[] {
  const hasher = new BlockHasher(blockSize);
  const hashes: string[] = [];
  for (let at = 0; at + blockSize <= tokens.length; at += blockSize) {
    hasher.tokens.set(tokens.slice(at, at + blockSize));
    hashes.push(hasher.next(hashes.at(-1) ?? root));
  }
  return hashes;
}

describe('block hashes', () => {
  it('is SHA-256 over parent and tokens, cut to 128 bits', () => {
    const root = rootHash(identity);
    const tokens = Int32Array.of(1, -2, 70000, 4);
    const bytes = Buffer.concat([Buffer.from(root, 'latin1'), Buffer.from(tokens.buffer)]);
    const expected = createHash('sha256').update(bytes).digest().subarray(0, 16);
    expect(Buffer.from(chain(root, [...tokens])[0]!, 'latin1')).toEqual(expected);
  });

  it('separates adapters, scales and salts', () => {
    const roots = [
      identity,
      { ...identity, adapters: [part('b')] },
      { ...identity, adapters: [] },
      { ...identity, adapters: [part('a', 0.5)] },
      { ...identity, adapters: [part('a', 1 + Number.EPSILON)] },
      { ...identity, adapters: [part('a'), part('b')] },
      { ...identity, adapters: [part('a', 0.5), part('b')] },
      { ...identity, adapters: [part('a'), part('b', 0.5)] },
      { ...identity, cacheSalt: 'tenant' },
      { ...identity, adapters: [part('null')] },
      { adapters: [part('')], cacheSalt: 'a' },
      { adapters: [part('a","')], cacheSalt: '' },
      { adapters: [part('a')], cacheSalt: '","' },
    ].map(rootHash);
    expect(new Set(roots).size).toBe(roots.length);
    for (const root of roots) expect(root).toHaveLength(16);
  });

  it('depends on everything before a block', () => {
    const root = rootHash(identity);
    const a = chain(root, [1, 2, 3, 4, 5, 6, 7, 8]);
    const b = chain(root, [1, 2, 3, 9, 5, 6, 7, 8]);
    expect(a).toHaveLength(2);
    expect(a[1]).not.toBe(b[1]);
    expect(chain(root, [1, 2, 3, 4])).toEqual([a[0]]);
    expect(chain(rootHash({ ...identity, adapters: [part('b')] }), [1, 2, 3, 4])[0]).not.toBe(a[0]);
  });
});
