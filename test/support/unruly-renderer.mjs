// A rendering thread that does what the template says: answers with its number, dies, or never answers.
import { parentPort, threadId, workerData } from 'node:worker_threads';

if (workerData.specialTokens.start === 'dies') process.exit(7);
parentPort.on('message', ({ source }) => {
  if (source === 'exit') process.exit(7);
  if (source === 'throw') throw new Error('unruly');
  if (source === 'silent') return;
  if (source === 'memory') {
    const hoard = [];
    for (;;) hoard.push(new Array(1e6).fill({}));
  }
  parentPort.postMessage({ kind: 'rendered', text: `${source} ${threadId}` });
});
parentPort.postMessage({ kind: 'ready' });
