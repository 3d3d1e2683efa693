/** Entry of a conversion thread: one job at a time, in the order of the messages. */
import { parentPort, workerData } from 'node:worker_threads';
import { baseShapesDigest } from '../formats/canonical-file.ts';
import { convert } from './canonicalize.ts';
import { packError, type WorkerReply, type WorkerRequest, type WorkerSetup } from './messages.ts';
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

port.on('message', (request: WorkerRequest) => port.postMessage(answer(request)));
