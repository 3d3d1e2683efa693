/** What only the embedded registry does: its files, old ones too, and what is wrong with them. */
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import path from 'node:path';
import { afterAll, describe, expect, it, onTestFinished } from 'vitest';
import { setSplit } from '../../../../src/adapters/registry/entry.ts';
import {
  FileRegistry,
  type FileRegistryOptions,
} from '../../../../src/adapters/registry/file-registry.ts';
import {
  MAX_NAME_FILE_BYTES,
  nameToFile,
  sealJson,
} from '../../../../src/adapters/registry/name-files.ts';
import { REVISION_BLOCK } from '../../../../src/adapters/registry/revision-counter.ts';
import { nodeStoreFs } from '../../../../src/adapters/store/store-fs.ts';
import type { JsonObject } from '../../../../src/importer/json.ts';
import { TempDir } from '../../../support/adapter-files.ts';
import {
  codeOf,
  nameEntry,
  RecordingListener,
  sha256,
  written,
} from '../../../support/registry-entries.ts';

const temp = new TempDir();
afterAll(() => temp.remove());

async function open(root: string, options: Partial<FileRegistryOptions> = {}) {
  const warnings: string[] = [];
  const registry = new FileRegistry({
    root,
    maxNames: 1000,
    onWarning: (message) => warnings.push(message),
    ...options,
  });
  onTestFinished(() => registry.close());
  const listener = new RecordingListener();
  await registry.open(listener);
  return { registry, listener, warnings };
}

const nameFile = (root: string, name: string) => path.join(root, 'names', nameToFile(name));

/** A name file as version 1 had it. */
const VERSION_1 = {
  version: 1,
  name: 'team/old',
  digest: sha256('old'),
  fileBytes: 4096,
  headerBytes: 512,
  headerDigest: sha256('header'),
  rank: 8,
  residentBytes: 16_384,
  targetModules: ['q_proj'],
  source: 'adapters/old',
  createdAt: 1_600_000_000,
  base: sha256('shapes'),
};

function writeVersion1(root: string, fields: JsonObject): void {
  mkdirSync(path.join(root, 'names'), { recursive: true });
  const { checksum, ...body } = JSON.parse(Buffer.from(sealJson(fields)).toString()) as JsonObject;
  // Version 1 was indented.
  const text = `${JSON.stringify({ ...body, checksum: checksum! }, null, 2)}\n`;
  writeFileSync(nameFile(root, String(fields.name)), text);
}

describe('name files of version 1', () => {
  it('are entries with one generation', async () => {
    const root = temp.fresh();
    writeVersion1(root, VERSION_1);
    const { registry, listener } = await open(root);
    expect([...listener.damaged]).toEqual([]);
    const { revision, changeId, entry } = (await registry.read('team/old'))!;
    const { version, name, ...generation } = VERSION_1;
    expect(entry).toEqual({
      name,
      generations: [generation],
      current: generation.digest,
      split: undefined,
      pinned: false,
      createdAt: generation.createdAt,
      updatedAt: generation.createdAt,
    });
    expect(revision).toBeGreaterThanOrEqual(1);
    expect(changeId).toMatch(/^[0-9a-f]{32}$/);
  });

  it('are replaced as any other, and have their own revision each until then', async () => {
    const root = temp.fresh();
    for (const name of ['a', 'b', 'c']) writeVersion1(root, { ...VERSION_1, name });
    const first = await open(root);
    const revisions = [...first.listener.entries.values()].map(({ revision }) => revision);
    expect(new Set(revisions).size).toBe(3);
    const next = await written(first.registry, 'b', revisions[1]!, nameEntry('b', 'new'));
    expect(next.revision).toBeGreaterThan(Math.max(...revisions));
    await first.registry.close();
    const { listener } = await open(root);
    expect(listener.entries.get('b')).toMatchObject({
      revision: next.revision,
      changeId: next.changeId,
      entry: nameEntry('b', 'new'),
    });
    const again = listener.entries.get('a')!;
    expect(again.changeId).toBe(first.listener.entries.get('a')!.changeId);
    expect(again.revision).toBeGreaterThan(next.revision);
  });

  it('are damaged when a field is wrong', async () => {
    const root = temp.fresh();
    const { base, ...noBase } = VERSION_1;
    writeVersion1(root, { ...noBase, name: 'no-base' });
    writeVersion1(root, { ...VERSION_1, name: 'bad-digest', digest: 'x' });
    const { listener } = await open(root);
    expect(listener.damaged.get('no-base')).toContain('no base');
    expect(listener.damaged.get('bad-digest')).toContain('digest');
  });
});

