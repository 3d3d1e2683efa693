import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, afterEach, describe, expect, it, vi } from 'vitest';
import type { RegistryOptions } from '../../../src/adapters/adapter-registry.ts';
import { createBlobFiles } from '../../../src/adapters/blobs/blob-files.ts';
import { createLocalBlobs } from '../../../src/adapters/blobs/local-blobs.ts';
import type {
  RegistryBackend,
  RegistryListener,
  RegistryStatus,
  ReplicaInfo,
  VersionedEntry,
  WriteResult,
} from '../../../src/adapters/registry/types.ts';
import { SlotResidency } from '../../../src/adapters/residency/slot-residency.ts';
import type { AdapterSource } from '../../../src/adapters/service-types.ts';
import { nodeStoreFs, type StoreFs } from '../../../src/adapters/store/store-fs.ts';
import { TempDir } from '../../support/adapter-files.ts';
import { openFakeRegistry, openFakeRegistryOn } from '../../support/adapter-registry.ts';
import { FakeAdapterNative } from '../../support/fake-adapter-native.ts';
import { keptGeneration, nameEntry } from '../../support/registry-entries.ts';
import { PATIENCE_MS } from '../../support/until.ts';

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

describe('an adapter that is put at every start', () => {
  it('undoes neither a rollback nor a split of its content, and comes back when it is gone', async () => {
    const { registry } = await open();
    const again = () => registry.put('a', upload('one'), { onlyNewContent: true });
    const one = (await again()).record.generation.digest;
    const two = (await registry.put('a', upload('two'))).record.generation.digest;
    expect((await again()).record.generation.digest).toBe(two);
    await registry.setSplit('a', { digest: one, weight: 0.5 });
    const { record, replaced } = await again();
    expect([record.split?.weight, record.generation.digest, replaced]).toEqual([0.5, two, true]);
    await registry.remove('a');
    expect((await again()).replaced).toBe(false);
  });
});

describe('a generation by its digest', () => {
  it('answers under the name that leads to it, or else under one that keeps it', async () => {
    const { registry } = await open();
    const one = (await registry.put('b', upload('one'))).record;
    const { digest } = one.generation;
    expect(registry.resolveGeneration(digest)).toEqual(one);
    await registry.put('b', upload('two'));
    expect(registry.resolveGeneration(digest)).toMatchObject({
      name: 'b',
      generation: one.generation,
      numGenerations: 2,
    });
    await registry.put('a', upload('one'));
    expect(registry.resolveGeneration(digest).name).toBe('a');
    expect(registry.resolveGeneration(digest, 'b').name).toBe('b');
    const two = registry.resolve('b').generation.digest;
    expect(() => registry.resolveGeneration(two, 'a')).toThrow(code('generation_not_found'));
    expect(() => registry.resolveGeneration(two, 'c')).toThrow(code('adapter_not_found'));
    await registry.remove('b');
    expect(() => registry.resolveGeneration(two)).toThrow(code('generation_not_found'));
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
    await vi.waitUntil(() => registry.get('b') !== undefined, PATIENCE_MS);
    expect(registry.get('a')?.numGenerations).toBe(2);
    await registry.remove('a');
    await registry.remove('b');
    await vi.waitUntil(() => registry.stats().generations === 0, PATIENCE_MS);
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
    await residency.load(old, PATIENCE_MS);
    release();
    expect(residency.view(old).level).toBe('device');
    await registry.put('a', upload('newer'));
    await registry.put('a', upload('newest'));
    expect(residency.view(old).level).toBe('disk');
  });
});

/** A registry of others, as far as this process hears of it. */
class RemoteBackend implements RegistryBackend {
  readonly kind = 'redis';
  listener!: RegistryListener;
  /** What is stored, known here or not. */
  stored: VersionedEntry | undefined;

  async open(listener: RegistryListener): Promise<void> {
    this.listener = listener;
    this.tell(1, 0);
  }

  /** A complete reading. */
  tell(revision: number, before: number): void {
    const entries = this.stored === undefined ? [] : [this.stored];
    this.listener.onSnapshot({ revision, entries, damaged: [] }, before);
  }

  status(): RegistryStatus {
    const counts = { lagMs: 0, reconciles: 0, events: 0, errors: 0 };
    return { kind: 'redis', state: 'ok', reason: undefined, sinceMs: 0, ...counts };
  }

  async read(): Promise<VersionedEntry | undefined> {
    return this.stored;
  }

  async write(): Promise<WriteResult> {
    return { status: 'conflict' };
  }

  async reconcile(): Promise<void> {}
  async announce(): Promise<void> {}
  async replicas(): Promise<readonly ReplicaInfo[]> {
    return [];
  }
  async close(): Promise<void> {}
}

describe('a change that changes nothing', () => {
  it('takes over nothing that a failover may lose before it was told', async () => {
    const backend = new RemoteBackend();
    const version = (revision: number, changeId: string, pinned: boolean): VersionedEntry => ({
      revision,
      changeId,
      entry: {
        ...nameEntry('a', 'one'),
        pinned,
        generations: [keptGeneration('one', { base: 'shapes' })],
      },
    });
    backend.stored = version(9, 'nine', false);
    const local = createLocalBlobs({ root: temp.fresh(), onWarning: () => undefined });
    await local.open();
    const onWarning = () => undefined;
    const files = createBlobFiles({ local, concurrency: 1, retries: 0, onWarning });
    const { registry } = await openFakeRegistryOn({ backend, local, files, onClose: undefined });
    opened.push(registry);
    expect(registry.get('a')).toMatchObject({ revision: 9, pinned: false });

    backend.stored = version(10, 'lost', true);
    expect(await registry.setPinned('a', true)).toMatchObject({ revision: 10, pinned: true });
    backend.stored = version(9, 'nine', false);
    backend.tell(9, 9);
    expect(registry.get('a')).toMatchObject({ revision: 9, pinned: false });
    const changed = [version(10, 'other', false)];
    backend.listener.onDelta({ revision: 10, changed, removed: [], damaged: [] });
    expect(registry.get('a')).toMatchObject({ revision: 10, pinned: false });
  });
});
