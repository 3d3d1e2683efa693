import { describe, expect, it } from 'vitest';
import {
  checkCondition,
  putGeneration,
  rollback,
  setPinned,
  setSplit,
} from '../../../../src/adapters/registry/entry.ts';
import { entryViolations } from '../../../../src/adapters/registry/entry-rules.ts';
import type { NameEntry } from '../../../../src/adapters/registry/types.ts';
import { LoramuxError } from '../../../../src/errors.ts';
import { fc } from '../../../support/properties.ts';
import { keptGeneration, nameEntry, sha256 } from '../../../support/registry-entries.ts';

const NOW = 1_800_000_000;
const put = (
  entry: NameEntry | undefined,
  content: string,
  options: { canaryWeight?: number; maxGenerations?: number } = {},
) =>
  putGeneration(entry, 'a', keptGeneration(content), {
    maxGenerations: 5,
    nowSeconds: NOW,
    ...options,
  });
/** Contents of the history, by their digests. */
const LETTERS = new Map([...'abcdefgh'].map((letter) => [sha256(letter), letter]));
const history = (entry: NameEntry) =>
  entry.generations.map(({ digest }) => LETTERS.get(digest)).join('');
const letter = (digest: string | undefined) => LETTERS.get(digest ?? '');

function errorOf(work: () => unknown): LoramuxError {
  try {
    work();
  } catch (error) {
    if (error instanceof LoramuxError) return error;
    throw error;
  }
  throw new Error('nothing was thrown');
}

describe('putGeneration', () => {
  it('makes a new name', () => {
    expect(put(undefined, 'a')).toEqual({
      name: 'a',
      generations: [keptGeneration('a')],
      current: sha256('a'),
      split: undefined,
      pinned: false,
      createdAt: NOW,
      updatedAt: NOW,
    });
  });

  it('moves the name and keeps what was before', () => {
    const pinned = setPinned(nameEntry('a', 'a', 'b'), true, 5);
    const next = put(pinned, 'c');
    expect(history(next)).toBe('cba');
    expect(next).toMatchObject({ current: sha256('c'), pinned: true, updatedAt: NOW });
    expect(next.createdAt).toBe(pinned.createdAt);
    expect(history(pinned)).toBe('ba');
  });

  it('never keeps a content twice, and takes its new source and time', () => {
    const entry = nameEntry('a', 'a', 'b', 'c');
    const again = putGeneration(
      entry,
      'a',
      keptGeneration('a', { source: 'hf:org/repo@1', createdAt: NOW }),
      { maxGenerations: 5, nowSeconds: NOW },
    );
    expect(history(again)).toBe('acb');
    expect(again.generations[0]).toMatchObject({ source: 'hf:org/repo@1', createdAt: NOW });
    expect(again.current).toBe(sha256('a'));
    expect(history(put(entry, 'c'))).toBe('cba');
  });

  it('drops the longest not put ones beyond the limit', () => {
    const entry = nameEntry('a', 'a', 'b', 'c', 'd');
    expect(history(put(entry, 'e', { maxGenerations: 3 }))).toBe('edc');
    expect(history(put(entry, 'e', { maxGenerations: 1 }))).toBe('e');
    // A smaller limit takes effect with the next put, also of what is there.
    expect(history(put(entry, 'd', { maxGenerations: 2 }))).toBe('dc');
  });

  it('ends a split by moving the name', () => {
    const canary = put(nameEntry('a', 'a', 'b'), 'c', { canaryWeight: 0.1 });
    expect(put(canary, 'd')).toMatchObject({ current: sha256('d'), split: undefined });
    expect(put(canary, 'b')).toMatchObject({ current: sha256('b'), split: undefined });
    // Putting the canary's content moves all requests to it.
    expect(put(canary, 'c')).toMatchObject({ current: sha256('c'), split: undefined });
  });
});

describe('putGeneration as a canary', () => {
  it('gives it a share and leaves the name where it is', () => {
    const canary = put(nameEntry('a', 'a', 'b'), 'c', { canaryWeight: 0.25 });
    expect(history(canary)).toBe('cba');
    expect(canary.current).toBe(sha256('b'));
    expect(canary.split).toEqual({ digest: sha256('c'), weight: 0.25 });
  });

  it('takes the place of the canary before', () => {
    const first = put(nameEntry('a', 'a'), 'b', { canaryWeight: 0.25 });
    const second = put(first, 'c', { canaryWeight: 0.5 });
    expect(history(second)).toBe('cba');
    expect(second.split).toEqual({ digest: sha256('c'), weight: 0.5 });
    expect(put(second, 'c', { canaryWeight: 0.75 }).split?.weight).toBe(0.75);
    expect(put(second, 'b', { canaryWeight: 0.1 }).split?.digest).toBe(sha256('b'));
  });

  it('never drops the current generation, whatever the limit', () => {
    const entry = nameEntry('a', 'a', 'b');
    const canary = put(entry, 'c', { canaryWeight: 0.5, maxGenerations: 1 });
    expect(history(canary)).toBe('cb');
    expect(history(put(canary, 'd', { canaryWeight: 0.5, maxGenerations: 1 }))).toBe('db');
    // Ending the split drops nothing; the next put does.
    const ended = setSplit(canary, undefined, NOW);
    expect(history(ended)).toBe('cb');
    expect(history(put(ended, 'd', { maxGenerations: 1 }))).toBe('d');
    const old = rollback(nameEntry('a', 'a', 'b', 'c', 'd'), sha256('a'), NOW);
    expect(history(put(old, 'e', { canaryWeight: 0.5, maxGenerations: 3 }))).toBe('eda');
  });

  it('refuses a new name, the current content and a weight that is none', () => {
    const entry = nameEntry('a', 'a', 'b');
    expect(errorOf(() => put(undefined, 'a', { canaryWeight: 0.5 })).code).toBe('invalid_request');
    const current = errorOf(() => put(entry, 'b', { canaryWeight: 0.5 }));
    expect(current.code).toBe('generation_current');
    expect(current.message).toContain('is the current one');
    for (const canaryWeight of [0, 1, -0.1, 1.1, Number.NaN, Infinity]) {
      const { code } = errorOf(() => put(entry, 'c', { canaryWeight }));
      expect(code, String(canaryWeight)).toBe('invalid_request');
    }
  });
});

