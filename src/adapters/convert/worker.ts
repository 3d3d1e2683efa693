/** Entry of a conversion thread: one job at a time, in the order of the messages. */
import { getPriority, setPriority } from 'node:os';
import { parentPort, workerData } from 'node:worker_threads';
import { baseShapesDigest } from '../formats/canonical-file.ts';
import { convert } from './canonicalize.ts';
import { packError, type WorkerReply, type WorkerRequest, type WorkerSetup } from './messages.ts';
import { openCanonical } from './open-canonical.ts';

/** As kLoadNiceness of the native load threads. */
const LOAD_NICENESS = 17;
const NICEST = 19;

if (parentPort === null) throw new Error('worker.ts runs in a worker thread only');
const port = parentPort;
const { modules } = workerData as WorkerSetup;
const base = baseShapesDigest(modules);

/**
 * Reading and hashing give way to the event loop and to steps, as the native load threads do
 * (docs/decisions/0005): as many steps nicer than the thread that started this one. On Linux process
 * id 0 means the calling thread.
 */
function giveWay(): void {
  setPriority(0, Math.min(NICEST, getPriority(0) + LOAD_NICENESS));
}

function answer(request: WorkerRequest): WorkerReply {
  try {
    if (request.kind === 'convert') {
      return { kind: 'convert', result: convert(request.job, modules) };
    }
    return { kind: 'open', result: openCanonical(request.job, base) };
  } catch (error) {
    return { kind: 'error', error: packError(error) };
  }
}

/** Memory of the answer that belongs to this thread alone changes hands instead of being copied. */
function transferable(reply: WorkerReply): ArrayBuffer[] {
  if (reply.kind !== 'open') return [];
  const { buffer } = reply.result.bytes;
  return buffer instanceof ArrayBuffer ? [buffer] : [];
}

giveWay();
port.on('message', (request: WorkerRequest) => {
  const reply = answer(request);
  port.postMessage(reply, transferable(reply));
});