describe('damaged name files', () => {
  it('are told by their reason and stay on disk', async () => {
    const root = temp.fresh();
    const { registry } = await open(root);
    const names = ['short', 'empty', 'json', 'sum', 'other', 'large', 'version', 'folder', 'ok'];
    for (const name of names) await written(registry, name, 0, nameEntry(name, 'one'));
    await registry.close();
    const text = (name: string) => readFileSync(nameFile(root, name), 'utf8');
    const replace = (name: string, content: string) => writeFileSync(nameFile(root, name), content);
    replace('short', text('short').slice(0, 200));
    replace('empty', '');
    replace('json', '[]');
    replace('sum', text('sum').replace('"rank":8', '"rank":9'));
    replace('other', text('ok'));
    replace('large', text('large') + ' '.repeat(MAX_NAME_FILE_BYTES));
    const { checksum, ...body } = JSON.parse(text('version')) as JsonObject;
    replace('version', Buffer.from(sealJson({ ...body, version: 3 })).toString());
    rmSync(nameFile(root, 'folder'));
    mkdirSync(nameFile(root, 'folder'));
    const { listener, registry: again } = await open(root);
    expect(Object.fromEntries(listener.damaged)).toEqual({
      short: 'the name file is not JSON',
      empty: 'the name file is not JSON',
      json: 'the name file is not an object',
      sum: 'the name file has a wrong checksum',
      other: 'the entry holds another name',
      large: 'the name file is too large',
      version: 'the name file has version 3, this server reads up to 2',
      folder: 'the name file is gone or no file',
    });
    expect([...listener.entries.keys()]).toEqual(['ok']);
    expect(readdirSync(path.join(root, 'names')).sort()).toEqual(names.map(nameToFile).sort());
    for (const name of names.slice(0, -2)) {
      await written(again, name, 'damaged', nameEntry(name, 'two'));
    }
    await written(again, 'folder', 'damaged', undefined);
    await again.close();
    const { listener: repaired } = await open(root);
    expect(repaired.damaged.size).toBe(0);
    expect(repaired.entries.size).toBe(names.length - 1);
  });

  it('are read again by a reconcile when somebody repaired them', async () => {
    const root = temp.fresh();
    const first = await open(root);
    await written(first.registry, 'a', 0, nameEntry('a', 'one'));
    await first.registry.close();
    const sound = readFileSync(nameFile(root, 'a'));
    writeFileSync(nameFile(root, 'a'), 'damaged');
    const { registry, listener } = await open(root);
    await registry.reconcile();
    expect(await codeOf(registry.read('a'))).toBe('store_corrupt');
    writeFileSync(nameFile(root, 'a'), sound);
    await registry.reconcile();
    expect((await registry.read('a'))?.entry).toEqual(nameEntry('a', 'one'));
    expect(listener.damaged.size).toBe(0);
    writeVersion1(root, { ...VERSION_1, name: 'a' });
    expect((await registry.read('a'))?.entry).toEqual(nameEntry('a', 'one'));
  });

  it('leaves files alone that are not its own', async () => {
    const root = temp.fresh();
    mkdirSync(path.join(root, 'names'), { recursive: true });
    mkdirSync(path.join(root, 'tmp'), { recursive: true });
    writeFileSync(path.join(root, 'names', 'notes.txt'), 'mine');
    writeFileSync(path.join(root, 'tmp', 'x.safetensors'), 'of an upload');
    writeFileSync(path.join(root, 'tmp', 'x.json'), 'left by a crash');
    const { listener } = await open(root);
    expect(listener.snapshots[0]!.snapshot.damaged).toEqual([]);
    expect(existsSync(path.join(root, 'names', 'notes.txt'))).toBe(true);
    expect(readdirSync(path.join(root, 'tmp'))).toEqual(['x.safetensors']);
  });
});

describe('canonical files at start', () => {
  it('damage the name when the current one or that of the split is wrong', async () => {
    const root = temp.fresh();
    const first = await open(root);
    await written(first.registry, 'current', 0, nameEntry('current', 'old', 'bad'));
    const split = { digest: sha256('bad'), weight: 0.5 };
    const canary = setSplit(nameEntry('split', 'bad', 'new'), split, 0);
    await written(first.registry, 'split', 0, canary);
    await written(first.registry, 'history', 0, nameEntry('history', 'bad', 'new'));
    await first.registry.close();
    const checkBlob = async ({ digest }: { digest: string }) =>
      digest === sha256('bad') ? 'its canonical file is missing' : undefined;
    const { listener, warnings, registry } = await open(root, { checkBlob });
    expect(Object.fromEntries(listener.damaged)).toEqual({
      current: 'its canonical file is missing',
      split: 'its canonical file is missing',
    });
    expect([...listener.entries.keys()]).toEqual(['history']);
    expect(warnings).toHaveLength(1);
    expect(warnings[0]).toContain(`cannot be rolled back to generation ${sha256('bad')}`);
    expect(await codeOf(registry.read('current'))).toBe('store_corrupt');
  });
});

