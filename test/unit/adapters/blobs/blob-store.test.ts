/** What the configuration may name as blob store. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';
import { Redis } from 'ioredis';
import { afterAll, describe, expect, it } from 'vitest';
import {
  type BlobStoreDeps,
  createBlobStore,
  parseBlobStore,
} from '../../../../src/adapters/blobs/blob-store.ts';
import { TempDir } from '../../../support/adapter-files.ts';
import { codeOf } from '../../../support/blob-store-conformance.ts';

const temp = new TempDir();
afterAll(() => temp.remove());

const deps: BlobStoreDeps = {
  redis: {
    connect: () => new Redis({ lazyConnect: true }),
    keyPrefix: '{x:v1}',
    maxBlobBytes: 100,
  },
  s3: { endpoint: 'http://127.0.0.1:9', pathStyle: true },
  onWarning: () => {},
};

describe('blobStore', () => {
  it.each([
    ['redis', { kind: 'redis' }],
    ['s3://bucket', { kind: 's3', bucket: 'bucket', prefix: '' }],
    ['s3://bucket/', { kind: 's3', bucket: 'bucket', prefix: '' }],
    ['s3://my.bucket-1/a/b_c/', { kind: 's3', bucket: 'my.bucket-1', prefix: 'a/b_c' }],
    ['file:///srv/blobs', { kind: 'directory', dir: '/srv/blobs' }],
    ['file:///srv/with%20space/../x/', { kind: 'directory', dir: '/srv/x' }],
  ])('reads %s', (spec, expected) => {
    expect(parseBlobStore(spec)).toEqual(expected);
  });

  it.each([
    '',
    'Redis',
    'redis://127.0.0.1',
    '/srv/blobs',
    's3:bucket',
    's3://',
    's3:///prefix',
    's3://b',
    's3://key:secret@bucket/x',
    's3://bucket/a//b',
    's3://bucket/../x',
    's3://bucket/a?versioning',
    `s3://bucket/${'a'.repeat(513)}`,
    'file:relative',
    'file://host/srv',
    'file:///',
    'file:///srv?x=1',
    'https://bucket.example/',
  ])('refuses "%.40s"', async (spec) => {
    expect(await codeOf(createBlobStore(spec, deps))).toBe('config_invalid');
    expect(() => parseBlobStore(spec)).toThrow(`--blob-store "${spec}"`);
  });

  it('makes the store that is named', async () => {
    const dir = temp.fresh();
    mkdirSync(dir);
    for (const [spec, kind, maxBlobBytes] of [
      ['redis', 'redis', 100],
      ['s3://bucket/x', 's3', 10_000 * 5 * 1024 ** 3],
      [pathToFileURL(dir).href, 'directory', Number.MAX_SAFE_INTEGER],
    ] as const) {
      const store = await createBlobStore(spec, deps);
      expect(store.kind).toBe(kind);
      expect(store.maxBlobBytes).toBe(maxBlobBytes);
      await store.close();
    }
  });

  it('refuses an S3 endpoint that is no URL', async () => {
    for (const endpoint of ['127.0.0.1:9000', 's3.example', 'ftp://x']) {
      const store = createBlobStore('s3://bucket/x', { ...deps, s3: { endpoint } });
      expect(await codeOf(store)).toBe('config_invalid');
    }
  });

  it('takes a region from the environment, and needs one for AWS alone', async () => {
    const saved = { ...process.env };
    try {
      delete process.env.AWS_REGION;
      delete process.env.AWS_DEFAULT_REGION;
      const empty = temp.fresh('.config');
      writeFileSync(empty, '');
      process.env.AWS_CONFIG_FILE = empty;
      process.env.AWS_SHARED_CREDENTIALS_FILE = empty;
      const aws = createBlobStore('s3://bucket/x', { ...deps, s3: {} });
      await expect(aws).rejects.toThrow(/region of s3:\/\/bucket is not known.*AWS_REGION/);
      expect(await codeOf(aws)).toBe('config_invalid');
      await (await createBlobStore('s3://bucket/x', deps)).close();
      process.env.AWS_REGION = 'eu-central-1';
      await (await createBlobStore('s3://bucket/x', { ...deps, s3: {} })).close();
    } finally {
      process.env = saved;
    }
  });

  it('loads the SDK of AWS only for a bucket', async () => {
    const script = `
      const { createBlobStore } = await import('./src/adapters/blobs/blob-store.ts');
      const { createRequire } = await import('node:module');
      const deps = { redis: { connect() {}, keyPrefix: 'x', maxBlobBytes: 1 }, s3: {}, onWarning() {} };
      const loaded = () => process.getActiveResourcesInfo && Object.keys(
        createRequire(process.cwd() + '/x.js').cache).some((file) => file.includes('@aws-sdk'));
      await createBlobStore('redis', deps);
      const before = loaded();
      await createBlobStore('s3://bucket/x', { ...deps, s3: { endpoint: 'http://127.0.0.1:9' } });
      console.log(before, loaded());`;
    const output = execFileSync(
      process.execPath,
      ['--import', 'tsx', '--input-type=module', '-e', script],
      { encoding: 'utf8' },
    );
    expect(output.trim()).toBe('false true');
  });
});
