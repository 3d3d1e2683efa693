/** Small helpers of the scripts: run a child to its end, start a server and wait for its line. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';

export const ROOT = fileURLToPath(new URL('..', import.meta.url));

/** Runs a command with output on stderr, so that stdout stays free for results. */
export async function run(command: string, args: readonly string[]): Promise<void> {
  const child = spawn(command, args, { cwd: ROOT, stdio: ['ignore', 2, 2] });
  const [code, signal] = (await once(child, 'exit')) as [number | null, string | null];
  if (code !== 0) throw new Error(`${command} ${args.join(' ')} ended with ${signal ?? code}`);
}

/** Builds the native module when its sources changed. */
export async function buildNative(): Promise<void> {
  await run(process.execPath, ['scripts/build-native.mjs']);
}

export interface StartedServer {
  readonly url: string;
  readonly child: ChildProcess;
  /** SIGTERM, then waits for the process to end; resolves to its exit code. */
  stop(): Promise<number | null>;
}

const READY = /ready on (http:\/\/\S+)/;

/** Longest wait for the ready line; a model load from a cold disk is slow. */
const READY_MS_MAX = 300_000;

/** Starts `loramux serve` and resolves when it accepts requests. */
export async function startServer(
  args: readonly string[],
  options: {
    onStdout?: (line: string) => void;
    /** Called at once, long before the server is ready. */
    onSpawn?: (child: ChildProcess) => void;
    env?: NodeJS.ProcessEnv;
  } = {},
): Promise<StartedServer> {
  const child = spawn(process.execPath, ['bin/loramux.mjs', 'serve', ...args], {
    cwd: ROOT,
    stdio: ['ignore', 'pipe', 2],
    env: { ...process.env, ...options.env },
  });
  options.onSpawn?.(child);
  const exited = new Promise<number | null>((resolve) => child.once('exit', resolve));
  const url = await new Promise<string>((resolve, reject) => {
    const timer = setTimeout(() => {
      child.kill('SIGKILL');
      reject(new Error(`the server printed no ready line within ${READY_MS_MAX} ms`));
    }, READY_MS_MAX);
    let pending = '';
    child.stdout?.setEncoding('utf8').on('data', (chunk: string) => {
      pending += chunk;
      for (let end = pending.indexOf('\n'); end >= 0; end = pending.indexOf('\n')) {
        const line = pending.slice(0, end);
        pending = pending.slice(end + 1);
        options.onStdout?.(line);
        const ready = READY.exec(line);
        if (ready?.[1] !== undefined) {
          clearTimeout(timer);
          resolve(ready[1]);
        }
      }
    });
    void exited.then((code) => {
      clearTimeout(timer);
      reject(new Error(`the server ended with code ${code} before it was ready`));
    });
  });
  return {
    url,
    child,
    async stop() {
      child.kill('SIGTERM');
      return exited;
    },
  };
}
