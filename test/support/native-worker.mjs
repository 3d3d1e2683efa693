// Entry of the worker thread in native-worker.ts. Node 20 does not apply --import to worker
// threads, so the thread registers the loader itself.
import { register } from 'tsx/esm/api';

register();
await import('./native-worker.ts');
