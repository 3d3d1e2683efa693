/** The shared blob store that the configuration names. */
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { LoramuxError } from '../../errors.ts';
import { DirectoryBlobs } from './directory-blobs.ts';
import { RedisBlobs, type RedisBlobsOptions } from './redis-blobs.ts';
import { createS3Blobs, type S3BlobsOptions } from './s3-blobs.ts';
import type { BlobStore } from './types.ts';

/** 3 to 63 characters; some servers allow fewer rules than AWS, none more. */
const BUCKET = /^[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]$/;
const PREFIX = /^[A-Za-z0-9!_.*'()-]+(\/[A-Za-z0-9!_.*'()-]+)*$/;
const PREFIX_CHARS_MAX = 512;

export type BlobStoreSpec =
  | { readonly kind: 'redis' }
  | { readonly kind: 's3'; readonly bucket: string; readonly prefix: string }
  | { readonly kind: 'directory'; readonly dir: string };

export interface BlobStoreDeps {
  readonly redis: RedisBlobsOptions;
  readonly s3: Omit<S3BlobsOptions, 'bucket' | 'prefix' | 'onWarning'>;
  readonly onWarning: (message: string) => void;
}

/**
 * Reads `redis`, `s3://BUCKET[/PREFIX]` or `file:///FOLDER`.
 * @throws LoramuxError config_invalid.
 */
export function parseBlobStore(spec: string): BlobStoreSpec {
  if (spec === 'redis') return { kind: 'redis' };
  if (spec.startsWith('s3://')) return parseBucket(spec);
  if (spec.startsWith('file:')) return parseFolder(spec);
  throw invalid(spec, 'it is none of redis, s3://BUCKET/PREFIX and file:///FOLDER');
}

/**
 * The store, which connects when it is first used.
 * @throws LoramuxError config_invalid.
 */
export async function createBlobStore(spec: string, deps: BlobStoreDeps): Promise<BlobStore> {
  const parsed = parseBlobStore(spec);
  switch (parsed.kind) {
    case 'redis':
      return new RedisBlobs(deps.redis);
    case 's3': {
      checkEndpoint(deps.s3.endpoint);
      const { bucket, prefix } = parsed;
      return createS3Blobs({ ...deps.s3, bucket, prefix, onWarning: deps.onWarning });
    }
    case 'directory':
      return new DirectoryBlobs({ dir: parsed.dir });
  }
}

function parseBucket(spec: string): BlobStoreSpec {
  const [bucket = '', ...rest] = spec.slice('s3://'.length).split('/');
  const prefix = rest.join('/').replace(/\/$/, '');
  if (!BUCKET.test(bucket)) throw invalid(spec, `"${bucket}" cannot be the name of a bucket`);
  const dots = rest.some((part) => part === '.' || part === '..');
  if (prefix !== '' && (dots || prefix.length > PREFIX_CHARS_MAX || !PREFIX.test(prefix))) {
    throw invalid(
      spec,
      "its prefix may have letters, digits and !_.*'()- between single slashes, " +
        `${PREFIX_CHARS_MAX} characters at most`,
    );
  }
  return { kind: 's3', bucket, prefix };
}

function parseFolder(spec: string): BlobStoreSpec {
  let dir: string;
  try {
    const url = new URL(spec);
    if (url.search !== '' || url.hash !== '') throw new Error('it has a query or a fragment');
    dir = path.resolve(fileURLToPath(url));
  } catch (cause) {
    throw invalid(spec, `it is not file:///FOLDER: ${(cause as Error).message}`, cause);
  }
  if (!spec.startsWith('file:///')) throw invalid(spec, 'it must begin with file:///');
  if (dir === '/') throw invalid(spec, 'it names no folder');
  return { kind: 'directory', dir };
}

function checkEndpoint(endpoint: string | undefined): void {
  if (endpoint === undefined) return;
  const protocol = URL.canParse(endpoint) ? new URL(endpoint).protocol : '';
  if (protocol === 'http:' || protocol === 'https:') return;
  throw new LoramuxError(
    'config_invalid',
    `--s3-endpoint "${endpoint}" is not an http or https URL, as in http://127.0.0.1:9000.`,
  );
}

function invalid(spec: string, why: string, cause?: unknown): LoramuxError {
  return new LoramuxError('config_invalid', `--blob-store "${spec}": ${why}.`, { cause });
}