describe('revisions', () => {
  it('go on after the newest name was removed and after a crash', async () => {
    const root = temp.fresh();
    const first = await open(root);
    await written(first.registry, 'a', 0, nameEntry('a', 'one'));
    const b = await written(first.registry, 'b', 0, nameEntry('b', 'one'));
    const removed = await written(first.registry, 'b', b.revision, undefined);
    await first.registry.close();
    const { registry, warnings } = await open(root);
    const c = await written(registry, 'c', 0, nameEntry('c', 'one'));
    expect(c.revision).toBeGreaterThan(removed.revision);
    expect(warnings).toEqual([]);
  });

  it.each([
    ['is gone', (file: string) => rmSync(file)],
    ['is damaged', (file: string) => writeFileSync(file, '{"reserved": 1}')],
    ['is behind', (file: string) => writeFileSync(file, sealJson({ version: 1, reserved: 1 }))],
    ['is too large', (file: string) => writeFileSync(file, ' '.repeat(10_000))],
    ['has no number', (file: string) => writeFileSync(file, sealJson({ version: 1 }))],
  ])('skip a block with a warning when their file %s', async (_, harm) => {
    const root = temp.fresh();
    const first = await open(root);
    await written(first.registry, 'a', 0, nameEntry('a', 'one'));
    const b = await written(first.registry, 'b', 0, nameEntry('b', 'one'));
    await first.registry.close();
    harm(path.join(root, 'revision.json'));
    const { registry, warnings } = await open(root);
    expect(warnings).toHaveLength(1);
    const next = await written(registry, 'c', 0, nameEntry('c', 'one'));
    expect(next.revision).toBeGreaterThan(b.revision + REVISION_BLOCK);
  });

  it('are unique across many blocks and writers', async () => {
    const { registry } = await open(temp.fresh());
    const seen = new Set<number>();
    const writers = Array.from({ length: 16 }, async (_, i) => {
      let revision = 0;
      for (let n = 0; n < 80; n++) {
        const next = n % 2 === 0 ? nameEntry(`n${i}`, 'one') : undefined;
        const result = await written(registry, `n${i}`, n % 2 === 0 ? 0 : revision, next);
        revision = result.revision;
        seen.add(revision);
      }
    });
    await Promise.all(writers);
    expect(seen.size).toBe(16 * 80);
    expect(Math.max(...seen)).toBe(16 * 80);
  });
});

describe('the folder', () => {
  it('belongs to one registry at a time', async () => {
    const root = temp.fresh();
    const first = await open(root);
    const second = new FileRegistry({ root, maxNames: 10 });
    expect(await codeOf(second.open(new RecordingListener()))).toBe('config_invalid');
    await second.close();
    await first.registry.close();
    const third = await open(root);
    expect(third.registry.status()).toMatchObject({ kind: 'file', state: 'ok', lagMs: 0 });
  });

  it('is given free when it is closed while it opens, and when opening fails', async () => {
    const root = temp.fresh();
    const early = new FileRegistry({ root, maxNames: 10 });
    const listener = new RecordingListener();
    const opening = early.open(listener);
    await early.close();
    await opening;
    expect(listener.snapshots).toEqual([]);
    expect(early.status().state).toBe('connecting');
    expect(await codeOf(early.read('a'))).toBe('registry_unavailable');
    expect(await codeOf(early.open(listener))).toBe('registry_unavailable');

    const list = () => Promise.reject(new Error('the disk is gone'));
    const failing = new FileRegistry({ root, maxNames: 10, fs: { ...nodeStoreFs, list } });
    await expect(failing.open(listener)).rejects.toThrow('the disk is gone');
    await open(root);
    await failing.close();
  });

  it('refuses changes, and says so, when it cannot be written', async () => {
    const root = temp.fresh();
    mkdirSync(path.join(root, 'revision.json', 'in the way'), { recursive: true });
    const { registry } = await open(root);
    const next = nameEntry('a', 'one');
    expect(await codeOf(registry.write('a', 0, next))).toBe('registry_unavailable');
    expect(registry.status().errors).toBe(1);
    expect(readdirSync(path.join(root, 'tmp'))).toEqual([]);
    rmSync(path.join(root, 'revision.json'), { recursive: true });
    await written(registry, 'a', 0, next);
  });

  it('holds files that only the owner may write', async () => {
    const root = temp.fresh();
    const { registry } = await open(root);
    await written(registry, 'a', 0, nameEntry('a', 'one'));
    expect(statSync(nameFile(root, 'a')).mode & 0o777).toBe(0o640);
  });
});

describe('writes that are refused', () => {
  it('refuses an unsound entry and changes nothing', async () => {
    const root = temp.fresh();
    const { registry } = await open(root);
    const unsound = { ...nameEntry('a', 'one'), current: sha256('other') };
    expect(await codeOf(registry.write('a', 0, unsound))).toBe('internal_error');
    expect(await codeOf(registry.write('b', 0, nameEntry('a', 'one')))).toBe('internal_error');
    expect(await registry.read('a')).toBeUndefined();
    expect(readdirSync(path.join(root, 'names'))).toEqual([]);
    await written(registry, 'a', 0, nameEntry('a', 'one'));
  });
});
