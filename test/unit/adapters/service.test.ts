import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import path from 'node:path';
import { afterAll, afterEach, describe, expect, it, vi } from 'vitest';
import { MAX_PENDING_PUTS, type RegistryOptions } from '../../../src/adapters/adapter-registry.ts';
import { type AdapterServiceOptions, createAdapterService } from '../../../src/adapters/index.ts';
import type { AdapterSource } from '../../../src/adapters/service-types.ts';
import { describeModules } from '../../../src/importer/index.ts';
import {
  loraConfig,
  loraTensors,
  safetensors,
  TempDir,
  TINY_BASE,
  TINY_MODULES,
} from '../../support/adapter-files.ts';
import { openFakeRegistry } from '../../support/adapter-registry.ts';
import { PATIENCE_MS } from '../../support/until.ts';

const temp = new TempDir();
const opened: { close(): Promise<void> }[] = [];
afterEach(async () => {
  for (const service of opened.splice(0)) await service.close();
});
afterAll(() => temp.remove());

const code = (value: string) => expect.objectContaining({ code: value });
const blobsIn = (dataDir: string) => readdirSync(path.join(dataDir, 'adapters', 'blobs'));

async function realService(options: Partial<AdapterServiceOptions> = {}) {
  const service = await createAdapterService({
    dataDir: temp.fresh(),
    baseModelName: 'tiny-base',
    modules: TINY_MODULES,
    maxResidentBytes: 1e6,
    convertThreads: 1,
    ...options,
  });
  opened.push(service);
  return service;
}

/** A registry whose conversions the test can hold back. */
async function fakeService(options: Partial<RegistryOptions> = {}) {
  const dataDir = temp.fresh();
  const retired: string[] = [];
  const { registry: service, pool } = await openFakeRegistry(path.join(dataDir, 'adapters'), {
    maxAdapters: 10,
    onWarning: (message, error) => expect.fail(`${message} ${error}`),
    ...options,
  });
  service.onRetired((digest) => {
    if (retired.at(-1) !== digest) retired.push(digest);
  });
  opened.push(service);
  return { service, pool, retired, dataDir };
}

function upload(content: string): AdapterSource {
  const configPath = temp.fresh('.config');
  const weightsPath = temp.fresh('.weights');
  writeFileSync(configPath, '{}');
  writeFileSync(weightsPath, content);
  return { kind: 'files', configPath, weightsPath };
}

function gate() {
  let open = () => {};
  const closed = new Promise<void>((resolve) => {
    open = resolve;
  });
  return { closed, open };
}

