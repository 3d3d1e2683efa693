/** A `loramux serve` process whose first steps matter: it may never be ready, and its output counts. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { ROOT } from '../../scripts/process.ts';
import { freePort } from './redis.ts';

const OUTPUT_CHARS_MAX = 200_000;

export interface EarlyServer {
  readonly url: string;
  /** Standard output and standard error so far, warnings included. */
  output(): string;
  /** Its exit code, when it has ended. */
  readonly exited: Promise<number | null>;
  /** Stops it and removes its data folder; resolves to its exit code. */
  end(): Promise<number | null>;
}

export async function startEarlyServer(args: readonly string[]): Promise<EarlyServer> {
  const dataDir = await mkdtemp(path.join(tmpdir(), 'loramux-early-'));
  const port = await freePort();
  const child = spawn(
    process.execPath,
    [
      ...['bin/loramux.mjs', 'serve', '--port', String(port), '--data-dir', dataDir],
      ...['--log-level', 'debug', ...args],
    ],
    { cwd: ROOT, stdio: ['ignore', 'pipe', 'pipe'] },
  );
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (bytes: Buffer) => {
      output = (output + bytes.toString()).slice(-OUTPUT_CHARS_MAX);
    });
  }
  const exited = once(child, 'close').then(([code]) => code as number | null);
  return {
    url: `http://127.0.0.1:${port}`,
    output: () => output,
    exited,
    async end() {
      child.kill('SIGTERM');
      const code = await exited;
      await rm(dataDir, { recursive: true, force: true });
      return code;
    },
  };
}
