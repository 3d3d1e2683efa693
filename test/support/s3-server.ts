/** A real S3-compatible server (SeaweedFS) on free loopback ports, with a folder of its own. */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { CreateBucketCommand, PutObjectCommand, S3Client } from '@aws-sdk/client-s3';
import { freePort } from './redis.ts';

const INSTALLER = fileURLToPath(new URL('../../scripts/s3-server.mjs', import.meta.url));
const START_MS_MAX = 300_000;
const POLL_MS = 50;
/** A free port may be taken by another process between the look and the start. */
const START_TRIES = 5;
const OUTPUT_CHARS_MAX = 20_000;
const REGION = 'us-east-1';
/** Bucket that only tells whether the server works. */
const READINESS = 'readiness';

export interface S3Options {
  /** Made when the server answers. Default: one, named `blobs`. */
  readonly buckets?: readonly string[];
}

export interface TestS3 {
  readonly endpoint: string;
  readonly bucket: string;
  readonly credentials: { readonly accessKeyId: string; readonly secretAccessKey: string };
  /** Of the server's process. */
  readonly pid: number;
  /** Another client, for what a test does behind the server's back; `stop` ends it. */
  readonly client: S3Client;
  /** Ends the server and removes its folder. Idempotent. */
  stop(): Promise<void>;
  /** Ends it at once; `restart` starts it again. */
  kill9(): Promise<void>;
  /** Starts it again on the same ports and folder, where its files still are. */
  restart(): Promise<void>;
  /** Stops answering without closing anything, as a machine that hangs. */
  pause(): void;
  resume(): void;
}

/** Resolves when the server has made the buckets. */
export async function startS3(options: S3Options = {}): Promise<TestS3> {
  process.env.AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED = 'true';
  const { stdout } = await promisify(execFile)(process.execPath, [INSTALLER]);
  const binary = stdout.trim();
  const dir = await mkdtemp(path.join(tmpdir(), 'loramux-s3-'));
  const credentials = { accessKeyId: 'loramux-test', secretAccessKey: 'loramux-test-secret' };
  await writeFile(path.join(dir, 'identities.json'), identities(credentials));
  const buckets = options.buckets ?? ['blobs'];

  let launched = await launchOnFreePorts(binary, dir);
  const { ports } = launched;
  const endpoint = `http://127.0.0.1:${ports.s3}`;
  const client = new S3Client({ endpoint, credentials, region: REGION, forcePathStyle: true });
  let stopped = false;
  const server: TestS3 = {
    endpoint,
    credentials,
    client,
    bucket: buckets[0] ?? '',
    get pid() {
      return launched.child.pid ?? 0;
    },
    async stop() {
      if (stopped) return;
      stopped = true;
      client.destroy();
      await end(launched.child);
      await removeSockets(ports);
      await rm(dir, { recursive: true, force: true, maxRetries: 3 });
    },
    kill9: () => end(launched.child),
    async restart() {
      await end(launched.child);
      launched = await launch(binary, dir, ports);
      await ready(client, launched, []);
    },
    pause: () => void launched.child.kill('SIGSTOP'),
    resume: () => void launched.child.kill('SIGCONT'),
  };
  try {
    await ready(client, launched, buckets);
  } catch (error) {
    await server.stop();
    throw error;
  }
  return server;
}

interface Ports {
  readonly master: number;
  readonly volume: number;
  readonly filer: number;
  readonly s3: number;
  readonly grpc: readonly [master: number, volume: number, filer: number, s3: number];
}

interface Launched {
  readonly child: ChildProcess;
  readonly ports: Ports;
  output(): string;
}

function identities(credentials: TestS3['credentials']): string {
  const { accessKeyId: accessKey, secretAccessKey: secretKey } = credentials;
  const actions = ['Admin', 'Read', 'Write', 'List', 'Tagging'];
  const identity = { name: 'test', credentials: [{ accessKey, secretKey }], actions };
  return JSON.stringify({ identities: [identity] });
}

async function launchOnFreePorts(binary: string, dir: string): Promise<Launched> {
  for (let tries = 1; ; tries++) {
    const free = async () => freePort();
    const ports: Ports = {
      master: await free(),
      volume: await free(),
      filer: await free(),
      s3: await free(),
      grpc: [await free(), await free(), await free(), await free()],
    };
    try {
      return await launch(binary, dir, ports);
    } catch (error) {
      if (tries === START_TRIES) throw error;
    }
  }
}