describe('rollback', () => {
  it('goes back put by put, and forward by digest', () => {
    const entry = nameEntry('a', 'a', 'b', 'c');
    const once = rollback(entry, undefined, NOW);
    expect(once).toMatchObject({ current: sha256('b'), updatedAt: NOW });
    const twice = rollback(once, undefined, NOW);
    expect(letter(twice.current)).toBe('a');
    const error = errorOf(() => rollback(twice, undefined, NOW));
    expect(error.code).toBe('generation_not_found');
    expect(history(twice)).toBe('cba');
    expect(letter(rollback(twice, sha256('c'), NOW).current)).toBe('c');
  });

  it('goes to what was put before, also after a put that followed a rollback', () => {
    const back = rollback(nameEntry('a', 'a', 'b'), undefined, NOW);
    const after = put(back, 'c');
    expect(history(after)).toBe('cba');
    expect(letter(rollback(after, undefined, NOW).current)).toBe('b');
  });

  it('ends a split; to the generation of the split it is a promotion', () => {
    const canary = put(nameEntry('a', 'a', 'b'), 'c', { canaryWeight: 0.1 });
    expect(rollback(canary, sha256('c'), NOW)).toMatchObject({
      current: sha256('c'),
      split: undefined,
    });
    expect(rollback(canary, undefined, NOW)).toMatchObject({
      current: sha256('a'),
      split: undefined,
    });
    expect(rollback(canary, sha256('b'), NOW)).toMatchObject({
      current: sha256('b'),
      split: undefined,
    });
  });

  it('to the current generation changes nothing', () => {
    const entry = nameEntry('a', 'a', 'b');
    expect(rollback(entry, sha256('b'), NOW)).toBe(entry);
  });

  it('names what is kept when it is asked for something else', () => {
    const error = errorOf(() => rollback(nameEntry('a', 'a', 'b'), sha256('c'), NOW));
    expect(error.code).toBe('generation_not_found');
    expect(error.message).toContain(sha256('a'));
    expect(error.message).toContain(sha256('b'));
  });
});

describe('setSplit and setPinned', () => {
  it('splits over any kept generation, changes the weight and ends', () => {
    const entry = nameEntry('a', 'a', 'b');
    const split = setSplit(entry, { digest: sha256('a'), weight: 0.1 }, NOW);
    expect(split).toMatchObject({ current: sha256('b'), updatedAt: NOW });
    expect(split.split).toEqual({ digest: sha256('a'), weight: 0.1 });
    expect(setSplit(split, { digest: sha256('a'), weight: 0.2 }, NOW).split?.weight).toBe(0.2);
    expect(setSplit(split, undefined, NOW).split).toBeUndefined();
  });

  it('refuses the current generation, an unknown one and a weight that is none', () => {
    const entry = nameEntry('a', 'a', 'b');
    const code = (content: string, weight: number) =>
      errorOf(() => setSplit(entry, { digest: sha256(content), weight }, NOW)).code;
    expect(code('b', 0.5)).toBe('generation_current');
    expect(code('c', 0.5)).toBe('generation_not_found');
    for (const weight of [0, 1, -1, 2, Number.NaN, Infinity, -Infinity]) {
      expect(code('a', weight), String(weight)).toBe('invalid_request');
    }
  });

  it('returns what it was given when nothing changes', () => {
    const entry = nameEntry('a', 'a', 'b');
    expect(setSplit(entry, undefined, NOW)).toBe(entry);
    const split = setSplit(entry, { digest: sha256('a'), weight: 0.1 }, NOW);
    expect(setSplit(split, { digest: sha256('a'), weight: 0.1 }, NOW)).toBe(split);
    expect(setPinned(entry, false, NOW)).toBe(entry);
    expect(setPinned(entry, true, NOW)).toMatchObject({ pinned: true, updatedAt: NOW });
  });
});