describe('adapter service', () => {
  it('registers a directory, lists it, and finds it again after a restart', async () => {
    const dataDir = temp.fresh();
    temp.adapter(loraConfig(), safetensors(loraTensors()), 'root/a');
    const adapterRoot = temp.join('root');
    const [folder] = readdirSync(path.join(adapterRoot, 'a'));
    const first = await realService({ dataDir, adapterRoot, now: () => 5_999 });
    const { record, replaced } = await first.put('team/x:1', {
      kind: 'directory',
      path: `a/${folder}`,
    });
    expect(replaced).toBe(false);
    expect(record).toMatchObject({
      name: 'team/x:1',
      createdAt: 5,
      source: `a/${folder}`,
      targetModules: ['q_proj', 'v_proj'],
      generation: { rank: 2, residentBytes: 2 * 4 * 64 },
    });
    expect(first.list()).toEqual([record]);
    expect(first.get('team/x:1')).toEqual(record);
    expect(() => first.resolve('team/x')).toThrow(code('adapter_not_found'));
    await first.close();

    const second = await realService({ dataDir, adapterRoot });
    expect(second.list()).toEqual([record]);
    const { image, tier, release } = await second.openImage(second.resolve('team/x:1').generation);
    release();
    expect([image.pairs.length, tier]).toEqual([4, 'disk']);
    expect(existsSync(image.path)).toBe(true);
  });

  it('takes the files of an upload and removes them whatever happens', async () => {
    const { service } = await fakeService();
    const good = upload('some content');
    const bad = upload('refuse me');
    const named = upload('some content');
    await service.put('x', good);
    await expect(service.put('y', bad)).rejects.toThrow(code('adapter_config_invalid'));
    await expect(service.put('../z', named)).rejects.toThrow(code('adapter_name_invalid'));
    for (const source of [good, bad, named]) {
      if (source.kind !== 'files') continue;
      expect(existsSync(source.configPath)).toBe(false);
      expect(existsSync(source.weightsPath)).toBe(false);
    }
    expect(service.list().map((r) => [r.name, r.source])).toEqual([['x', 'upload']]);
  });

  it.each([
    '',
    '.hidden',
    '-x',
    'a b',
    'a//b',
    'a/../b',
    'a/.',
    'a/',
    'ä',
    'a\0b',
    'a+b',
    'x'.repeat(129),
    'tiny-base',
  ])('refuses the name %j', async (name) => {
    const { service } = await fakeService();
    await expect(service.put(name, upload('content'))).rejects.toThrow(
      code('adapter_name_invalid'),
    );
    expect(service.stats()).toMatchObject({ names: 0, generations: 0, pendingPuts: 0 });
  });

  it('stores one file for names with the same content, and removes it with the last', async () => {
    const { service, retired, dataDir } = await fakeService();
    const a = await service.put('a', upload('shared'));
    const b = await service.put('b', upload('shared'));
    expect(a.record.generation).toEqual(b.record.generation);
    expect(blobsIn(dataDir)).toHaveLength(1);
    await service.remove('a');
    expect(retired).toEqual([]);
    await service.remove('b');
    expect(retired).toEqual([a.record.generation.digest]);
    await service.close();
    expect(blobsIn(dataDir)).toEqual([]);
    await expect(service.remove('b')).rejects.toThrow(code('shutting_down'));
  });

  it('moves a name to its new content while a hold keeps the old one', async () => {
    const { service, retired, dataDir } = await fakeService();
    const old = (await service.put('a', upload('old'))).record.generation;
    const release = service.hold(old);
    const second = await service.put('a', upload('new'));
    expect(second.replaced).toBe(true);
    expect(service.resolve('a').generation.digest).toBe(second.record.generation.digest);
    expect((await service.openImage(old)).image.path).toContain(old.digest);
    expect(retired).toEqual([]);
    release();
    release();
    expect(retired).toEqual([old.digest]);
    await expect(service.openImage(old)).rejects.toThrow(code('adapter_not_found'));
    expect(() => service.hold(old)).toThrow(code('adapter_not_found'));
    await service.close();
    expect(blobsIn(dataDir)).toEqual([`${second.record.generation.digest}.safetensors`]);
  });

  it('keeps a name when the same content is put again', async () => {
    const { service, retired } = await fakeService();
    const first = await service.put('a', upload('same'));
    const again = await service.put('a', upload('same'));
    expect(again.replaced).toBe(true);
    expect(again.record.generation).toEqual(first.record.generation);
    expect(retired).toEqual([]);
    expect(service.stats()).toMatchObject({ names: 1, generations: 1 });
  });

  it('brings content back while its old file is being removed', async () => {
    const { service, dataDir } = await fakeService();
    const { record } = await service.put('a', upload('phoenix'));
    for (let round = 0; round < 20; round++) {
      const gone = service.remove('a');
      const back = service.put('b', upload('phoenix'));
      await Promise.all([gone, back]);
      await Promise.all([service.remove('b'), service.put('a', upload('phoenix'))]);
    }
    expect((await service.openImage(service.resolve('a').generation)).image.fileBytes).toBe(7);
    expect(blobsIn(dataDir)).toEqual([`${record.generation.digest}.safetensors`]);
  });

  it('runs calls for one name in their order', async () => {
    const { service, pool } = await fakeService();
    const { closed, open } = gate();
    pool.gate = closed;
    const order: string[] = [];
    const calls = [
      service.put('a', upload('one')).then(() => order.push('one')),
      service.put('a', upload('two')).then(() => order.push('two')),
      service.remove('a').then(() => order.push('removed')),
      service.put('a', upload('three')).then(() => order.push('three')),
    ];
    open();
    await Promise.all(calls);
    expect(order).toEqual(['one', 'two', 'removed', 'three']);
    expect(service.stats()).toMatchObject({ names: 1, generations: 1 });
  });

  it('limits names, also those on their way, but not replacements', async () => {
    const { service, pool } = await fakeService({ maxAdapters: 2 });
    const { closed, open } = gate();
    pool.gate = closed;
    const first = service.put('a', upload('a'));
    const second = service.put('b', upload('b'));
    await expect(service.put('c', upload('c'))).rejects.toThrow(code('adapter_limit_exceeded'));
    open();
    await Promise.all([first, second]);
    await service.put('a', upload('another'));
    await expect(service.put('c', upload('c'))).rejects.toThrow(code('adapter_limit_exceeded'));
    await service.remove('b');
    await service.put('c', upload('c'));
    expect(service.list().map((r) => r.name)).toEqual(['a', 'c']);
  });

  it('limits registrations under way', async () => {
    const { service, pool } = await fakeService({ maxAdapters: 1000 });
    const { closed, open } = gate();
    pool.gate = closed;
    const puts = Array.from({ length: MAX_PENDING_PUTS }, (_, i) =>
      service.put(`n${i}`, upload(`content ${i % 7}`)),
    );
    await expect(service.put('more', upload('x'))).rejects.toThrow(code('queue_full'));
    open();
    await Promise.all(puts);
    expect(service.stats()).toMatchObject({ generations: 7, pendingPuts: 0 });
  });

  it('answers damaged names with store_corrupt until they are replaced or removed', async () => {
    const dataDir = temp.fresh();
    const adapterRoot = temp.join('damage');
    const dir = temp.adapter(loraConfig(), safetensors(loraTensors()), 'damage');
    const other = temp.adapter(loraConfig(), safetensors(loraTensors({ seed: 2 })), 'damage');
    const first = await realService({ dataDir, adapterRoot });
    for (const name of ['a', 'b', 'c', 'd']) {
      await first.put(name, { kind: 'directory', path: name === 'd' ? other : dir });
    }
    await first.close();
    const folder = path.join(dataDir, 'adapters');
    writeFileSync(path.join(folder, 'names', 'b.json'), '{"torn');
    writeFileSync(path.join(folder, 'names', 'not ours.txt'), 'x');
    const blob = path.join(folder, 'blobs', `${first.resolve('d').generation.digest}.safetensors`);
    writeFileSync(blob, 'short');

    const second = await realService({ dataDir, adapterRoot });
    expect(second.list().map((r) => r.name)).toEqual(['a', 'c']);
    expect(second.damaged().map((d) => d.name)).toEqual(['b', 'd']);
    expect(() => second.resolve('b')).toThrow(code('store_corrupt'));
    expect(await second.put('b', { kind: 'directory', path: dir })).toMatchObject({
      replaced: true,
    });
    await second.remove('d');
    expect(second.damaged()).toEqual([]);
    expect(second.resolve('b').generation).toEqual(second.resolve('a').generation);
    await second.close();
    const third = await realService({ dataDir, adapterRoot });
    expect(third.list().map((r) => r.name)).toEqual(['a', 'b', 'c']);
    expect(blobsIn(dataDir)).toHaveLength(1);
  });

  it('finds changed tensor bytes when it opens an adapter', async () => {
    const dataDir = temp.fresh();
    const dir = temp.adapter(loraConfig(), safetensors(loraTensors()), 'flip');
    const hostCacheBytes = 0;
    const service = await realService({ dataDir, adapterRoot: temp.join('flip'), hostCacheBytes });
    const { record } = await service.put('a', { kind: 'directory', path: dir });
    const { image, release } = await service.openImage(record.generation);
    release();
    const bytes = readFileSync(image.path);
    bytes[bytes.length - 3]! ^= 1;
    writeFileSync(image.path, bytes);
    await expect(service.openImage(record.generation)).rejects.toThrow(code('store_corrupt'));
  });

  it('refuses a data folder in use, or of a base model of another shape', async () => {
    const dataDir = temp.fresh();
    const dir = temp.adapter(loraConfig(), safetensors(loraTensors()), 'shape');
    const adapterRoot = temp.join('shape');
    const first = await realService({ dataDir, adapterRoot });
    await first.put('a', { kind: 'directory', path: dir });
    await expect(realService({ dataDir })).rejects.toThrow(code('config_invalid'));
    await first.close();
    const modules = describeModules({ ...TINY_BASE, numLayers: 3 });
    await expect(realService({ dataDir, modules })).rejects.toThrow(code('config_invalid'));
    await expect(realService({ adapterRoot: '/nonexistent' })).rejects.toThrow(
      code('config_invalid'),
    );
    expect((await realService({ dataDir })).list()).toHaveLength(1);
  });

  it('refuses everything once it closes', async () => {
    const { service, pool } = await fakeService();
    const { closed, open } = gate();
    pool.gate = closed;
    const running = service.put('a', upload('a'));
    const refused = expect(service.put('a', upload('b'))).rejects.toThrow(code('shutting_down'));
    await vi.waitUntil(() => pool.conversions === 1, PATIENCE_MS);
    const closing = service.close();
    open();
    await running;
    await refused;
    await closing;
    await expect(service.put('b', upload('b'))).rejects.toThrow(code('shutting_down'));
  });
});

