/** What a folder holds, to compare before and after. */
import { createHash } from 'node:crypto';
import { lstatSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import path from 'node:path';

/** Every path below `root` with its kind and content. */
export function folderTree(root: string): Record<string, string> {
  const tree: Record<string, string> = {};
  for (const name of readdirSync(root, { recursive: true }) as string[]) {
    const file = path.join(root, name);
    const stat = lstatSync(file);
    tree[name] = stat.isSymbolicLink()
      ? `link to ${readlinkSync(file)}`
      : stat.isFile()
        ? `file ${createHash('sha256').update(readFileSync(file)).digest('hex')}`
        : 'folder';
  }
  return tree;
}
