/** A real redis-server on a free loopback port, with a folder of its own. */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import net from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

const START_MS_MAX = 180_000;
const STOP_MS_MAX = 60_000;
const ANSWER_MS_MAX = 60_000;
/** Another process on the port may never answer. */
const LOOK_MS_MAX = 5_000;
const POLL_MS = 15;
/** A free port may be taken by another process between the look and the start. */
const START_TRIES = 5;
const OUTPUT_CHARS_MAX = 20_000;
const PORT_MIN = 20_000;
const PORT_MAX = 32_000;

export interface RedisOptions {
  /** Keep an append-only file, synced like this; without it nothing is kept on disk. */
  readonly appendfsync?: 'always' | 'everysec' | 'no';
  /** Default: a new temporary folder, removed by `stop`. */
  readonly dir?: string;
  /** Default: a free one. */
  readonly port?: number;
  /** Further arguments, as `['--maxmemory', '100mb']`. */
  readonly args?: readonly string[];
}

export interface TestRedis {
  readonly url: string;
  readonly port: number;
  readonly dir: string;
  readonly pid: number;
  /** Ends it, asking first, and removes its folder if it was made here. Idempotent. */
  stop(): Promise<void>;
  /** Ends it at once; `restart` starts it again. */
  kill9(): Promise<void>;
  /** Starts it again on the same port and folder; ends it before, as a shutdown, if it runs. */
  restart(): Promise<void>;
  /** Stops answering without closing anything, as a machine that hangs. */
  pause(): void;
  resume(): void;
  /** One command and its plain answer, for what a test does behind the server's back. */
  command(...words: readonly string[]): Promise<string>;
}

/**
 * A port that nobody listens on, below those that Linux gives to whoever asks for any: it stays free
 * until it is used, and while what listens on it is being started again.
 */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = randomInt(PORT_MIN, PORT_MAX + 1);
    const server = net.createServer();
    const listening = await new Promise<boolean>((resolve) => {
      server.once('error', () => resolve(false));
      server.listen(port, '127.0.0.1', () => resolve(true));
    });
    if (!listening) continue;
    server.close();
    await once(server, 'close');
    return port;
  }
}

/** Resolves when PING is answered. */
export async function startRedis(options: RedisOptions = {}): Promise<TestRedis> {
  const ownDir = options.dir === undefined;
  const dir = options.dir ?? (await mkdtemp(path.join(tmpdir(), 'loramux-redis-')));
  let port = options.port ?? (await freePort());
  let child: ChildProcess | undefined;
  for (let tries = 1; ; tries++) {
    try {
      child = await launch(port, dir, options);
      break;
    } catch (error) {
      if (options.port !== undefined || tries === START_TRIES) throw error;
      port = await freePort();
    }
  }
  const end = async (signal: NodeJS.Signals) => {
    const ending = child;
    child = undefined;
    if (ending !== undefined) await endProcess(ending, signal);
  };
  return {
    port,
    dir,
    url: `redis://127.0.0.1:${port}`,
    get pid() {
      if (child?.pid === undefined) throw new Error('redis-server does not run');
      return child.pid;
    },
    async stop() {
      await end('SIGTERM');
      if (ownDir) await rm(dir, { recursive: true, force: true });
    },
    kill9: () => end('SIGKILL'),
    async restart() {
      await end('SIGTERM');
      child = await launch(port, dir, options);
    },
    pause: () => void child?.kill('SIGSTOP'),
    resume: () => void child?.kill('SIGCONT'),
    command: (...words) => command(port, words),
  };
}

async function launch(port: number, dir: string, options: RedisOptions): Promise<ChildProcess> {
  const { appendfsync, args = [] } = options;
  const child = spawn(
    'redis-server',
    [
      ...['--port', String(port), '--bind', '127.0.0.1', '--dir', dir, '--daemonize', 'no'],
      ...['--save', '', '--appendonly', appendfsync === undefined ? 'no' : 'yes'],
      ...(appendfsync === undefined ? [] : ['--appendfsync', appendfsync]),
      ...args,
    ],
    { stdio: ['ignore', 'pipe', 'pipe'] },
  );
  let output = '';
  const collect = (bytes: Buffer) => {
    output = (output + bytes.toString()).slice(-OUTPUT_CHARS_MAX);
  };
  child.stdout.on('data', collect);
  child.stderr.on('data', collect);
  let failed: string | undefined;
  child.once('error', (error) => {
    failed = `redis-server: ${error.message}; on Debian or Ubuntu: apt-get install -y redis-server`;
  });
  child.once('exit', (code) => {
    failed ??= `redis-server ended with ${code}:\n${output}`;
    process.removeListener('exit', killNow);
  });
  const killNow = () => child.kill('SIGKILL');
  process.once('exit', killNow);

  const deadline = Date.now() + START_MS_MAX;
  while (Date.now() < deadline) {
    if (failed !== undefined) throw new Error(failed);
    // Another process on the port would answer too: only the one that was started counts.
    const answer = await command(port, ['INFO', 'server'], LOOK_MS_MAX).catch(() => '');
    if (answer.includes(`process_id:${child.pid}\r\n`)) {
      const ping = await command(port, ['PING'], LOOK_MS_MAX).catch(() => '');
      if (ping === 'PONG') return child;
    }
    await sleep(POLL_MS);
  }
  child.kill('SIGKILL');
  throw new Error(`redis-server did not answer within ${START_MS_MAX} ms:\n${output}`);
}

async function endProcess(child: ChildProcess, signal: NodeJS.Signals): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = once(child, 'exit');
  child.kill('SIGCONT');
  child.kill(signal);
  const timer = setTimeout(() => child.kill('SIGKILL'), STOP_MS_MAX);
  await ended;
  clearTimeout(timer);
}

/** Sends one command on a connection of its own; nested answers come as their raw text. */
async function command(
  port: number,
  words: readonly string[],
  timeoutMs = ANSWER_MS_MAX,
): Promise<string> {
  const socket = net.connect(port, '127.0.0.1');
  const parts = words.map((word) => `$${Buffer.byteLength(word)}\r\n${word}\r\n`);
  try {
    return await new Promise<string>((resolve, reject) => {
      let received = '';
      socket.setTimeout(timeoutMs, () => reject(new Error(`${words[0]}: no answer`)));
      socket.once('error', reject);
      socket.once('close', () => reject(new Error(`${words[0]}: connection closed`)));
      socket.on('data', (bytes) => {
        received += bytes.toString('latin1');
        const body = answerIn(received);
        if (body === undefined) return;
        if (received.startsWith('-')) reject(new Error(body));
        else resolve(body);
      });
      socket.write(`*${words.length}\r\n${parts.join('')}`);
    });
  } finally {
    socket.destroy();
  }
}

function answerIn(received: string): string | undefined {
  const end = received.indexOf('\r\n');
  if (end < 0) return undefined;
  const head = received.slice(1, end);
  if (received[0] !== '$') return received[0] === '*' ? received : head;
  const bytes = Number(head);
  if (bytes < 0) return '';
  const whole = received.length >= end + 2 + bytes + 2;
  return whole ? received.slice(end + 2, end + 2 + bytes) : undefined;
}