describe('registering by path', () => {
  const root = temp.join('jail');
  mkdirSync(root);
  const inside = temp.adapter(loraConfig(), safetensors(loraTensors()), 'jail');
  const outside = temp.adapter(loraConfig(), safetensors(loraTensors()), 'outside');
  symlinkSync(outside, path.join(root, 'link-out'));
  symlinkSync(inside, path.join(root, 'link-in'));
  mkdirSync(path.join(root, 'link-file'));
  for (const file of ['adapter_config.json', 'adapter_model.safetensors']) {
    symlinkSync(path.join(outside, file), path.join(root, 'link-file', file));
  }
  mkdirSync(path.join(root, 'pickle'));
  writeFileSync(path.join(root, 'pickle', 'adapter_model.bin'), 'x');
  writeFileSync(path.join(root, 'pickle', 'adapter_config.json'), '{}');
  mkdirSync(path.join(root, 'empty'));
  writeFileSync(path.join(root, 'file'), 'x');

  it.each([
    [outside, 'adapter_path_forbidden'],
    ['../outside', 'adapter_path_forbidden'],
    [`${root}/../outside`, 'adapter_path_forbidden'],
    [`${root}x`, 'adapter_path_forbidden'],
    ['/etc', 'adapter_path_forbidden'],
    ['link-out', 'adapter_path_forbidden'],
    ['link-file', 'adapter_path_forbidden'],
    ['a\0b', 'adapter_path_forbidden'],
    ['nowhere', 'adapter_upload_incomplete'],
    ['file', 'adapter_upload_incomplete'],
    ['empty', 'adapter_upload_incomplete'],
    ['pickle', 'adapter_pickle_refused'],
  ])('refuses %s', async (requested, expected) => {
    const dataDir = temp.fresh();
    const service = await realService({ dataDir, adapterRoot: root });
    await expect(service.put('a', { kind: 'directory', path: requested })).rejects.toThrow(
      code(expected),
    );
    expect(service.list()).toEqual([]);
    expect(blobsIn(dataDir)).toEqual([]);
  });

  it('follows links that stay inside, and is off without a root', async () => {
    const service = await realService({ adapterRoot: root });
    const { record } = await service.put('a', { kind: 'directory', path: 'link-in' });
    expect(record.source).toBe(path.basename(inside));
    const off = await realService();
    await expect(off.put('a', { kind: 'directory', path: inside })).rejects.toThrow(
      code('adapter_path_forbidden'),
    );
  });
});
