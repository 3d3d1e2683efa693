// A conversion thread that does what the job's path says: answers, dies, or never answers.
import { parentPort } from 'node:worker_threads';

parentPort.on('message', ({ kind, job }) => {
  if (job.configPath === 'exit') process.exit(7);
  if (job.configPath === 'throw') throw new Error('unruly');
  if (job.configPath === 'silent') return;
  if (job.configPath === 'memory') {
    const hoard = [];
    for (;;) hoard.push(new Array(1e6).fill({}));
  }
  parentPort.postMessage({ kind, result: { digest: job.configPath } });
});
