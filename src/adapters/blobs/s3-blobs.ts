/**
 * Blobs in a bucket of S3 or of a server that speaks its protocol, under `<prefix>/<location>`.
 * Small files are one request, larger ones a multipart upload; every body is a buffer with its own
 * signed digest, so that the SDK can retry it and memory stays bounded.
 */
import { createHash } from 'node:crypto';
import { setMaxListeners } from 'node:events';
import type { FileHandle } from 'node:fs/promises';
import type { CompletedPart, S3Client } from '@aws-sdk/client-s3';
import { LoramuxError } from '../../errors.ts';
import {
  blobMissing,
  blobUnavailable,
  checkLocation,
  openForUpload,
  readFully,
  writeNewFile,
} from './io.ts';
import type { BlobStore } from './types.ts';

/** The protocol's least part is 5 MiB. */
export const S3_PART_BYTES = 8 * 1024 * 1024;
/** Limits of the protocol. */
const PARTS_MAX = 10_000;
const PART_BYTES_MAX = 5 * 1024 ** 3;
/** Parts of one upload that are sent at the same time; each is held in memory. */
const PART_CONCURRENCY = 2;
/** The SDK tries three times, and somebody waits for it. */
const DEFAULT_TIMEOUT_MS = 10_000;
const CONNECT_TIMEOUT_MS_MAX = 5000;
/** Begun uploads of one blob that are listed for removal. */
const STRAY_UPLOADS_MAX = 100;
const REGION_OF_OTHERS = 'us-east-1';

type Sdk = typeof import('@aws-sdk/client-s3');

export interface S3Credentials {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
}

export interface S3BlobsOptions {
  readonly bucket: string;
  /** Without slashes at its ends; may be empty. */
  readonly prefix: string;
  /** Default: the one of AWS. */
  readonly endpoint?: string | undefined;
  readonly pathStyle?: boolean | undefined;
  /** Default: the environment and files of AWS. */
  readonly credentials?: S3Credentials | undefined;
  /** A connection may be silent for so long, milliseconds. */
  readonly timeoutMs?: number | undefined;
  readonly onWarning: (message: string) => void;
}

/**
 * Loads the SDK, which servers without S3 never do. Connects to nothing.
 * @throws LoramuxError config_invalid when no region is known.
 */
export async function createS3Blobs(options: S3BlobsOptions): Promise<BlobStore> {
  // It would break into the JSON log lines, about versions other than the one that is pinned here.
  process.env.AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED ??= 'true';
  const sdk = await import('@aws-sdk/client-s3');
  return new S3Blobs(sdk, await connect(sdk, options), options);
}

async function connect(sdk: Sdk, options: S3BlobsOptions): Promise<S3Client> {
  const timeoutMs = options.timeoutMs ?? DEFAULT_TIMEOUT_MS;
  const settings = {
    forcePathStyle: options.pathStyle ?? false,
    // Other servers lag behind with these, and every blob has a digest of its own.
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
    requestHandler: {
      connectionTimeout: Math.min(timeoutMs, CONNECT_TIMEOUT_MS_MAX),
      socketTimeout: timeoutMs,
    },
    ...(options.endpoint === undefined ? {} : { endpoint: options.endpoint }),
    ...(options.credentials === undefined ? {} : { credentials: options.credentials }),
  } as const;
  const client = new sdk.S3Client(settings);
  try {
    await client.config.region();
    return client;
  } catch (cause) {
    client.destroy();
    if (options.endpoint !== undefined) {
      return new sdk.S3Client({ ...settings, region: REGION_OF_OTHERS });
    }
    throw new LoramuxError(
      'config_invalid',
      `The region of s3://${options.bucket} is not known. Set AWS_REGION, or --s3-endpoint for a ` +
        'server other than AWS.',
      { cause },
    );
  }
}

class S3Blobs implements BlobStore {
  readonly kind = 's3';
  readonly maxBlobBytes = PARTS_MAX * PART_BYTES_MAX;
  readonly #sdk: Sdk;
  readonly #client: S3Client;
  readonly #bucket: string;
  readonly #prefix: string;
  readonly #warn: (message: string) => void;
  readonly #abort = new AbortController();
  /** SHA-256 of bodies that are sent, lower-case hex. */
  readonly #digests = new WeakMap<object, string>();
  #warnedOfStrays = false;

