/**
 * One process per folder. An abstract socket of Linux, named after the folder, is the lock: the
 * kernel frees it when the process ends, however it ends. It holds within one network namespace, so
 * containers that share a folder must each have their own.
 */
import { createHash } from 'node:crypto';
import { realpath } from 'node:fs/promises';
import { createServer, type Server } from 'node:net';
import { LoramuxError } from './errors.ts';

/**
 * @param dir an existing folder.
 * @returns a function that gives the lock free.
 * @throws LoramuxError config_invalid when another process (or this one) holds it.
 */
export async function lockFolder(dir: string): Promise<() => Promise<void>> {
  const id = createHash('sha256')
    .update(await realpath(dir))
    .digest('hex');
  const server = createServer((socket) => socket.destroy());
  try {
    await listen(server, `\0loramux-folder-${id.slice(0, 40)}`);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== 'EADDRINUSE') throw cause;
    throw new LoramuxError(
      'config_invalid',
      `${dir} is in use by another process. Wait until it ends, or choose another folder.`,
      { cause },
    );
  }
  server.unref();
  return () => new Promise((resolve) => server.close(() => resolve()));
}

function listen(server: Server, path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(path, () => {
      server.off('error', reject);
      resolve();
    });
  });
}
