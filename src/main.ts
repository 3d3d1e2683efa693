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
function stopSignal(): Promise<void> {
  return new Promise((resolve) => {
    let stopping = false;
    const onSignal = () => {
      if (stopping) process.exit(FORCED_EXIT_CODE);
      stopping = true;
      resolve();
    };
    process.on('SIGTERM', onSignal);
    process.on('SIGINT', onSignal);
  });
}

/**
 * Serves until a signal, then drains. Resolves when everything is closed.
 * @throws LoramuxError when the server cannot start
 */
export async function runServer(config: Config, hooks: ServerHooks = {}): Promise<void> {
  const stop = stopSignal();
  const abort = new AbortController();
  void stop.then(() => abort.abort());
  let server: LoramuxServer;
  try {
    server = await createServer(config, { ...hooks, signal: abort.signal });
  } catch (error) {
    if (abort.signal.aborted) return;
    throw error;
  }
  process.stdout.write(`${readyLine(server)}\n`);
  await stop;
  await server.close();
}
