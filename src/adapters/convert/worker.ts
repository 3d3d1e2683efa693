/** Entry of a conversion thread: one job at a time, in the order of the messages. */
import { parentPort, workerData } from 'node:worker_threads';
import { giveWay, LOAD_NICENESS } from '../../threads/give-way.ts';
import { packError } from '../../threads/packed-error.ts';
import { baseShapesDigest } from '../formats/canonical-file.ts';
import { convert } from './canonicalize.ts';
import type { WorkerReply, WorkerRequest, WorkerSetup } from './messages.ts';
import { openCanonical } from './open-canonical.ts';

if (parentPort === null) throw new Error('worker.ts runs in a worker thread only');
const port = parentPort;
const { modules } = workerData as WorkerSetup;
const base = baseShapesDigest(modules);

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

// Reading and hashing give way to the event loop and to steps (docs/decisions/0006).
giveWay(LOAD_NICENESS);
port.on('message', (request: WorkerRequest) => {
  const reply = answer(request);
  port.postMessage(reply, transferable(reply));
});
