/** Opening the files of an upload: regular files only, inside the jail, never past a limit. */
import { closeSync, constants, fstatSync, openSync, readlinkSync, readSync } from 'node:fs';
import path from 'node:path';
import { LoramuxError } from '../../errors.ts';

/** An open file with its size when it was opened; reads never go beyond it. */
export interface SourceFile {
  readonly fd: number;
  readonly bytes: number;
}

/**
 * @param name how messages call the file.
 * @param root when given, the file must really lie below it. Checked on the open descriptor, so that
 *   no rename or symbolic link made meanwhile can lead elsewhere.
 * @throws LoramuxError adapter_upload_incomplete, adapter_path_forbidden.
 */
export function openSource(file: string, name: string, root: string | undefined): SourceFile {
  let fd: number;
  try {
    // Non-blocking: a named pipe would otherwise hold the thread until somebody writes to it.
    fd = openSync(file, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code;
    if (code === 'ENOENT' || code === 'ENOTDIR') {
      throw new LoramuxError('adapter_upload_incomplete', `There is no ${name}.`, { cause });
    }
    if (code === 'EACCES' || code === 'EPERM' || code === 'ELOOP' || code === 'ENXIO') {
      throw new LoramuxError('adapter_path_forbidden', `${name} cannot be opened (${code}).`, {
        cause,
      });
    }
    throw cause;
  }
  try {
    if (root !== undefined && !isInside(readlinkSync(`/proc/self/fd/${fd}`), root)) {
      throw new LoramuxError(
        'adapter_path_forbidden',
        `${name} is a link that leads out of the configured adapter root.`,
      );
    }
    const stat = fstatSync(fd);
    if (!stat.isFile()) {
      throw new LoramuxError('adapter_path_forbidden', `${name} is not a regular file.`);
    }
    return { fd, bytes: stat.size };
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

/** Whether `file` is `root` or below it; both absolute and resolved. */
export function isInside(file: string, root: string): boolean {
  const relative = path.relative(root, file);
  return relative === '' || (!relative.startsWith(`..${path.sep}`) && relative !== '..');
}

/** Fills `target` from `position` on. Returns false when the file ends before. */
export function readFully(fd: number, target: Uint8Array, position: number): boolean {
  let filled = 0;
  while (filled < target.length) {
    const read = readSync(fd, target, filled, target.length - filled, position + filled);
    if (read === 0) return false;
    filled += read;
  }
  return true;
}
