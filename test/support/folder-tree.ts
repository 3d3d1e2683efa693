/** What a folder holds, to compare before and after. */
import { createHash } from 'node:crypto';
import { lstatSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import path from 'node:path';

/** What `read` gives, or undefined where a server took the path away first. */
function unlessGone<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}

function describe(file: string): string {
  const stat = lstatSync(file);
  if (stat.isSymbolicLink()) return `link to ${readlinkSync(file)}`;
  if (!stat.isFile()) return 'folder';
  return `file ${createHash('sha256').update(readFileSync(file)).digest('hex')}`;
}

/**
 * Every path below `root` with its kind and content. The folder may change while it is
 * read: what goes away meanwhile is not in the result.
 */
export function folderTree(root: string): Record<string, string> {
  const tree: Record<string, string> = {};
  const folders = [''];
  for (let folder = folders.pop(); folder !== undefined; folder = folders.pop()) {
    const absolute = path.join(root, folder);
    const names = folder === '' ? readdirSync(absolute) : unlessGone(() => readdirSync(absolute));
    for (const name of (names ?? []).sort()) {
      const relative = path.join(folder, name);
      const description = unlessGone(() => describe(path.join(root, relative)));
      if (description === undefined) continue;
      tree[relative] = description;
      if (description === 'folder') folders.push(relative);
    }
  }
  return tree;
}
