import { describe, expect, it } from 'vitest';
import { GenerationTable } from '../../../src/adapters/generations.ts';
import { putGeneration } from '../../../src/adapters/registry/entry.ts';
import type {
  KeptGeneration,
  NameEntry,
  RegistryDelta,
  RegistrySnapshot,
  VersionedEntry,
} from '../../../src/adapters/registry/types.ts';
import { RegistryView } from '../../../src/adapters/registry-view.ts';
import { fc } from '../../support/properties.ts';

const kept = (digest: string, base = 'shapes'): KeptGeneration => ({
  digest,
  fileBytes: 10,
  headerBytes: 5,
  headerDigest: 'h',
  rank: 2,
  residentBytes: 100,
  targetModules: ['q_proj'],
  base,
  source: 'upload',
  createdAt: 1,
});

function put(entry: NameEntry | undefined, name: string, digest: string, max = 2): NameEntry {
  return putGeneration(entry, name, kept(digest), {
    maxGenerations: max,
    nowSeconds: 1,
  });
}

function setup() {
  const retired: string[] = [];
  const unused: string[] = [];
  const generations = new GenerationTable({
    onRetired: (digest) => retired.push(digest),
    onUnused: (digest) => unused.push(digest),
  });
  const view = new RegistryView({ generations, base: 'shapes' });
  return { view, generations, retired, unused };
}

const versioned = (revision: number, entry: NameEntry, changeId = `c${revision}`) => ({
  revision,
  changeId,
  entry,
});
const snapshot = (revision: number, entries: VersionedEntry[]): RegistrySnapshot => ({
  revision,
  entries,
  damaged: [],
});