  constructor(sdk: Sdk, client: S3Client, options: S3BlobsOptions) {
    this.#sdk = sdk;
    this.#client = client;
    this.#bucket = options.bucket;
    this.#prefix = options.prefix === '' ? '' : `${options.prefix}/`;
    this.#warn = options.onWarning;
    // Every request under way listens to it.
    setMaxListeners(0, this.#abort.signal);
    // Otherwise the SDK would hash a whole body at once, and the event loop would wait for it.
    client.middlewareStack.add(
      (next) => (args) => {
        const { Body } = args.input as { Body?: object };
        const digest = Body === undefined ? undefined : this.#digests.get(Body);
        const { headers } = args.request as { headers: Record<string, string> };
        if (digest !== undefined) headers['x-amz-content-sha256'] = digest;
        return next(args);
      },
      { step: 'build', name: 'loramuxPayloadDigest' },
    );
  }

  async upload(file: string, location: string): Promise<void> {
    const target = this.#target(location);
    const { handle, bytes } = await openForUpload(file, this.maxBlobBytes);
    try {
      if (bytes <= S3_PART_BYTES) {
        const body = await this.#readPart(handle, 0, bytes);
        const command = new this.#sdk.PutObjectCommand({
          ...target,
          Body: body,
          ContentLength: bytes,
          ContentType: 'application/octet-stream',
        });
        await this.#run('upload', () => this.#client.send(command, this.#sending()));
      } else {
        await this.#uploadParts(handle, bytes, target);
      }
    } finally {
      await handle.close();
    }
  }

  async download(location: string, target: string, fileBytes: number): Promise<void> {
    const source = this.#target(location);
    const command = new this.#sdk.GetObjectCommand(source);
    const found = await this.#run('download', () => this.#client.send(command, this.#sending()));
    const body = found.Body as AsyncIterable<Uint8Array> & { destroy?(): void };
    if (found.ContentLength !== undefined && found.ContentLength !== fileBytes) {
      body.destroy?.();
      throw blobMissing(
        `${this.#name(source.Key)} has ${found.ContentLength} bytes, not ${fileBytes}.`,
      );
    }
    await writeNewFile(target, this.#pieces(source.Key, body, fileBytes));
  }

  async remove(location: string): Promise<void> {
    const target = this.#target(location);
    await this.#abortStrays(target.Key);
    const command = new this.#sdk.DeleteObjectCommand(target);
    try {
      await this.#run('remove', () => this.#client.send(command, this.#sending()));
    } catch (error) {
      if ((error as LoramuxError).code !== 'blob_missing') throw error;
    }
  }

  /** Transfers under way fail. */
  async close(): Promise<void> {
    this.#abort.abort();
    this.#client.destroy();
  }

  async *#pieces(
    key: string,
    body: AsyncIterable<Uint8Array>,
    fileBytes: number,
  ): AsyncGenerator<Uint8Array> {
    let received = 0;
    try {
      for await (const piece of body) {
        received += piece.length;
        if (received > fileBytes) {
          throw blobMissing(`${this.#name(key)} has more than ${fileBytes} bytes.`);
        }
        yield piece;
      }
    } catch (error) {
      throw this.#explain('download', error);
    }
  }

  async #uploadParts(
    handle: FileHandle,
    bytes: number,
    target: { Bucket: string; Key: string },
  ): Promise<void> {
    const begin = new this.#sdk.CreateMultipartUploadCommand({
      ...target,
      ContentType: 'application/octet-stream',
    });
    const begun = await this.#run('upload', () => this.#client.send(begin, this.#sending()));
    const upload = { ...target, UploadId: begun.UploadId };
    try {
      const Parts = await this.#sendParts(handle, bytes, upload);
      const command = new this.#sdk.CompleteMultipartUploadCommand({
        ...upload,
        MultipartUpload: { Parts },
      });
      await this.#run('upload', () => this.#client.send(command, this.#sending()));
    } catch (error) {
      // A retry of the last request finds the upload gone when only its answer was lost.
      if (await this.#isThere(target, bytes)) return;
      const command = new this.#sdk.AbortMultipartUploadCommand(upload);
      // When this fails too, `remove` of the location tries again.
      await this.#client.send(command, this.#sending()).catch(() => undefined);
      throw error;
    }
  }

  async #sendParts(
    handle: FileHandle,
    bytes: number,
    upload: { Bucket: string; Key: string; UploadId: string | undefined },
  ): Promise<CompletedPart[]> {
    const partBytes = Math.max(S3_PART_BYTES, Math.ceil(bytes / PARTS_MAX));
    const count = Math.ceil(bytes / partBytes);
    const parts: CompletedPart[] = [];
    let next = 0;
    let failed = false;
    const worker = async () => {
      while (next < count && !failed) {
        const index = next++;
        const from = index * partBytes;
        const body = await this.#readPart(handle, from, Math.min(partBytes, bytes - from));
        const command = new this.#sdk.UploadPartCommand({
          ...upload,
          PartNumber: index + 1,
          Body: body,
          ContentLength: body.length,
        });
        const sent = await this.#run('upload', () => this.#client.send(command, this.#sending()));
        parts[index] = { PartNumber: index + 1, ETag: sent.ETag };
      }
    };
    const workers = Array.from({ length: PART_CONCURRENCY }, () =>
      worker().catch((error) => {
        failed = true;
        throw error;
      }),
    );
    await Promise.allSettled(workers);
    await Promise.all(workers);
    return parts;
  }

  async #readPart(handle: FileHandle, from: number, bytes: number): Promise<Buffer> {
    const hash = createHash('sha256');
    const body = await readFully(handle, from, bytes, (piece) => hash.update(piece));
    this.#digests.set(body, hash.digest('hex'));
    return body;
  }

  async #isThere(target: { Bucket: string; Key: string }, bytes: number): Promise<boolean> {
    try {
      const command = new this.#sdk.HeadObjectCommand(target);
      const found = await this.#client.send(command, this.#sending());
      return found.ContentLength === bytes;
    } catch {
      return false;
    }
  }

  /** What a killed server had begun costs storage and is in no listing of objects. */
  async #abortStrays(key: string): Promise<void> {
    try {
      const list = new this.#sdk.ListMultipartUploadsCommand({
        Bucket: this.#bucket,
        Prefix: key,
        MaxUploads: STRAY_UPLOADS_MAX,
      });
      const found = await this.#client.send(list, this.#sending());
      for (const { Key, UploadId } of found.Uploads ?? []) {
        if (Key !== key) continue;
        const abort = new this.#sdk.AbortMultipartUploadCommand({
          Bucket: this.#bucket,
          Key,
          UploadId,
        });
        await this.#client.send(abort, this.#sending());
      }
    } catch (error) {
      // Not every server or policy allows it; a life cycle rule of the bucket does it as well.
      if (this.#warnedOfStrays) return;
      this.#warnedOfStrays = true;
      const { message } = this.#explain('list uploads', error);
      this.#warn(`Unfinished uploads in s3://${this.#bucket} could not be removed: ${message}`);
    }
  }

  #target(location: string): { Bucket: string; Key: string } {
    checkLocation(location);
    return { Bucket: this.#bucket, Key: this.#prefix + location };
  }

  #name(key: string): string {
    return `s3://${this.#bucket}/${key}`;
  }

  #sending(): { abortSignal: AbortSignal } {
    return { abortSignal: this.#abort.signal };
  }

  async #run<T>(what: string, work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      throw this.#explain(what, error);
    }
  }

  #explain(what: string, error: unknown): LoramuxError {
    if (error instanceof LoramuxError) return error;
    if (this.#abort.signal.aborted) return blobUnavailable('The blob store is closed.', error);
    const { name, message } = error as Error;
    if (name === 'NoSuchKey') return blobMissing(`s3://${this.#bucket} has no such object.`, error);
    return blobUnavailable(
      `Blob ${what} in s3://${this.#bucket} failed: ${name}: ${message}`,
      error,
    );
  }
}
