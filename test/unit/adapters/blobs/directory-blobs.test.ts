/** The shared folder as a blob store. */
import { execFileSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import path from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { DirectoryBlobs } from '../../../../src/adapters/blobs/directory-blobs.ts';
import { TempDir } from '../../../support/adapter-files.ts';
import {
  blobStoreConformance,
  codeOf,
  contentOf,
  sha256,
} from '../../../support/blob-store-conformance.ts';

/** Resolves in the turn in which a file is there: before the transfer that writes it goes far. */
async function appearance(file: string): Promise<void> {
  while (!existsSync(file)) await nextTurn();
}

const temp = new TempDir();
const shared = temp.join('shared');
mkdirSync(shared);
afterAll(() => temp.remove());

blobStoreConformance('directory', () => ({
  open: async () => new DirectoryBlobs({ dir: shared }),
  async damage(location, how) {
    const file = path.join(shared, location);
    if (how === 'lose') rmSync(file);
    else if (how === 'truncate') truncateSync(file, 1000);
    else writeSync(openSync(file, 'r+'), Buffer.from([readFileSync(file)[77]! ^ 4]), 0, 1, 77);
  },
  async remains(location) {
    const folder = path.dirname(path.join(shared, location));
    if (!existsSync(folder)) return [];
    return readdirSync(folder).filter((file) => file.startsWith(path.basename(location)));
  },
}));

describe('the shared folder', () => {
  const closers: (() => void)[] = [];
  afterEach(() => {
    for (const close of closers.splice(0)) close();
  });
  const content = contentOf(1, 5000);
  const location = (name: string) => `${sha256(content)}/${name}`;
  const file = temp.fresh('.in');
  writeFileSync(file, content);
  const freshShare = () => {
    const dir = temp.fresh('.share');
    mkdirSync(dir);
    return dir;
  };

  it('is not believed empty when its mount is away', async () => {
    const dir = freshShare();
    const store = new DirectoryBlobs({ dir });
    await store.upload(file, location('a'));
    renameSync(dir, `${dir}-away`);
    mkdirSync(dir);
    const other = new DirectoryBlobs({ dir });
    for (const process of [store, other]) {
      const download = process.download(location('a'), temp.fresh(), content.length);
      expect(await codeOf(download)).toBe('blob_unavailable');
      expect(await codeOf(process.remove(location('a')))).toBe('blob_unavailable');
    }
    // It knows the share, so that it does not begin a new one below the mount point.
    expect(await codeOf(store.upload(file, location('b')))).toBe('blob_unavailable');
    expect(readdirSync(dir)).toEqual([]);
    rmSync(dir, { recursive: true });
    expect(await codeOf(other.upload(file, location('c')))).toBe('blob_unavailable');
    renameSync(`${dir}-away`, dir);
    await store.download(location('a'), temp.fresh(), content.length);
  });

  it('shows a blob only when it is complete, and removes what was left half', async () => {
    const dir = freshShare();
    const store = new DirectoryBlobs({ dir });
    await store.upload(file, location('a'));
    const folder = path.join(dir, sha256(content));
    writeFileSync(path.join(folder, 'b.part'), content.subarray(0, 100));
    const download = store.download(location('b'), temp.fresh(), content.length);
    expect(await codeOf(download)).toBe('blob_missing');
    await store.remove(location('b'));
    expect(readdirSync(folder)).toEqual(['a']);
    await store.remove(location('a'));
    expect(readdirSync(dir)).toEqual(['loramux-blobs']);
  });

  it('ends transfers under way when it is closed, and leaves nothing half', async () => {
    const dir = freshShare();
    const large = temp.fresh('.large');
    const bytes = 256 * 1024 * 1024;
    writeFileSync(large, '');
    truncateSync(large, bytes);
    const folder = path.join(dir, sha256(content));
    const sending = new DirectoryBlobs({ dir });
    const upload = codeOf(sending.upload(large, location('a')));
    await appearance(path.join(folder, 'a.part'));
    await sending.close();
    expect(await upload).toBe('blob_unavailable');
    expect(readdirSync(folder)).toEqual([]);

    renameSync(large, path.join(folder, 'a'));
    const receiving = new DirectoryBlobs({ dir });
    const target = temp.fresh('.out');
    const download = codeOf(receiving.download(location('a'), target, bytes));
    await appearance(target);
    await receiving.close();
    expect(await download).toBe('blob_unavailable');
    expect(existsSync(target)).toBe(false);
    rmSync(folder, { recursive: true });
  });

  it('stores and removes blobs of one digest in several processes at once', async () => {
    const dir = freshShare();
    const stores = Array.from({ length: 4 }, () => new DirectoryBlobs({ dir }));
    await Promise.all(
      stores.map(async (store, i) => {
        for (let round = 0; round < 25; round++) {
          const here = location(`${i}-${round}`);
          await store.upload(file, here);
          await store.download(here, temp.fresh('.out'), content.length);
          await store.remove(here);
        }
      }),
    );
    expect(readdirSync(dir)).toEqual(['loramux-blobs']);
  });

  it('says when its disk is full, and leaves nothing half', async (context) => {
    const dir = freshShare();
    try {
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', dir], { stdio: 'ignore' });
    } catch {
      context.skip('this process may not mount a small disk');
    }
    closers.push(() => execFileSync('umount', ['-l', dir]));
    const store = new DirectoryBlobs({ dir });
    const large = contentOf(2, 3 * 1024 * 1024);
    const source = temp.fresh('.in');
    writeFileSync(source, large);
    const upload = store.upload(source, `${sha256(large)}/a`);
    await expect(upload).rejects.toThrow(/its disk is full/);
    expect(readdirSync(path.join(dir, sha256(large)))).toEqual([]);
    await store.upload(file, location('a'));

    // The same disk as the one of this process that a download goes to.
    const roomy = new DirectoryBlobs({ dir: freshShare() });
    await roomy.upload(source, `${sha256(large)}/a`);
    const target = path.join(dir, 'out');
    const download = roomy.download(`${sha256(large)}/a`, target, large.length);
    await expect(download).rejects.toThrow(/The disk of .* is full/);
    expect(existsSync(target)).toBe(false);
  });
});
