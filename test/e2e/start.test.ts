/** Real servers whose start depends on somebody who hangs or is away. */
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import net from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { startServer } from '../../scripts/process.ts';
import { startRedis } from '../support/redis.ts';
import { startTestServer } from '../support/server.ts';
import { FIXTURES } from '../support/stack.ts';
import { PATIENCE_MS, until } from '../support/until.ts';

const MODEL = 'llama2';
const model = ['--model', path.join(FIXTURES, 'models', MODEL)];
const adapter = ['--adapter', `a=${path.join(FIXTURES, 'adapters', MODEL, 'qv-r4')}`];
/** Far above what it takes, below the time that the blob store is given: three tries of 10 s. */
const SOON_MS = 25_000;

const closers: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

async function freshDir(): Promise<string> {
  const dir = await mkdtemp(path.join(tmpdir(), 'loramux-start-'));
  closers.push(() => rm(dir, { recursive: true, force: true }));
  return dir;
}

async function redisServer() {
  const redis = await startRedis({ appendfsync: 'always' });
  closers.push(() => redis.stop());
  return redis;
}

/** Accepts connections and never answers. */
async function silentServer(): Promise<{ url: string; connections(): number }> {
  const sockets = new Set<net.Socket>();
  const server = net.createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => undefined);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  closers.push(async () => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  const { port } = server.address() as net.AddressInfo;
  return { url: `http://127.0.0.1:${port}`, connections: () => sockets.size };
}

describe('a start with --adapter', () => {
  it('ends at a signal while the blob store hangs', async () => {
    const redis = await redisServer();
    const s3 = await silentServer();
    const dataDir = await freshDir();
    let child: ChildProcess | undefined;
    const started = startServer(
      [
        ...[...model, ...adapter, '--port', '0', '--data-dir', dataDir, '--log-level', 'error'],
        ...['--redis', redis.url, '--blob-store', 's3://bucket', '--s3-endpoint', s3.url],
      ],
      {
        env: { AWS_ACCESS_KEY_ID: 'key', AWS_SECRET_ACCESS_KEY: 'secret' },
        onSpawn: (spawned) => {
          child = spawned;
        },
      },
    );
    const refused = started.then(
      () => 'ready',
      (error: Error) => error.message,
    );
    await vi.waitUntil(() => s3.connections() > 0, PATIENCE_MS);
    child?.kill('SIGTERM');
    const outcome = await Promise.race([refused, sleep(SOON_MS, 'still there', { ref: false })]);
    child?.kill('SIGKILL');
    expect(outcome).toContain('ended with code 0');
  });

  it('serves from the disk cache without Redis and registers when it is back', async () => {
    const redis = await redisServer();
    const dataDir = await freshDir();
    const args = [...model, '--redis', redis.url, '--redis-at-start', 'cached'];
    const first = await startTestServer(args, { dataDir });
    await until(
      'it is uploaded, on a machine where Redis may miss its time',
      () => first.upload('b', path.join(FIXTURES, 'adapters', MODEL, 'all-r8-rslora')),
      ({ status }) => status === 201 || status === 200,
    );
    expect(await first.stop()).toBe(0);
    await redis.kill9();

    const second = await startTestServer([...args, ...adapter], { dataDir });
    closers.push(() => second.stop());
    expect((await second.call('GET', '/v1/adapters/b')).status).toBe(200);
    expect((await second.call('GET', '/v1/adapters/a')).status).toBe(503);
    await redis.restart();
    await vi.waitUntil(
      async () => (await second.call('GET', '/v1/adapters/a')).status === 200,
      PATIENCE_MS,
    );
  });
});