/** Resolves when the S3 port answers. */
async function launch(binary: string, dir: string, ports: Ports): Promise<Launched> {
  const [masterGrpc, volumeGrpc, filerGrpc, s3Grpc] = ports.grpc;
  const child = spawn(
    binary,
    [
      ...['-logtostderr', 'server', '-ip=127.0.0.1', '-ip.bind=127.0.0.1', `-dir=${dir}`],
      ...['-master.telemetry=false', '-master.volumeSizeLimitMB=64', '-volume.max=100'],
      ...[`-master.port=${ports.master}`, `-master.port.grpc=${masterGrpc}`],
      ...[`-volume.port=${ports.volume}`, `-volume.port.grpc=${volumeGrpc}`],
      ...['-filer', `-filer.port=${ports.filer}`, `-filer.port.grpc=${filerGrpc}`],
      ...['-s3', `-s3.port=${ports.s3}`, `-s3.port.grpc=${s3Grpc}`],
      ...['-s3.port.iceberg=0', '-s3.port.lance=0', '-s3.iam=false'],
      '-s3.autoCreateBucket=false',
      ...['-master.electionTimeout=1s', '-master.heartbeatInterval=100ms'],
      ...[`-filer.localSocket=${dir}/filer.sock`, `-s3.localSocket=${dir}/s3.sock`],
      `-s3.config=${path.join(dir, 'identities.json')}`,
    ],
    { cwd: dir, stdio: ['ignore', 'pipe', 'pipe'] },
  );
  let output = '';
  const collect = (bytes: Buffer) => {
    output = (output + bytes.toString()).slice(-OUTPUT_CHARS_MAX);
  };
  child.stdout.on('data', collect);
  child.stderr.on('data', collect);
  let failed: string | undefined;
  child.once('error', (error) => {
    failed = error.message;
  });
  const killNow = () => child.kill('SIGKILL');
  process.once('exit', killNow);
  child.once('exit', (code) => {
    failed ??= `the S3 server ended with ${code}:\n${output}`;
    process.removeListener('exit', killNow);
  });
  const deadline = Date.now() + START_MS_MAX;
  while (Date.now() < deadline) {
    if (failed !== undefined) throw new Error(failed);
    const answer = await fetch(`http://127.0.0.1:${ports.s3}/healthz`).catch(() => undefined);
    if (answer?.ok) return { child, ports, output: () => output };
    await sleep(POLL_MS);
  }
  await end(child);
  throw new Error(`the S3 server did not answer within ${START_MS_MAX} ms:\n${output}`);
}

/** The port answers before the parts behind it have found each other; then an object can be put. */
async function ready(
  client: S3Client,
  launched: Launched,
  buckets: readonly string[],
): Promise<void> {
  const deadline = Date.now() + START_MS_MAX;
  const untilDone = async (work: () => Promise<unknown>) => {
    for (;;) {
      try {
        await work();
        return;
      } catch (error) {
        const { name } = error as Error;
        if (name === 'BucketAlreadyOwnedByYou' || name === 'BucketAlreadyExists') return;
        if (Date.now() > deadline) {
          throw new Error(`the S3 server is not ready: ${name}\n${launched.output()}`);
        }
        await sleep(POLL_MS);
      }
    }
  };
  for (const Bucket of [...buckets, READINESS]) {
    await untilDone(() => client.send(new CreateBucketCommand({ Bucket })));
  }
  const probe = { Bucket: READINESS, Key: 'probe', Body: 'probe' };
  await untilDone(() => client.send(new PutObjectCommand(probe)));
}

/** Asked politely, it would wait 15 s for its own connections first. */
async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = once(child, 'exit');
  child.kill('SIGKILL');
  await ended;
}

/** It puts these here wherever its other files go, and a killed process leaves them. */
async function removeSockets(ports: Ports): Promise<void> {
  const parts = ['master', 'volume', 'filer', 's3'];
  for (const [index, port] of ports.grpc.entries()) {
    await rm(`/tmp/seaweedfs-${parts[index]}-grpc-${port}.sock`, { force: true });
  }
}