describe('RegistryView', () => {
  it('retires what a name no longer leads to, and forgets what it no longer keeps', () => {
    const { view, generations, retired, unused } = setup();
    let entry = put(undefined, 'a', 'g1');
    view.applyEntry(versioned(1, entry));
    const release = generations.hold('g1');
    entry = put(entry, 'a', 'g2');
    view.applyEntry(versioned(2, entry));
    expect([retired, unused]).toEqual([[], []]);
    release();
    release();
    expect([retired, unused]).toEqual([['g1'], []]);
    entry = put(entry, 'a', 'g3');
    view.applyEntry(versioned(3, entry));
    expect(unused).toEqual(['g1']);
    expect(generations.has('g2')).toBe(true);
    view.applyRemoval({ name: 'a', revision: 4 });
    expect(unused.sort()).toEqual(['g1', 'g2', 'g3']);
    expect(generations.size).toBe(0);
  });

  it('never goes back to an older change of a name, nor brings a removed one back', () => {
    const { view } = setup();
    const first = put(undefined, 'a', 'g1');
    const second = put(first, 'a', 'g2');
    view.applyEntry(versioned(5, second));
    view.applyEntry(versioned(4, first));
    expect(view.get('a')?.record.generation.digest).toBe('g2');
    view.applyRemoval({ name: 'a', revision: 6 });
    view.applyDelta({ revision: 6, changed: [versioned(5, second)], removed: [], damaged: [] });
    expect(view.get('a')).toBeUndefined();
    view.applyEntry(versioned(7, first));
    expect(view.get('a')?.record.generation.digest).toBe('g1');
  });

  it('keeps what this process changed while a complete reading was under way', () => {
    const { view } = setup();
    view.applyEntry(versioned(1, put(undefined, 'old', 'g1')));
    // Reading began at revision 1; these came after it.
    view.applyEntry(versioned(3, put(undefined, 'new', 'g2')));
    view.applyRemoval({ name: 'old', revision: 4 });
    view.applySnapshot(snapshot(2, [versioned(1, put(undefined, 'old', 'g1'))]), 1);
    expect(view.list().map(({ name }) => name)).toEqual(['new']);
  });

  it('believes a registry that lost changes in a failover', () => {
    const { view } = setup();
    const first = put(undefined, 'a', 'g1');
    view.applyEntry(versioned(8, first));
    view.applyEntry(versioned(9, put(first, 'a', 'g2'), 'lost'));
    view.applyEntry(versioned(10, put(undefined, 'b', 'g3'), 'also lost'));
    view.applySnapshot(snapshot(8, [versioned(8, first)]), 10);
    expect(view.list().map(({ name, generation }) => [name, generation.digest])).toEqual([
      ['a', 'g1'],
    ]);
    expect(view.revision).toBe(8);
    // The revision is given out again, to another change.
    view.applySnapshot(snapshot(9, [versioned(9, put(first, 'a', 'g4'), 'other')]), 8);
    expect(view.get('a')?.record.generation.digest).toBe('g4');
  });

  it('takes what a registry that lost a removal makes anew', () => {
    const { view } = setup();
    view.applyEntry(versioned(8, put(undefined, 'other', 'g1')));
    view.applyEntry(versioned(9, put(undefined, 'a', 'g2')));
    view.applyRemoval({ name: 'a', revision: 10 });
    view.applySnapshot(snapshot(8, [versioned(8, put(undefined, 'other', 'g1'))]), 10);
    const changed = [versioned(9, put(undefined, 'a', 'g3'), 'anew')];
    view.applyDelta({ revision: 9, changed, removed: [], damaged: [] });
    expect(view.get('a')?.record.generation.digest).toBe('g3');
  });

  it('remembers the newest removal of a name, whichever comes last', () => {
    const { view } = setup();
    view.applyRemoval({ name: 'a', revision: 8 });
    view.applyRemoval({ name: 'a', revision: 4 });
    view.applyEntry(versioned(6, put(undefined, 'a', 'g1')));
    expect(view.get('a')).toBeUndefined();
  });

  it('shows an entry for another base as damaged, and heals', () => {
    const { view } = setup();
    const foreign = putGeneration(undefined, 'a', kept('g1', 'other shapes'), {
      maxGenerations: 1,
      nowSeconds: 1,
    });
    view.applyEntry(versioned(1, foreign));
    expect(view.damaged()).toEqual([{ name: 'a', reason: expect.stringContaining('another') }]);
    view.applyEntry(versioned(2, put(undefined, 'a', 'g2')));
    expect([view.damaged(), view.list()[0]?.generation.digest]).toEqual([[], 'g2']);
  });

  it('ends equal to the registry whatever order readings come in', () => {
    const change = fc.record({
      name: fc.constantFrom('a', 'b', 'c'),
      digest: fc.option(fc.constantFrom('g1', 'g2', 'g3', 'g4'), { nil: undefined }),
      // 0: applied at once (own change); else delivered after so many more changes, maybe twice.
      delay: fc.nat(5),
      twice: fc.boolean(),
    });
    fc.assert(
      fc.property(fc.array(change, { maxLength: 40 }), (changes) => {
        const { view, generations } = setup();
        const registry = new Map<string, VersionedEntry>();
        const late: { at: number; deliver: () => void }[] = [];
        let revision = 0;
        for (const { name, digest, delay, twice } of changes) {
          const before = registry.get(name);
          if (digest === undefined && before === undefined) continue;
          revision += 1;
          let delta: RegistryDelta;
          if (digest === undefined) {
            registry.delete(name);
            delta = { revision, changed: [], removed: [{ name, revision }], damaged: [] };
          } else {
            const next = versioned(revision, put(before?.entry, name, digest));
            registry.set(name, next);
            delta = { revision, changed: [next], removed: [], damaged: [] };
          }
          const deliver = () => view.applyDelta(delta);
          late.push({ at: revision + delay, deliver });
          if (twice) late.push({ at: revision + delay + 3, deliver });
          for (const { at, deliver: run } of late) if (at === revision) run();
        }
        // Whatever is still on its way comes now, newest first.
        for (const { at, deliver } of late.reverse()) if (at > revision) deliver();
        const shown = () =>
          view.list().map((record) => [record.name, record.revision, record.generation.digest]);
        const truth = [...registry.values()]
          .map(({ entry, revision: at }) => [entry.name, at, entry.current])
          .sort();
        expect(shown()).toEqual(truth);
        view.applySnapshot(snapshot(revision, [...registry.values()]), revision);
        expect(shown()).toEqual(truth);
        const keptNow = new Set(
          [...registry.values()].flatMap(({ entry }) => entry.generations.map((g) => g.digest)),
        );
        expect([...generations.values()].map(({ meta }) => meta.digest).sort()).toEqual(
          [...keptNow].sort(),
        );
      }),
    );
  });
});
