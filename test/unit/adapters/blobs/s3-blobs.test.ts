/** Blobs in a real S3-compatible server. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import {
  CreateMultipartUploadCommand,
  DeleteObjectCommand,
  GetObjectCommand,
  ListMultipartUploadsCommand,
  ListObjectsV2Command,
  PutObjectCommand,
} from '@aws-sdk/client-s3';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { createS3Blobs, type S3BlobsOptions } from '../../../../src/adapters/blobs/s3-blobs.ts';
import type { BlobStore } from '../../../../src/adapters/blobs/types.ts';
import { TempDir } from '../../../support/adapter-files.ts';
import {
  blobStoreConformance,
  codeOf,
  contentOf,
  sha256,
} from '../../../support/blob-store-conformance.ts';
import { startS3, type TestS3 } from '../../../support/s3-server.ts';
import { startTcpProxy, type TcpProxy } from '../../../support/tcp-proxy.ts';

const MIB = 1024 * 1024;
const PREFIX = 'fleet/blobs';
const temp = new TempDir();
let s3: TestS3;
beforeAll(async () => {
  s3 = await startS3();
});
afterAll(async () => {
  await s3?.stop();
  temp.remove();
});

const warnings: string[] = [];
const open = (options: Partial<S3BlobsOptions> = {}): Promise<BlobStore> =>
  createS3Blobs({
    bucket: s3.bucket,
    prefix: PREFIX,
    endpoint: s3.endpoint,
    credentials: s3.credentials,
    pathStyle: true,
    onWarning: (message) => void warnings.push(message),
    ...options,
  });

async function objects(prefix: string): Promise<string[]> {
  const list = new ListObjectsV2Command({ Bucket: s3.bucket, Prefix: prefix });
  return ((await s3.client.send(list)).Contents ?? []).map((object) => object.Key ?? '');
}

async function uploads(prefix: string): Promise<string[]> {
  const list = new ListMultipartUploadsCommand({ Bucket: s3.bucket, Prefix: prefix });
  return ((await s3.client.send(list)).Uploads ?? []).map((upload) => upload.Key ?? '');
}

blobStoreConformance('s3', () => ({
  open: () => open(),
  async damage(location, how) {
    const target = { Bucket: s3.bucket, Key: `${PREFIX}/${location}` };
    if (how === 'lose') {
      await s3.client.send(new DeleteObjectCommand(target));
      return;
    }
    const found = await s3.client.send(new GetObjectCommand(target));
    const bytes = Buffer.from(await found.Body!.transformToByteArray());
    bytes[77]! ^= 4;
    const Body = how === 'flip' ? bytes : bytes.subarray(0, 1000);
    await s3.client.send(new PutObjectCommand({ ...target, Body }));
  },
  async remains(location) {
    const key = `${PREFIX}/${location}`;
    return [...(await objects(key)), ...(await uploads(key))];
  },
}));

describe('blobs in a bucket', () => {
  const stores: BlobStore[] = [];
  const proxies: TcpProxy[] = [];
  afterEach(async () => {
    for (const store of stores.splice(0)) await store.close();
    for (const proxy of proxies.splice(0)) await proxy.close();
    warnings.length = 0;
  });
  const opened = async (options: Partial<S3BlobsOptions> = {}) => {
    const store = await open(options);
    stores.push(store);
    return store;
  };
  const proxied = async (options: Partial<S3BlobsOptions> = {}) => {
    const proxy = await startTcpProxy(Number(new URL(s3.endpoint).port));
    proxies.push(proxy);
    const endpoint = `http://127.0.0.1:${proxy.port}`;
    return { proxy, store: await opened({ endpoint, ...options }) };
  };
  const small = contentOf(1, 3 * MIB + 1);
  const large = contentOf(2, 40 * MIB + 11);
  const fileOf = (content: Uint8Array) => {
    const file = temp.fresh('.in');
    writeFileSync(file, content);
    return file;
  };
  const smallFile = fileOf(small);
  const largeFile = fileOf(large);
  let count = 0;
  const place = (content: Uint8Array) => `${sha256(content)}/at-${count++}`;

  it('has one object per blob, below the prefix', async () => {
    const store = await opened();
    const bare = await opened({ prefix: '' });
    const where = place(large);
    await store.upload(largeFile, where);
    await bare.upload(smallFile, where);
    expect(await objects(`${PREFIX}/${where}`)).toEqual([`${PREFIX}/${where}`]);
    expect(await objects(where)).toEqual([where]);
    expect(await uploads(`${PREFIX}/${where}`)).toEqual([]);
  });

  it('says that the bucket or the right is missing, and never that the blob is', async () => {
    const where = place(small);
    await (await opened()).upload(smallFile, where);
    const secretAccessKey = 'not the secret';
    const cases: [Partial<S3BlobsOptions>, RegExp][] = [
      [{ bucket: 'not-there' }, /NoSuchBucket/],
      [{ credentials: { ...s3.credentials, secretAccessKey } }, /SignatureDoesNotMatch/],
      [{ credentials: { accessKeyId: 'nobody', secretAccessKey } }, /InvalidAccessKeyId/],
    ];
    for (const [options, message] of cases) {
      const store = await opened(options);
      const calls = [
        () => store.download(where, temp.fresh(), small.length),
        () => store.upload(smallFile, where),
        () => store.upload(largeFile, where),
      ];
      for (const call of calls) {
        const error: unknown = await call().catch((thrown) => thrown);
        expect(error).toMatchObject({ code: 'blob_unavailable' });
        expect((error as Error).message).toMatch(message);
        expect((error as Error).message).not.toContain(secretAccessKey);
      }
    }
  });

  it('removes multipart uploads that a killed server began', async () => {
    const store = await opened();
    const where = place(large);
    const target = { Bucket: s3.bucket, Key: `${PREFIX}/${where}` };
    await s3.client.send(new CreateMultipartUploadCommand(target));
    await s3.client.send(new CreateMultipartUploadCommand({ ...target, Key: `${target.Key}1` }));
    expect((await uploads(target.Key)).length).toBe(2);
    await store.remove(where);
    expect(await uploads(target.Key)).toEqual([`${target.Key}1`]);
    await store.remove(`${where}1`);
    expect(await uploads(target.Key)).toEqual([]);
    expect(warnings).toEqual([]);
  });

  it('retries parts over lost connections', async () => {
    const { proxy, store } = await proxied();
    const where = place(large);
    proxy.after('client', 11 * MIB, () => proxy.cut());
    await store.upload(largeFile, where);
    const target = temp.fresh('.out');
    await (await opened()).download(where, target, large.length);
    expect(readFileSync(target).equals(large)).toBe(true);
  });

  it('fails a download whose connection is lost, and leaves no file', async () => {
    const { proxy, store } = await proxied();
    const where = place(large);
    await store.upload(largeFile, where);
    const target = temp.fresh('.out');
    proxy.after('server', 5 * MIB, () => proxy.cut());
    expect(await codeOf(store.download(where, target, large.length))).toBe('blob_unavailable');
    expect(existsSync(target)).toBe(false);
    await store.download(where, target, large.length);
    expect(readFileSync(target).equals(large)).toBe(true);
  });

  it('gives up on a server that is silent, before and in the middle of an answer', async () => {
    const { proxy, store } = await proxied({ timeoutMs: 2500 });
    const where = place(large);
    await (await opened()).upload(largeFile, where);
    const target = temp.fresh('.out');
    for (const bytes of [1, 5 * MIB]) {
      proxy.after('server', bytes, () => proxy.stall());
      await expect(store.download(where, target, large.length)).rejects.toThrow(/TimeoutError/);
      expect(existsSync(target)).toBe(false);
      proxy.cut();
      proxy.restore();
    }
    await store.download(where, target, large.length);
  });

  it('survives that the server is killed in the middle of an upload and of a download', async () => {
    const { proxy, store } = await proxied({ timeoutMs: 10_000 });
    const where = place(large);
    const kept = place(small);
    await store.upload(smallFile, kept);

    let killed = Promise.resolve();
    const killAfter = (side: 'client' | 'server', bytes: number) =>
      proxy.after(side, bytes, () => {
        killed = s3.kill9();
      });
    killAfter('client', 20 * MIB);
    expect(await codeOf(store.upload(largeFile, where))).toBe('blob_unavailable');
    await killed;
    await s3.restart();
    const target = temp.fresh('.out');
    expect(await codeOf(store.download(where, target, large.length))).toBe('blob_missing');
    await store.remove(where);
    expect(await uploads(`${PREFIX}/${where}`)).toEqual([]);

    const again = place(large);
    await store.upload(largeFile, again);
    killAfter('server', 10 * MIB);
    expect(await codeOf(store.download(again, target, large.length))).toBe('blob_unavailable');
    expect(existsSync(target)).toBe(false);
    await killed;
    expect(await codeOf(store.download(again, target, large.length))).toBe('blob_unavailable');
    await s3.restart();
    await store.download(again, target, large.length);
    expect(readFileSync(target).equals(large)).toBe(true);
    await store.download(kept, temp.fresh('.out'), small.length);
  });

  it('ends transfers under way when it is closed', async () => {
    const { proxy, store } = await proxied();
    const stalled = new Promise<void>((resolve) => {
      proxy.after('client', 9 * MIB, () => {
        proxy.stall();
        resolve();
      });
    });
    const upload = store.upload(largeFile, place(large));
    upload.catch(() => undefined);
    await stalled;
    await store.close();
    await expect(upload).rejects.toThrow('The blob store is closed.');
  });
});
