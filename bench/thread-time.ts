/** Processor time of a process's threads, from the kernel. */
import { readdir, readFile } from 'node:fs/promises';

/** Names of threads that compute steps, and of those that ONNX Runtime starts from them. */
const NATIVE = /^loramux-/;

/**
 * Milliseconds that all threads but those of the native session have computed. A thread that has ended
 * is missing. undefined where the kernel does not tell.
 */
export async function otherThreadsMs(pid: number): Promise<number | undefined> {
  const folder = `/proc/${pid}/task`;
  const ids = await readdir(folder).catch(() => undefined);
  if (ids === undefined) return undefined;
  const times = ids.map(async (id) => {
    const read = (file: string) => readFile(`${folder}/${id}/${file}`, 'utf8').catch(() => '');
    const [name, schedstat] = await Promise.all([read('comm'), read('schedstat')]);
    return NATIVE.test(name) ? 0 : Number(schedstat.split(' ', 1)[0]) / 1e6;
  });
  return (await Promise.all(times)).reduce((sum, ms) => sum + ms, 0);
}