describe('checkCondition', () => {
  const entry = nameEntry('a', 'a', 'b');
  const fails = (known: NameEntry | undefined, condition: object) => {
    const error = errorOf(() => checkCondition('a', known, condition));
    expect(error.code).toBe('generation_mismatch');
    expect(error.status).toBe(412);
    return error.currentGeneration;
  };

  it('lets pass what holds', () => {
    checkCondition('a', entry, {});
    checkCondition('a', undefined, {});
    checkCondition('a', entry, { ifMatch: sha256('b'), ifNoneMatch: false });
    checkCondition('a', entry, { ifMatch: '*' });
    checkCondition('a', undefined, { ifNoneMatch: true });
  });

  it('says which generation is current, null when there is none', () => {
    expect(fails(entry, { ifMatch: sha256('a') })).toBe(sha256('b'));
    expect(fails(undefined, { ifMatch: sha256('a') })).toBeNull();
    expect(fails(undefined, { ifMatch: '*' })).toBeNull();
    expect(fails(entry, { ifNoneMatch: true })).toBe(sha256('b'));
    expect(fails(entry, { ifMatch: sha256('b'), ifNoneMatch: true })).toBe(sha256('b'));
    expect(fails(undefined, { ifMatch: sha256('b'), ifNoneMatch: true })).toBeNull();
  });
});

describe('entries', () => {
  const operation = fc.oneof(
    fc.record({
      kind: fc.constant('put' as const),
      content: fc.constantFrom(...'abcdefgh'),
      canaryWeight: fc.option(fc.double({ min: -0.5, max: 1.5 }), { nil: undefined }),
      maxGenerations: fc.integer({ min: 1, max: 6 }),
    }),
    fc.record({
      kind: fc.constant('rollback' as const),
      content: fc.option(fc.constantFrom(...'abcdefgh'), { nil: undefined }),
    }),
    fc.record({
      kind: fc.constant('split' as const),
      content: fc.option(fc.constantFrom(...'abcdefgh'), { nil: undefined }),
      weight: fc.double(),
    }),
    fc.record({ kind: fc.constant('pin' as const), pinned: fc.boolean() }),
  );

  it('stay sound through any changes, and a refused change has a code', () => {
    const apply = (
      entry: NameEntry,
      op: typeof operation extends fc.Arbitrary<infer T> ? T : never,
    ) => {
      switch (op.kind) {
        case 'put':
          return putGeneration(entry, 'a', keptGeneration(op.content), { ...op, nowSeconds: NOW });
        case 'rollback':
          return rollback(entry, op.content && sha256(op.content), NOW);
        case 'split': {
          const { content, weight } = op;
          return setSplit(entry, content ? { digest: sha256(content), weight } : undefined, NOW);
        }
        case 'pin':
          return setPinned(entry, op.pinned, NOW);
      }
    };
    fc.assert(
      fc.property(fc.array(operation, { maxLength: 30 }), (operations) => {
        let entry = nameEntry('a', 'a');
        for (const op of operations) {
          const before = JSON.stringify(entry);
          let next = entry;
          try {
            next = apply(entry, op);
          } catch (error) {
            expect((error as LoramuxError).code).toMatch(
              /^(invalid_request|generation_not_found|generation_current)$/,
            );
          }
          expect(JSON.stringify(entry)).toBe(before);
          expect(entryViolations(next)).toEqual([]);
          if (op.kind === 'put' && next !== entry) {
            expect(next.generations[0]!.digest).toBe(sha256(op.content));
            const kept = Math.max(op.maxGenerations, next.split === undefined ? 1 : 2);
            expect(next.generations.length).toBeLessThanOrEqual(kept);
          }
          entry = next;
        }
      }),
      { numRuns: 500 },
    );
  });

  it('have every broken rule reported', () => {
    const sound = nameEntry('a', 'a', 'b');
    expect(entryViolations(sound)).toEqual([]);
    const [first, second] = sound.generations;
    const broken: NameEntry = {
      name: '../up',
      current: sha256('x'),
      split: { digest: sha256('x'), weight: Number.NaN },
      pinned: false,
      createdAt: -1,
      updatedAt: 0.5,
      generations: [
        first!,
        first!,
        {
          ...second!,
          digest: 'AB',
          fileBytes: 10,
          headerBytes: 11,
          headerDigest: '',
          rank: -1,
          residentBytes: Number.NaN,
          targetModules: [''],
          base: '',
          source: 'x'.repeat(5000),
          createdAt: Infinity,
        },
      ],
    };
    const found = entryViolations(broken);
    for (const part of [
      ...['"../up"', 'twice', 'current generation is not among', 'split is not among'],
      ...['split is the current one', 'weight', 'createdAt', 'updatedAt', '2: digest'],
      ...['headerBytes', 'headerDigest', 'rank', 'residentBytes', 'targetModules', 'base'],
      ...['source', '2: createdAt'],
    ]) {
      expect(found.join('\n')).toContain(part);
    }
    expect(found).toHaveLength(17);
    expect(entryViolations({ ...sound, generations: [] })).toEqual([
      'it has 0 generations, not 1 to 64',
      'the current generation is not among those kept',
    ]);
  });
});
