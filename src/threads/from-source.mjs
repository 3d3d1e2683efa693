// Entry of a thread when the server runs from its TypeScript sources: its last argument is the module
// to run. Node 20 does not apply --import to worker threads, so the thread registers the loader itself.
import { register } from 'tsx/esm/api';

register();
await import(process.argv.at(-1));
