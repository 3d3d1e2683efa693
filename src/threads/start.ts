/** Starting threads of this process whose entry is one of our modules. */
import { Worker } from 'node:worker_threads';

export interface ThreadOptions {
  /** As debuggers show it. */
  readonly name: string;
  /** Given to the thread once. */
  readonly workerData: unknown;
  /** JavaScript heap, MiB: beyond it the thread ends with an error event. */
  readonly heapMbMax: number;
}

const IS_COMPILED = import.meta.url.endsWith('.js');

/**
 * @param entry `new URL('./x.ts', import.meta.url)`; where the server is compiled, the file that became
 *   of it is taken. Anything but TypeScript is started as it is.
 */
export function startThread(entry: URL, { name, workerData, heapMbMax }: ThreadOptions): Worker {
  const isSource = entry.pathname.endsWith('.ts');
  const options = {
    name,
    workerData,
    // Not those of the process: they may be an inspector's port.
    execArgv: [],
    resourceLimits: { maxOldGenerationSizeMb: heapMbMax },
  };
  if (!isSource) return new Worker(entry, options);
  if (IS_COMPILED) return new Worker(new URL(entry.href.replace(/ts$/, 'js')), options);
  const loader = new URL('./from-source.mjs', import.meta.url);
  return new Worker(loader, { ...options, argv: [entry.href] });
}
