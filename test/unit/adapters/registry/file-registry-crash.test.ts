/** Power loss and failing operations at every point of the embedded registry's work. */
import { readdirSync } from 'node:fs';
import path from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { encodeEntry } from '../../../../src/adapters/registry/entry-codec.ts';
import { FileRegistry } from '../../../../src/adapters/registry/file-registry.ts';
import type { NameEntry, VersionedEntry } from '../../../../src/adapters/registry/types.ts';
import type { StoreFs } from '../../../../src/adapters/store/store-fs.ts';
import { LoramuxError } from '../../../../src/errors.ts';
import { TempDir } from '../../../support/adapter-files.ts';
import { CrashFs, type Fault } from '../../../support/crash-fs.ts';
import { Random } from '../../../support/random.ts';
import { nameEntry, RecordingListener } from '../../../support/registry-entries.ts';

const temp = new TempDir();
afterAll(() => temp.remove());

interface Step {
  readonly name: string;
  /** Undefined removes the name. */
  readonly next: NameEntry | undefined;
}
const put = (name: string, ...contents: string[]): Step => ({
  name,
  next: nameEntry(name, ...contents),
});
const remove = (name: string): Step => ({ name, next: undefined });

/** Replacements, histories that grow and shrink, a name with a slash, removals, a return. */
const SCENARIO: readonly Step[] = [
  put('a', 'one'),
  put('team/b', 'one', 'two', 'three'),
  put('a', 'one', 'two'),
  put('c', 'three'),
  remove('team/b'),
  put('c', 'three', 'one'),
  put('team/b', 'four'),
  remove('a'),
  put('c', 'one'),
];

/** Leaves no file behind that remembers the revisions. */
const COME_AND_GO: readonly Step[] = [put('a', 'one'), remove('a'), put('a', 'two'), remove('a')];

/** Entry as text by name. */
type Names = Readonly<Record<string, string>>;

function applied(names: Names, { name, next }: Step): Names {
  const { [name]: _, ...others } = names;
  return next === undefined ? others : { ...others, [name]: encodeEntry(next) };
}

const expectedAfter = (steps: readonly Step[]): Names => steps.reduce(applied, {});

const textOf = (entries: Iterable<VersionedEntry>): Names =>
  Object.fromEntries([...entries].map(({ entry }) => [entry.name, encodeEntry(entry)]));

/** Opens with a sound disk: nothing damaged, nothing left over, and it can be written. */
async function inspect(root: string, largest: number): Promise<Names> {
  const listener = new RecordingListener();
  const registry = new FileRegistry({ root, maxNames: 100 });
  await registry.open(listener);
  expect([...listener.damaged]).toEqual([]);
  expect(readdirSync(path.join(root, 'tmp'))).toEqual([]);
  const names = textOf(listener.entries.values());
  const result = await registry.write('probe', 0, nameEntry('probe', 'one'));
  expect(result.status === 'written' && result.revision).toBeGreaterThan(largest);
  await registry.close();
  return names;
}

type Outcome = 'done' | 'unchanged' | 'unknown';

class Play {
  readonly root: string;
  readonly fs: CrashFs;
  readonly listener = new RecordingListener();
  /** Largest revision that a write answered. */
  largest = 0;
  registry: FileRegistry | undefined;

  constructor(root: string, fs: CrashFs) {
    this.root = root;
    this.fs = fs;
  }

  /** False when opening failed. */
  async open(): Promise<boolean> {
    const registry = new FileRegistry({ root: this.root, maxNames: 100, fs: this.fs as StoreFs });
    try {
      await registry.open(this.listener);
      this.registry = registry;
      return true;
    } catch {
      await registry.close();
      return false;
    }
  }

  async perform({ name, next }: Step): Promise<Outcome> {
    try {
      const before = await this.registry!.read(name);
      const result = await this.registry!.write(name, before?.revision ?? 0, next);
      if (result.status !== 'written') throw new Error(`unexpected: ${result.status}`);
      this.largest = Math.max(this.largest, result.revision);
      return 'done';
    } catch (error) {
      if (!(error instanceof LoramuxError)) throw error;
      if (error.code === 'registry_unavailable') return 'unchanged';
      expect(error.code).toBe('registry_outcome_unknown');
      return 'unknown';
    }
  }

  async end(): Promise<void> {
    await this.registry?.close();
    if (this.fs.crashed) this.fs.losePower();
    this.fs.dispose();
  }
}

function faultyPlay(fault: Fault, faultAt: number, faults: number, seed: number): Play {
  const fs = new CrashFs(new Random(seed));
  Object.assign(fs, { fault, faultAt, faults });
  return new Play(temp.fresh(), fs);
}

/** Changing operations of all steps, without a fault. */
async function countOperations(steps: readonly Step[]): Promise<number> {
  const play = faultyPlay('error', 0, 1, 0);
  await play.open();
  for (const step of steps) expect(await play.perform(step)).toBe('done');
  await play.end();
  return play.fs.operations;
}

