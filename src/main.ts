/** The life of a serving process: start, the ready line, signals, exit code. */
import type { Config } from './config/schema.ts';
import { createServer, type LoramuxServer, type ServerHooks } from './server.ts';

/** Exit code of a process ended by a second signal, as shells report SIGINT. */
const FORCED_EXIT_CODE = 130;

/** What scripts wait for on standard output: `... ready on <url> ...`. */
export function readyLine(server: LoramuxServer): string {
  const { url, modelName, numAdapters, maxModelLen, session } = server;
  return (
    `loramux ready on ${url} model=${modelName} adapters=${numAdapters} ` +
    `max_model_len=${maxModelLen} isa=${session.isa}`
  );
}

/** Resolves at the first SIGTERM or SIGINT; a second one ends the process at once. */
function stopSignal(): Promise<undefined> {
  return new Promise((resolve) => {
    let stopping = false;
    const onSignal = () => {
      if (stopping) process.exit(FORCED_EXIT_CODE);
      stopping = true;
      resolve(undefined);
    };
    process.on('SIGTERM', onSignal);
    process.on('SIGINT', onSignal);
  });
}

/**
 * Serves until a signal, then drains. Resolves when everything is closed. A process whose native
 * threads are lost cannot end by itself: it kills itself.
 * @throws LoramuxError when the server cannot start, or when only a new process can help
 */
export async function runServer(config: Config, hooks: ServerHooks = {}): Promise<void> {
  const stop = stopSignal();
  const abort = new AbortController();
  let loading = true;
  void stop.then(() => {
    // Reading, packing and loading a model take minutes without looking at a signal, and nothing
    // of them outlives the process.
    if (loading) process.exit(0);
    abort.abort();
  });
  const onLoaded = () => {
    loading = false;
  };
  let server: LoramuxServer;
  try {
    server = await createServer(config, { ...hooks, onLoaded, signal: abort.signal });
  } catch (error) {
    if (abort.signal.aborted) return;
    throw error;
  }
  process.stdout.write(`${readyLine(server)}\n`);
  const fault = await Promise.race([stop, server.hopeless]);
  await server.close();
  if (server.isStuck()) {
    const why = fault?.message ?? 'A native step never came back.';
    process.stderr.write(`loramux: ${why} The process ends itself.\n`);
    process.kill(process.pid, 'SIGKILL');
  }
  if (fault !== undefined) throw fault;
}
