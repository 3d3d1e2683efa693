/**
 * What every registry must do, as one suite. A test file calls `registryConformance` with how to make
 * a world: one registry, empty at first, that backends are opened on.
 */
import { afterEach, describe, expect, it } from 'vitest';
import type {
  NameEntry,
  RegistryBackend,
  VersionedEntry,
} from '../../src/adapters/registry/types.ts';
import {
  codeOf,
  keptGeneration,
  nameEntry,
  RecordingListener,
  replicaInfo,
  until,
  written,
} from './registry-entries.ts';

export interface WorldOptions {
  /** Names that the registry takes. */
  readonly maxNames: number;
}

/** One registry, which outlives its backends. */
export interface RegistryWorld {
  /** Another backend on it, not opened. The suite closes it. */
  backend(): RegistryBackend;
  /** Stores blobs under these digests, where the registry checks that they are there. */
  provide?(digests: readonly string[]): Promise<void>;
  /** Damages what is stored of a name; every backend is closed meanwhile. */
  damage(name: string): Promise<void>;
  /** Removes it; all backends are closed. */
  dispose(): Promise<void>;
}

export interface RegistryConformance {
  openWorld(options: WorldOptions): Promise<RegistryWorld>;
  /** Several backends may be open at the same time, as those of several processes. */
  readonly shared: boolean;
  /** A write of an entry whose blobs were not provided answers blobs_missing. */
  readonly checksBlobs: boolean;
  /** Rounds of two writers that compare and set one name. */
  readonly casRounds?: number;
}

const MAX_NAMES = 1_000;
const CAS_ROUNDS = 1_000;
const ALLOWED = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:/-';

interface Opened {
  readonly backend: RegistryBackend;
  readonly listener: RecordingListener;
}

