/** The `loramux` command as a user runs it: a process, its output and its exit code. */
import { execFile } from 'node:child_process';
import { ROOT } from '../../scripts/process.ts';
import type { Json, TestServer } from './server.ts';

export interface CliResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** A start from the sources takes seconds, on a busy machine many. */
const TIME_MS_MAX = 600_000;

/** Runs it to its end. @param env added to the environment. */
export function runCli(args: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<CliResult> {
  return new Promise((resolve, reject) => {
    const options = { cwd: ROOT, env: { ...process.env, ...env }, timeout: TIME_MS_MAX };
    execFile(process.execPath, ['bin/loramux.mjs', ...args], options, (error, stdout, stderr) => {
      const code = error === null ? 0 : error.code;
      if (typeof code === 'number') resolve({ code, stdout, stderr });
      else reject(error);
    });
  });
}

/** Runs it against a server. */
export const cliOf =
  (server: Pick<TestServer, 'url'>) =>
  (...args: readonly string[]): Promise<CliResult> =>
    runCli(args, { LORAMUX_URL: server.url });

/** What it printed with --json, after it succeeded. */
export function jsonOf({ code, stdout, stderr }: CliResult): Json {
  if (code !== 0) throw new Error(`exit code ${code}: ${stderr}`);
  return JSON.parse(stdout);
}