describe('the embedded registry', () => {
  it.each([
    ['many names', SCENARIO],
    ['one that comes and goes', COME_AND_GO],
  ])(
    'keeps what was acknowledged through a power loss at every operation: %s',
    async (_, steps) => {
      const operations = await countOperations(steps);
      expect(operations).toBeGreaterThan(steps.length * 2);
      for (let faultAt = 1; faultAt <= operations; faultAt++) {
        for (let seed = 1; seed <= 3; seed++) {
          const context = `fault at ${faultAt}, seed ${seed}`;
          const play = faultyPlay('power-loss', faultAt, 1, seed);
          let names: Names = {};
          let maybe: Names = {};
          if (await play.open()) {
            for (const step of steps) {
              const outcome = await play.perform(step);
              if (outcome === 'done') names = applied(names, step);
              maybe = outcome === 'unknown' ? applied(names, step) : names;
              if (outcome !== 'done') break;
            }
          }
          await play.end();
          expect([names, maybe], context).toContainEqual(await inspect(play.root, play.largest));
        }
      }
    },
  );

  it('keeps what was acknowledged when changes run at the same time', async () => {
    const byName = new Map<string, Step[]>();
    for (const step of SCENARIO) {
      byName.set(step.name, [...(byName.get(step.name) ?? []), step]);
    }
    const operations = await countOperations(SCENARIO);
    for (let faultAt = 1; faultAt <= operations; faultAt++) {
      for (let seed = 1; seed <= 3; seed++) {
        const play = faultyPlay('power-loss', faultAt, 1, seed);
        /** What each name may hold. */
        const allowed = new Map<string, (string | undefined)[]>();
        const run = async (name: string, steps: readonly Step[]): Promise<void> => {
          let names: Names = {};
          for (const step of steps) {
            const outcome = await play.perform(step);
            const next = applied(names, step);
            if (outcome === 'done') names = next;
            allowed.set(name, [names[name], outcome === 'unknown' ? next[name] : names[name]]);
            if (outcome !== 'done') return;
          }
        };
        if (await play.open()) {
          await Promise.all([...byName].map(([name, steps]) => run(name, steps)));
        }
        await play.end();
        const found = await inspect(play.root, play.largest);
        for (const name of byName.keys()) {
          const context = `${name}, fault at ${faultAt}, seed ${seed}`;
          expect(allowed.get(name) ?? [undefined], context).toContain(found[name]);
        }
      }
    }
  });

  it('keeps memory and disk alike when operations fail, and goes on when they work', async () => {
    const operations = await countOperations(SCENARIO);
    const seen = { done: 0, unchanged: 0, unknown: 0 };
    for (let faultAt = 1; faultAt <= operations; faultAt++) {
      for (const faults of [1, 2, 4]) {
        const seed = faultAt * 10 + faults;
        const context = `${faults} faults from ${faultAt}, seed ${seed}`;
        const play = faultyPlay('error', faultAt, faults, seed);
        if (!(await play.open())) {
          await play.end();
          continue;
        }
        let names: Names = {};
        for (const step of SCENARIO) {
          let outcome = await play.perform(step);
          seen[outcome]++;
          if (outcome === 'unknown') {
            // What became of it is known as soon as the disk works again, and then it stays.
            play.fs.faultAt = 0;
            const found = await play.registry!.read(step.name);
            const text = found && encodeEntry(found.entry);
            expect([names[step.name], applied(names, step)[step.name]], context).toContain(text);
            outcome = text === applied(names, step)[step.name] ? 'done' : 'unchanged';
          }
          if (outcome === 'done') names = applied(names, step);
          expect(textOf(play.listener.entries.values()), context).toEqual(names);
        }
        expect(play.registry!.status(), context).toMatchObject({
          state: 'ok',
          reason: undefined,
        });
        await play.end();
        expect(await inspect(play.root, play.largest), context).toEqual(names);
      }
    }
    expect(seen.done).toBeGreaterThan(500);
    expect(seen.unchanged).toBeGreaterThan(30);
    expect(seen.unknown).toBeGreaterThan(5);
  });

  it('says nothing of a name while it cannot know it, and serves the others', async () => {
    const play = faultyPlay('error', 0, 1, 7);
    await play.open();
    await play.perform(put('a', 'one'));
    await play.perform(put('b', 'one'));
    // Writing and syncing the new file work; renaming and everything after it does not.
    Object.assign(play.fs, { faultAt: play.fs.operations + 3, faults: 1000 });
    expect(await play.perform(put('a', 'two'))).toBe('unknown');
    expect(play.registry!.status().reason).toContain('(1 open)');
    expect(await play.perform(put('a', 'three'))).toBe('unchanged');
    await expect(play.registry!.read('a')).rejects.toMatchObject({ code: 'registry_unavailable' });
    expect((await play.registry!.read('b'))?.entry).toEqual(nameEntry('b', 'one'));
    play.fs.faultAt = 0;
    await play.registry!.reconcile();
    expect(play.registry!.status().reason).toBeUndefined();
    const settled = await play.registry!.read('a');
    expect(play.listener.entries.get('a')).toEqual(settled);
    await play.end();
    expect((await inspect(play.root, play.largest)).a).toBe(encodeEntry(settled!.entry));
  });

  it('ends as the steps say when nothing fails', async () => {
    const play = faultyPlay('error', 0, 1, 0);
    await play.open();
    for (const step of SCENARIO) await play.perform(step);
    await play.end();
    expect(await inspect(play.root, play.largest)).toEqual(expectedAfter(SCENARIO));
  });
});