export function registryConformance(label: string, conformance: RegistryConformance): void {
  const { shared, checksBlobs, casRounds = CAS_ROUNDS } = conformance;
  const closers: (() => Promise<void>)[] = [];
  afterEach(async () => {
    for (const close of closers.splice(0).reverse()) await close();
  });

  async function openWorld(maxNames = MAX_NAMES): Promise<RegistryWorld> {
    const world = await conformance.openWorld({ maxNames });
    closers.push(() => world.dispose());
    return world;
  }

  async function open(world: RegistryWorld): Promise<Opened> {
    const backend = world.backend();
    const listener = new RecordingListener();
    closers.push(() => backend.close());
    await backend.open(listener);
    await until('the first reading', () => listener.snapshots.length > 0);
    return { backend, listener };
  }

  /** The entry, with its blobs provided. */
  async function entry(
    world: RegistryWorld,
    name: string,
    ...contents: string[]
  ): Promise<NameEntry> {
    const made = nameEntry(name, ...contents);
    await world.provide?.(made.generations.map(({ digest }) => digest));
    return made;
  }

  /** A second backend of another process where there can be one, else the same. */
  const openAnother = (world: RegistryWorld, first: Opened): Promise<Opened> =>
    shared ? open(world) : Promise.resolve(first);

  describe(`${label}: names`, () => {
    it('is empty at first', async () => {
      const { backend, listener } = await open(await openWorld());
      expect(listener.snapshots[0]!.snapshot).toEqual({ revision: 0, entries: [], damaged: [] });
      expect(await backend.read('nobody')).toBeUndefined();
      expect(backend.status()).toMatchObject({ kind: backend.kind, state: 'ok' });
    });

    it('creates, reads, replaces and removes', async () => {
      const world = await openWorld();
      const { backend } = await open(world);
      const first = await entry(world, 'a', 'one');
      const v1 = await written(backend, 'a', 0, first);
      expect(v1.revision).toBeGreaterThanOrEqual(1);
      expect(await backend.read('a')).toEqual(versioned(v1, first));
      const second = await entry(world, 'a', 'one', 'two');
      const v2 = await written(backend, 'a', v1.revision, second);
      expect(v2.revision).toBeGreaterThan(v1.revision);
      expect(v2.changeId).not.toBe(v1.changeId);
      expect(await backend.read('a')).toEqual(versioned(v2, second));
      const v3 = await written(backend, 'a', v2.revision, undefined);
      expect(v3.revision).toBeGreaterThan(v2.revision);
      expect(await backend.read('a')).toBeUndefined();
    });

    it('refuses what is not at the expected revision', async () => {
      const world = await openWorld();
      const { backend } = await open(world);
      const first = await entry(world, 'a', 'one');
      const second = await entry(world, 'a', 'two');
      const { revision } = await written(backend, 'a', 0, first);
      const conflict = { status: 'conflict' };
      expect(await backend.write('a', 0, second)).toEqual(conflict);
      expect(await backend.write('a', revision + 1, second)).toEqual(conflict);
      expect(await backend.write('a', 'damaged', second)).toEqual(conflict);
      expect(await backend.write('a', revision + 1, undefined)).toEqual(conflict);
      expect(await backend.write('a', 0, undefined)).toEqual(conflict);
      expect(await backend.write('b', revision, await entry(world, 'b', 'one'))).toEqual(conflict);
      expect(await backend.write('b', revision, undefined)).toEqual(conflict);
      expect(await backend.write('b', 'damaged', undefined)).toEqual(conflict);
      expect((await backend.read('a'))?.entry).toEqual(first);
      expect(await backend.read('b')).toBeUndefined();
    });

    it('takes the removal of a name that must not exist and does not', async () => {
      const { backend } = await open(await openWorld());
      expect(await backend.write('a', 0, undefined)).toMatchObject({ status: 'written' });
      expect(await backend.read('a')).toBeUndefined();
    });

    it('gives a name that was removed a larger revision', async () => {
      const world = await openWorld();
      const { backend } = await open(world);
      const it = await entry(world, 'a', 'one');
      let last = 0;
      for (let i = 0; i < 5; i++) {
        const created = await written(backend, 'a', 0, it);
        expect(created.revision).toBeGreaterThan(last);
        const removed = await written(backend, 'a', created.revision, undefined);
        expect(removed.revision).toBeGreaterThan(created.revision);
        last = removed.revision;
      }
      await backend.close();
      const again = await open(world);
      expect((await written(again.backend, 'a', 0, it)).revision).toBeGreaterThan(last);
    });

    it('keeps apart names of every allowed character, up to 128 of them', async () => {
      const world = await openWorld();
      const { backend } = await open(world);
      const names = [
        ...[...ALLOWED].map((c) => `x${c}y`),
        ...['a', 'A', 'a.json', 'a:b', 'a/b', 'a.b', 'a-b', 'a_b', 'a/b/c', 'a/b-c', 'a--b'],
        ...['constructor', 'x/__proto__', 'toString'],
        `n${'-'.repeat(127)}`,
        `${'deep/'.repeat(25)}end`,
        ALLOWED.slice(0, 64) + 'z'.repeat(64),
      ];
      for (const name of names) await written(backend, name, 0, await entry(world, name, name));
      for (const name of names) {
        expect((await backend.read(name))?.entry).toEqual(nameEntry(name, name));
      }
      await backend.close();
      const { listener } = await open(world);
      expect([...listener.entries.keys()].sort()).toEqual([...names].sort());
    });

    it('refuses new names when it is full, and only those', async () => {
      const world = await openWorld(3);
      const { backend } = await open(world);
      const revisions: number[] = [];
      for (const name of ['a', 'b', 'c']) {
        const { revision } = await written(backend, name, 0, await entry(world, name, 'one'));
        revisions.push(revision);
      }
      const extra = await entry(world, 'd', 'one');
      expect(await backend.write('d', 0, extra)).toEqual({ status: 'full' });
      const replaced = await entry(world, 'b', 'one', 'two');
      const { revision } = await written(backend, 'b', revisions[1]!, replaced);
      await written(backend, 'b', revision, undefined);
      await written(backend, 'd', 0, extra);
      const b = await entry(world, 'b', 'one');
      expect(await backend.write('b', 0, b)).toEqual({ status: 'full' });
    });

    it('lets just as many new names in as fit, when they come at once', async () => {
      const world = await openWorld(5);
      const one = await open(world);
      const two = await openAnother(world, one);
      const names = Array.from({ length: 12 }, (_, i) => `n${i}`);
      const entries = await Promise.all(names.map((name) => entry(world, name, 'one')));
      const results = await Promise.all(
        entries.map((it, i) => (i % 2 === 0 ? one : two).backend.write(it.name, 0, it)),
      );
      const statuses = results.map(({ status }) => status).sort();
      expect(statuses).toEqual([...Array(7).fill('full'), ...Array(5).fill('written')]);
    });

    it('keeps an entry of 64 generations, a split and a pin', async () => {
      const world = await openWorld();
      const { backend } = await open(world);
      const generations = Array.from({ length: 64 }, (_, i) =>
        keptGeneration(`content ${i}`, {
          source: `https://example.org/${'ü€😀'.repeat(50)}/${i}`,
          targetModules: ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'down_proj'],
          createdAt: 1_700_000_000 - i,
        }),
      );
      await world.provide?.(generations.map(({ digest }) => digest));
      const big: NameEntry = {
        ...nameEntry('big', 'content 5'),
        generations,
        split: { digest: generations[63]!.digest, weight: 0.1 + 0.2 },
        pinned: true,
      };
      const version = await written(backend, 'big', 0, big);
      expect(await backend.read('big')).toEqual(versioned(version, big));
      await backend.close();
      const { listener } = await open(world);
      expect(listener.entries.get('big')).toEqual(versioned(version, big));
    });

    if (checksBlobs) {
      it('refuses an entry whose blobs it does not have', async () => {
        const world = await openWorld();
        const { backend } = await open(world);
        const made = nameEntry('a', 'one', 'two');
        await world.provide?.([made.generations[0]!.digest]);
        const missing = { status: 'blobs_missing', digests: [made.generations[1]!.digest] };
        expect(await backend.write('a', 0, made)).toEqual(missing);
        expect(await backend.read('a')).toBeUndefined();
      });
    }
  });

  describe(`${label}: writers at the same time`, () => {
    it(`lets exactly one of two win, ${casRounds} times`, async () => {
      const world = await openWorld();
      const one = await open(world);
      const two = await openAnother(world, one);
      const entries = [await entry(world, 'a', 'one'), await entry(world, 'a', 'two')] as const;
      let revision = 0;
      for (let round = 0; round < casRounds; round++) {
        const writers = round % 2 === 0 ? [one, two] : [two, one];
        const results = await Promise.all(
          writers.map(({ backend }, i) => backend.write('a', revision, entries[i])),
        );
        const statuses = results.map(({ status }) => status);
        expect([...statuses].sort(), `round ${round}`).toEqual(['conflict', 'written']);
        const winner = statuses.indexOf('written');
        const result = results[winner]!;
        if (result.status !== 'written') throw new Error('unreachable');
        expect(result.revision).toBeGreaterThan(revision);
        revision = result.revision;
        const reader = writers[1 - winner]!.backend;
        expect(await reader.read('a')).toEqual(versioned(result, entries[winner]!));
      }
    });

    it('loses no change of many on different names', async () => {
      const world = await openWorld();
      const one = await open(world);
      const two = await openAnother(world, one);
      const names = Array.from({ length: 24 }, (_, i) => `n${i}`);
      const seen = new Set<number>();
      await Promise.all(
        names.map(async (name, i) => {
          const { backend } = i % 2 === 0 ? one : two;
          let revision = 0;
          for (let n = 1; n <= 8; n++) {
            const next = await entry(world, name, `content ${n}`);
            ({ revision } = await written(backend, name, revision, next));
            seen.add(revision);
          }
        }),
      );
      expect(seen.size).toBe(names.length * 8);
      for (const name of names) {
        const { current } = (await two.backend.read(name))!.entry;
        expect(current, name).toBe(keptGeneration('content 8').digest);
      }
    });

    it('runs increments of many writers one after the other', async () => {
      const world = await openWorld();
      const one = await open(world);
      const two = await openAnother(world, one);
      const contents = Array.from({ length: 40 }, (_, i) => `content ${i}`);
      await world.provide?.(contents.map((content) => keptGeneration(content).digest));
      await Promise.all(
        contents.map(async (content, i) => {
          const { backend } = i % 2 === 0 ? one : two;
          for (;;) {
            const before = await backend.read('a');
            const next = appended(before?.entry, content);
            const result = await backend.write('a', before?.revision ?? 0, next);
            if (result.status === 'written') return;
          }
        }),
      );
      const after = (await one.backend.read('a'))!.entry;
      const digests = after.generations.map(({ digest }) => digest).sort();
      expect(digests).toEqual(contents.map((content) => keptGeneration(content).digest).sort());
    });
  });

  describe(`${label}: what listeners are told`, () => {
    it('tells changes and removals, with the entries as they are read', async () => {
      const world = await openWorld();
      const one = await open(world);
      const two = await openAnother(world, one);
      const a = await entry(world, 'a', 'one');
      const version = await written(one.backend, 'a', 0, a);
      for (const { listener } of [one, two]) {
        await until('the new name', () => listener.entries.has('a'));
        expect(listener.entries.get('a')).toEqual(versioned(version, a));
        expect(listener.revision).toBeGreaterThanOrEqual(version.revision);
      }
      const next = await entry(world, 'a', 'one', 'two');
      const v2 = await written(two.backend, 'a', version.revision, next);
      for (const { listener } of [one, two]) {
        await until('the change', () => listener.entries.get('a')?.revision === v2.revision);
        expect(listener.entries.get('a')).toEqual(versioned(v2, next));
      }
      const removed = await written(one.backend, 'a', v2.revision, undefined);
      for (const { listener } of [one, two]) {
        await until('the removal', () => !listener.entries.has('a'));
        expect(listener.revision).toBeGreaterThanOrEqual(removed.revision);
      }
    });

    it('tells everything again when asked', async () => {
      const world = await openWorld();
      const { backend, listener } = await open(world);
      for (const name of ['c', 'a', 'b']) {
        await written(backend, name, 0, await entry(world, name, 'one'));
      }
      const count = listener.snapshots.length;
      await backend.reconcile();
      await until('a reading', () => listener.snapshots.length > count);
      const { snapshot, before } = listener.snapshots.at(-1)!;
      expect(snapshot.entries.map(({ entry }) => entry.name).sort()).toEqual(['a', 'b', 'c']);
      expect(snapshot.damaged).toEqual([]);
      expect(before).toBeLessThanOrEqual(snapshot.revision);
      expect(backend.status().reconciles).toBeGreaterThanOrEqual(1);
    });

    it('begins with everything that was there, also after a restart', async () => {
      const world = await openWorld();
      const first = await open(world);
      const kept: VersionedEntry[] = [];
      for (let i = 0; i < 20; i++) {
        const made = await entry(world, `n${i}`, `content ${i}`);
        kept.push(versioned(await written(first.backend, made.name, 0, made), made));
      }
      const gone = kept.shift()!;
      await written(first.backend, gone.entry.name, gone.revision, undefined);
      await first.backend.close();
      const { listener, backend } = await open(world);
      const { snapshot } = listener.snapshots[0]!;
      expect([...snapshot.entries].sort(byRevision)).toEqual(kept);
      const newest = Math.max(...kept.map(({ revision }) => revision));
      expect(snapshot.revision).toBeGreaterThanOrEqual(newest);
      expect(await backend.read('n7')).toEqual(kept[6]);
    });
  });

  describe(`${label}: damage`, () => {
    it('reports a damaged name, keeps the others, and lets it be replaced', async () => {
      const world = await openWorld();
      const first = await open(world);
      const healthy = await entry(world, 'healthy', 'one');
      const version = await written(first.backend, 'healthy', 0, healthy);
      const broken = await entry(world, 'broken/name', 'one');
      const { revision } = await written(first.backend, 'broken/name', 0, broken);
      await first.backend.close();
      await world.damage('broken/name');

      const { backend, listener } = await open(world);
      await until('the damage', () => listener.damaged.has('broken/name'));
      expect(listener.damaged.get('broken/name')).not.toBe('');
      expect([...listener.entries.keys()]).toEqual(['healthy']);
      expect(await backend.read('healthy')).toEqual(versioned(version, healthy));
      expect(await codeOf(backend.read('broken/name'))).toBe('store_corrupt');
      const next = await entry(world, 'broken/name', 'two');
      expect(await backend.write('broken/name', 0, next)).toEqual({ status: 'conflict' });
      expect(await backend.write('broken/name', revision, next)).toEqual({ status: 'conflict' });
      const repaired = await written(backend, 'broken/name', 'damaged', next);
      expect(repaired.revision).toBeGreaterThan(revision);
      expect(await backend.read('broken/name')).toEqual(versioned(repaired, next));
      await until('the repair', () => listener.entries.has('broken/name'));
      expect(listener.damaged.size).toBe(0);
    });

    it('lets a damaged name be removed', async () => {
      const world = await openWorld(1);
      const first = await open(world);
      await written(first.backend, 'a', 0, await entry(world, 'a', 'one'));
      await first.backend.close();
      await world.damage('a');
      const { backend, listener } = await open(world);
      await until('the damage', () => listener.damaged.has('a'));
      const other = await entry(world, 'b', 'one');
      expect(await backend.write('b', 0, other)).toEqual({ status: 'full' });
      await written(backend, 'a', 'damaged', undefined);
      await until('the removal', () => listener.damaged.size === 0);
      expect(await backend.read('a')).toBeUndefined();
      await written(backend, 'b', 0, other);
      await backend.close();
      const again = await open(world);
      expect([...again.listener.entries.keys()]).toEqual(['b']);
      expect(again.listener.damaged.size).toBe(0);
    });
  });

  describe(`${label}: replicas and closing`, () => {
    it('lists the replicas that announced themselves', async () => {
      const world = await openWorld();
      const one = await open(world);
      const two = await openAnother(world, one);
      const self = replicaInfo('one');
      await one.backend.announce(self);
      expect(await one.backend.replicas()).toEqual([self]);
      const later = replicaInfo('one', { requestsRunning: 9, adapters: [] });
      await one.backend.announce(later);
      expect(await two.backend.replicas()).toEqual([later]);
      if (!shared) return;
      const other = replicaInfo('two');
      await two.backend.announce(other);
      const ids = (await one.backend.replicas()).map(({ id }) => id).sort();
      expect(ids).toEqual(['one', 'two']);
      await two.backend.close();
      expect(await one.backend.replicas()).toEqual([later]);
    });

    it('closes once and then refuses', async () => {
      const world = await openWorld();
      const { backend } = await open(world);
      const made = await entry(world, 'a', 'one');
      const late = backend.write('a', 0, made);
      await Promise.all([backend.close(), backend.close()]);
      await backend.close();
      // A write that was asked for before the close happened as a whole or not at all.
      const outcome = await late.then(
        ({ status }) => status,
        (error: Error) => codeOf(Promise.reject(error)),
      );
      expect(['written', 'registry_unavailable', 'registry_outcome_unknown']).toContain(outcome);
      expect(await codeOf(backend.read('a'))).toBe('registry_unavailable');
      expect(await codeOf(backend.write('a', 0, made))).toBe('registry_unavailable');
      expect(await codeOf(backend.reconcile())).toBe('registry_unavailable');
      expect(await codeOf(backend.announce(replicaInfo('one')))).toBe('registry_unavailable');
      expect(await codeOf(backend.replicas())).toBe('registry_unavailable');
      const { listener } = await open(world);
      if (outcome === 'written') expect(listener.entries.get('a')?.entry).toEqual(made);
      if (outcome === 'registry_unavailable') expect(listener.entries.has('a')).toBe(false);
    });

    it('refuses before it is open', async () => {
      const backend = (await openWorld()).backend();
      closers.push(() => backend.close());
      expect(await codeOf(backend.read('a'))).toBe('registry_unavailable');
      expect(await codeOf(backend.write('a', 0, undefined))).toBe('registry_unavailable');
    });
  });
}

function versioned(
  { revision, changeId }: { readonly revision: number; readonly changeId: string },
  entry: NameEntry,
): VersionedEntry {
  return { revision, changeId, entry };
}

function byRevision(a: VersionedEntry, b: VersionedEntry): number {
  return a.revision - b.revision;
}

/** The entry with one generation more in front, which becomes current. */
function appended(before: NameEntry | undefined, content: string): NameEntry {
  const entry = nameEntry('a', content);
  if (before === undefined) return entry;
  return { ...entry, generations: [...entry.generations, ...before.generations] };
}
