// Entry of a grammar thread when the server runs from its TypeScript sources. Node 20 does not apply
// --import to worker threads, so the thread registers the loader itself.
import { register } from 'tsx/esm/api';

register();
await import('./worker.ts');
