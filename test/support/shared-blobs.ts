/** The three places where a fleet keeps adapter files, as somebody with access to them sees them. */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { DeleteObjectCommand, ListObjectsV2Command, PutObjectCommand } from '@aws-sdk/client-s3';
import { folderTree } from './folder-tree.ts';
import type { TestRedis } from './redis.ts';
import { startS3, type TestS3 } from './s3-server.ts';

export type BlobKind = 'redis' | 's3' | 'directory';

export interface SharedBlobs {
  readonly kind: BlobKind;
  /** Flags and environment of servers that use it. */
  readonly args: readonly string[];
  readonly env: NodeJS.ProcessEnv;
  /** Keys, objects or files of blobs; the marker of a folder is none. */
  list(): Promise<string[]>;
  /** Takes away bytes of every blob of this digest. */
  destroy(digest: string): Promise<void>;
  /** Changes bytes of every blob of this digest; sizes stay. */
  corrupt(digest: string): Promise<void>;
  stop(): Promise<void>;
}

export interface S3SharedBlobs extends SharedBlobs {
  readonly server: TestS3;
}

/** Blobs of Redis are with the fleet's registry, whose server comes later. */
export interface RedisSharedBlobs extends SharedBlobs {
  useRedis(redis: TestRedis): void;
}

const DAMAGE = 'damaged!';

export function redisBlobs(): RedisSharedBlobs {
  let redis: TestRedis | undefined;
  const keys = async (pattern: string): Promise<string[]> => {
    const found = (await redis!.command('KEYS', `{loramux:v1}:blob:${pattern}`)).split('\r\n');
    return found.filter((line) => line.startsWith('{')).sort();
  };
  return {
    kind: 'redis',
    args: ['--blob-store', 'redis'],
    env: {},
    useRedis: (used) => {
      redis = used;
    },
    list: () => keys('*'),
    async destroy(digest) {
      for (const key of await keys(`${digest}/*:0`)) await redis!.command('DEL', key);
    },
    async corrupt(digest) {
      for (const key of await keys(`${digest}/*:0`)) {
        await redis!.command('SETRANGE', key, '2000', DAMAGE);
      }
    },
    stop: async () => undefined,
  };
}

export async function s3Blobs(): Promise<S3SharedBlobs> {
  const server = await startS3();
  const { client, bucket: Bucket, endpoint, credentials } = server;
  const list = async (prefix = '') => {
    const { Contents = [] } = await client.send(
      new ListObjectsV2Command({ Bucket, Prefix: `fleet/${prefix}` }),
    );
    return Contents.map(({ Key = '', Size = 0 }) => ({ Key, Size }));
  };
  return {
    kind: 's3',
    server,
    args: [
      ...['--blob-store', `s3://${Bucket}/fleet`],
      ...['--s3-endpoint', endpoint, '--s3-path-style', 'true'],
    ],
    env: {
      AWS_ACCESS_KEY_ID: credentials.accessKeyId,
      AWS_SECRET_ACCESS_KEY: credentials.secretAccessKey,
      AWS_REGION: 'us-east-1',
    },
    list: async () => (await list()).map(({ Key }) => Key),
    async destroy(digest) {
      for (const { Key } of await list(digest)) {
        await client.send(new DeleteObjectCommand({ Bucket, Key }));
      }
    },
    async corrupt(digest) {
      for (const { Key, Size } of await list(digest)) {
        const Body = Buffer.alloc(Size, DAMAGE);
        await client.send(new PutObjectCommand({ Bucket, Key, Body }));
      }
    },
    stop: () => server.stop(),
  };
}

export async function directoryBlobs(): Promise<SharedBlobs> {
  const folder = await mkdtemp(path.join(tmpdir(), 'loramux-shared-'));
  const list = async (): Promise<string[]> => {
    const entries = Object.keys(folderTree(folder));
    return entries.filter((entry) => entry !== 'loramux-blobs').sort();
  };
  const filesOf = async (digest: string) =>
    (await list()).filter((entry) => entry.startsWith(`${digest}${path.sep}`));
  return {
    kind: 'directory',
    args: ['--blob-store', `file://${folder}`],
    env: {},
    list,
    async destroy(digest) {
      for (const file of await filesOf(digest)) await rm(path.join(folder, file));
    },
    async corrupt(digest) {
      for (const file of await filesOf(digest)) {
        const bytes = await readFile(path.join(folder, file));
        bytes.write(DAMAGE, 2000);
        await writeFile(path.join(folder, file), bytes);
      }
    },
    stop: () => rm(folder, { recursive: true, force: true }),
  };
}
