/** Power loss and failing operations at every point of the store's work. */
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import type { AdapterRegistry } from '../../../src/adapters/adapter-registry.ts';
import { nodeStoreFs, type StoreFs } from '../../../src/adapters/store/store-fs.ts';
import { TempDir } from '../../support/adapter-files.ts';
import { openFakeRegistry } from '../../support/adapter-registry.ts';
import { CrashFs, type Fault } from '../../support/crash-fs.ts';
import { Random } from '../../support/random.ts';

const temp = new TempDir();
afterAll(() => temp.remove());

type Step = { put: string; content: string } | { remove: string };
/** Replacements, shared contents, a name with a slash, a removal, a return. */
const SCENARIO: Step[] = [
  { put: 'a', content: 'the first content' },
  { put: 'team/b', content: 'the first content' },
  { put: 'a', content: 'the second content' },
  { put: 'c', content: 'the third content' },
  { remove: 'team/b' },
  { put: 'c', content: 'the third content' },
  { put: 'team/b', content: 'the first content' },
  { remove: 'a' },
];

type Names = Record<string, string>;
const sha = (bytes: Uint8Array | string) => createHash('sha256').update(bytes).digest('hex');

/** What is registered after the first `count` steps. */
function expected(count: number): Names {
  const names: Names = {};
  for (const step of SCENARIO.slice(0, count)) {
    if ('put' in step) names[step.put] = sha(step.content);
    else delete names[step.remove];
  }
  return names;
}

async function openRegistry(
  root: string,
  fs: StoreFs,
  onWrite: (file: string) => void = () => {},
): Promise<AdapterRegistry> {
  const { registry, pool } = await openFakeRegistry(root, { fs });
  pool.onWrite = onWrite;
  return registry;
}

async function perform(registry: AdapterRegistry, step: Step): Promise<void> {
  if ('remove' in step) return registry.remove(step.remove);
  const weightsPath = temp.fresh('.weights');
  const configPath = temp.fresh('.config');
  writeFileSync(weightsPath, step.content);
  writeFileSync(configPath, '{}');
  await registry.put(step.put, { kind: 'files', configPath, weightsPath });
}

const namesOf = (registry: AdapterRegistry): Names =>
  Object.fromEntries(registry.list().map((r) => [r.name, r.generation.digest]));

/** Opens with a sound disk: nothing damaged, nothing left over; returns what is registered. */
async function inspect(root: string): Promise<Names> {
  const registry = await openRegistry(root, nodeStoreFs);
  expect(registry.damaged()).toEqual([]);
  const names = namesOf(registry);
  const blobs = readdirSync(path.join(root, 'blobs'));
  expect(blobs.sort()).toEqual(
    [...new Set(Object.values(names))].map((digest) => `${digest}.safetensors`).sort(),
  );
  for (const blob of blobs) {
    expect(`${sha(readFileSync(path.join(root, 'blobs', blob)))}.safetensors`).toBe(blob);
  }
  expect(readdirSync(path.join(root, 'tmp'))).toEqual([]);
  await registry.close();
  return names;
}

/** Runs the scenario with a fault at one operation. */
async function play(
  root: string,
  fault: Fault,
  faultAt: number,
  seed: number,
): Promise<{ done: number; operations: number; failed: boolean; names: Names | undefined }> {
  const fs = new CrashFs(new Random(seed));
  fs.fault = fault;
  fs.faultAt = faultAt;
  let done = 0;
  let failed = false;
  let registry: AdapterRegistry | undefined;
  try {
    registry = await openRegistry(root, fs, (file) => fs.noteUnsynced(file));
    for (const step of SCENARIO) {
      await perform(registry, step);
      done++;
    }
  } catch {
    failed = true;
  }
  const names = registry === undefined ? undefined : namesOf(registry);
  await registry?.close();
  if (fs.crashed) fs.losePower();
  fs.dispose();
  return { done, operations: fs.operations, failed, names };
}

describe('adapter store', () => {
  it('survives a power loss at every operation', async () => {
    const { operations } = await play(temp.fresh(), 'power-loss', 0, 0);
    expect(operations).toBeGreaterThan(40);
    for (let faultAt = 1; faultAt <= operations; faultAt++) {
      for (let seed = 1; seed <= 3; seed++) {
        const root = temp.fresh();
        const { done } = await play(root, 'power-loss', faultAt, seed);
        const names = await inspect(root);
        // What was answered is there; the step under way happened or not.
        const allowed = [expected(done), expected(done + 1)];
        expect(allowed, `fault at ${faultAt}, seed ${seed}`).toContainEqual(names);
      }
    }
  });

  it('keeps memory and disk alike when an operation fails', async () => {
    const { operations } = await play(temp.fresh(), 'error', 0, 0);
    let failures = 0;
    for (let faultAt = 1; faultAt <= operations; faultAt++) {
      for (let seed = 1; seed <= 1; seed++) {
        const root = temp.fresh();
        const { done, failed, names } = await play(root, 'error', faultAt, seed);
        if (failed) failures++;
        if (names === undefined) continue;
        const context = `fault at ${faultAt}, seed ${seed}`;
        expect(names, context).toEqual(expected(done));
        expect(await inspect(root), context).toEqual(names);
      }
    }
    expect(failures).toBeGreaterThan(operations / 2);
  });
});
