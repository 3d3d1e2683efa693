import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, afterEach, describe, expect, it, vi } from 'vitest';
import type { RegistryOptions } from '../../../src/adapters/adapter-registry.ts';
import { SlotResidency } from '../../../src/adapters/residency/slot-residency.ts';
import type { AdapterSource } from '../../../src/adapters/service-types.ts';
import { nodeStoreFs, type StoreFs } from '../../../src/adapters/store/store-fs.ts';
import { TempDir } from '../../support/adapter-files.ts';
import { openFakeRegistry } from '../../support/adapter-registry.ts';
import { FakeAdapterNative } from '../../support/fake-adapter-native.ts';

const temp = new TempDir();
const opened: { close(): Promise<void> }[] = [];
afterEach(async () => {
  for (const registry of opened.splice(0)) await registry.close();
});
afterAll(() => temp.remove());

const code = (value: string) => expect.objectContaining({ code: value });
const blobsIn = (root: string) => readdirSync(path.join(root, 'blobs')).sort();
const blobOf = (root: string, digest: string) => path.join(root, 'blobs', `${digest}.safetensors`);

function upload(content: string): AdapterSource {
  const configPath = temp.fresh('.config');
  const weightsPath = temp.fresh('.weights');
  writeFileSync(configPath, '{}');
  writeFileSync(weightsPath, content);
  return { kind: 'files', configPath, weightsPath };
}

async function open(
  root: string = temp.fresh(),
  options: Partial<RegistryOptions> & { readonly fs?: StoreFs } = {},
) {
  const { registry, pool } = await openFakeRegistry(root, { maxGenerations: 3, ...options });
  opened.push(registry);
  return { registry, pool, root };
}

describe('an embedded registry whose files are damaged', () => {
  it('is repaired by an upload of the same content', async () => {
    const { registry, root } = await open();
    const { generation } = (await registry.put('a', upload('content'))).record;
    writeFileSync(blobOf(root, generation.digest), 'damaged');
    await expect(registry.openImage(generation)).rejects.toThrow(code('store_corrupt'));
    await registry.put('a', upload('content'));
    const { release } = await registry.openImage(generation);
    release();
    expect(readFileSync(blobOf(root, generation.digest), 'utf8')).toBe('content');
  });

  it('is repaired by an upload also after a start', async () => {
    const first = await open();
    const { generation } = (await first.registry.put('a', upload('content'))).record;
    await first.registry.close();
    writeFileSync(blobOf(first.root, generation.digest), 'short');
    const { registry } = await open(first.root);
    expect(() => registry.resolve('a')).toThrow(code('store_corrupt'));
    await registry.put('a', upload('content'));
    const { release } = await registry.openImage(registry.resolve('a').generation);
    release();
    await registry.close();
    const third = await open(first.root);
    expect(third.registry.damaged()).toEqual([]);
  });

  it('keeps every file while a name is damaged, also when another name goes', async () => {
    const first = await open();
    const { generation } = (await first.registry.put('a', upload('shared'))).record;
    await first.registry.put('b', upload('shared'));
    await first.registry.close();
    const file = path.join(first.root, 'names', 'a.json');
    const sound = readFileSync(file);
    writeFileSync(file, '{"torn');
    const second = await open(first.root);
    await second.registry.remove('b');
    await second.registry.close();
    writeFileSync(file, sound);
    const { registry } = await open(first.root);
    const { release } = await registry.openImage(registry.resolve('a').generation);
    release();
    expect(blobsIn(first.root)).toEqual([`${generation.digest}.safetensors`]);
  });

  it('does not move a name to a generation whose file is gone', async () => {
    const { registry, root } = await open();
    const old = (await registry.put('a', upload('old'))).record.generation;
    const { generation } = (await registry.put('a', upload('new'))).record;
    await registry.close();
    rmSync(blobOf(root, old.digest));
    const second = await open(root);
    await expect(second.registry.rollback('a')).rejects.toThrow(code('store_corrupt'));
    const split = { digest: old.digest, weight: 0.5 };
    await expect(second.registry.setSplit('a', split)).rejects.toThrow(code('store_corrupt'));
    expect(second.registry.resolve('a').generation).toEqual(generation);
  });
});

describe('a change whose outcome is not known', () => {
  it('keeps its file only until it is known', async () => {
    let failing = false;
    const fail = async () => {
      if (failing) throw Object.assign(new Error('the disk is gone'), { code: 'EIO' });
    };
    const root = temp.fresh();
    const names = path.join(root, 'names');
    const fs: StoreFs = {
      ...nodeStoreFs,
      async syncDir(dir) {
        if (dir === names) await fail();
        return nodeStoreFs.syncDir(dir);
      },
    };
    const { registry } = await open(root, { fs });
    await registry.put('a', upload('one'));
    failing = true;
    await expect(registry.put('a', upload('two'))).rejects.toThrow(
      code('registry_outcome_unknown'),
    );
    await expect(registry.put('b', upload('three'))).rejects.toThrow(
      code('registry_outcome_unknown'),
    );
    failing = false;
    await vi.waitUntil(() => registry.get('b') !== undefined, 10_000);
    expect(registry.get('a')?.numGenerations).toBe(2);
    await registry.remove('a');
    await registry.remove('b');
    await vi.waitUntil(() => registry.stats().generations === 0, 10_000);
    await registry.close();
    expect(blobsIn(root)).toEqual([]);
  });
});

describe('a kept generation that no request gets yet', () => {
  it('stays in memory when it was loaded on purpose, until the name drops it', async () => {
    const { registry } = await open();
    const old = (await registry.put('a', upload('old'))).record.generation;
    await registry.put('a', upload('new'));
    const residency = new SlotResidency({
      native: new FakeAdapterNative(),
      images: registry,
      maxSlots: 2,
      maxBytes: 1e6,
    });
    opened.unshift(residency);
    // As a request for it, which holds it meanwhile.
    const release = registry.hold(old);
    await residency.load(old, 10_000);
    release();
    expect(residency.view(old).level).toBe('device');
    await registry.put('a', upload('newer'));
    await registry.put('a', upload('newest'));
    expect(residency.view(old).level).toBe('disk');
  });
});
