/**
 * Blobs in Redis, for fleets without another place: chunks as string keys beside a manifest.
 *
 *     <prefix>:blob:<location>        {"version":1,"bytes":N,"chunkBytes":M}, written last
 *     <prefix>:blob:<location>:<i>    bytes [i*M, (i+1)*M)
 *
 * Chunks expire until the upload is complete, so that what a killed server left behind goes even
 * when its removal came too early. A connection of its own keeps them out of the way of the
 * registry's commands.
 */
import type { Redis } from 'ioredis';
import { isJsonObject, type JsonValue, parseJsonBytes } from '../../importer/json.ts';
import {
  blobMissing,
  blobUnavailable,
  checkLocation,
  openForUpload,
  readFully,
  writeNewFile,
} from './io.ts';
import { RedisLink } from './redis-link.ts';
import type { BlobStore } from './types.ts';

// A little less than 1 MiB: with its header a string of exactly that takes 1.25 MiB in Redis.
export const REDIS_CHUNK_BYTES = 1024 * 1023;
/** Chunks of one transfer that may be under way: more would only hold up the event loop. */
const WINDOW_CHUNKS = 2;
const MANIFEST_VERSION = 1;
const MANIFEST_BYTES_MAX = 1024;
/** Keys of one UNLINK or batch of PERSIST. */
const KEY_BATCH = 256;
/** Lifetime of the chunks of an upload that does not complete, milliseconds. */
const INCOMPLETE_TTL_MS = 24 * 3_600_000;
const DEFAULT_TIMEOUT_MS = 10_000;
/** PTTL of a key that is there and does not expire. */
const PTTL_NEVER = -1;

export interface RedisBlobsOptions {
  /** A new client; used for blobs only, and ended by `close`. */
  readonly connect: () => Redis;
  /** Begins every key, with the hash tag that puts them in one slot of a cluster. */
  readonly keyPrefix: string;
  readonly maxBlobBytes: number;
  /** Redis must answer something within this time, milliseconds. */
  readonly timeoutMs?: number | undefined;
}

interface Manifest {
  readonly bytes: number;
  readonly chunkBytes: number;
}

export class RedisBlobs implements BlobStore {
  readonly kind = 'redis';
  readonly maxBlobBytes: number;
  readonly #prefix: string;
  readonly #link: RedisLink;

  constructor(options: RedisBlobsOptions) {
    this.maxBlobBytes = options.maxBlobBytes;
    this.#prefix = options.keyPrefix;
    this.#link = new RedisLink(options.connect, options.timeoutMs ?? DEFAULT_TIMEOUT_MS);
  }

  async upload(file: string, location: string): Promise<void> {
    checkLocation(location);
    const { handle, bytes } = await openForUpload(file, this.maxBlobBytes);
    try {
      const count = Math.ceil(bytes / REDIS_CHUNK_BYTES);
      await this.#inWindow(count, async (index) => {
        const from = index * REDIS_CHUNK_BYTES;
        const chunk = await readFully(handle, from, Math.min(REDIS_CHUNK_BYTES, bytes - from));
        return () =>
          this.#link.send((redis) =>
            redis.set(this.#chunkKey(location, index), chunk, 'PX', INCOMPLETE_TTL_MS),
          );
      });
      await this.#persist(location, count);
      const manifest = { version: MANIFEST_VERSION, bytes, chunkBytes: REDIS_CHUNK_BYTES };
      await this.#link.send((redis) =>
        redis.set(this.#manifestKey(location), JSON.stringify(manifest)),
      );
    } finally {
      await handle.close();
    }
  }

  async download(location: string, target: string, fileBytes: number): Promise<void> {
    checkLocation(location);
    const manifest = await this.#manifest(location);
    if (manifest === undefined) throw blobMissing(`Redis has no complete blob ${location}.`);
    if (manifest.bytes !== fileBytes) {
      throw blobMissing(
        `The blob ${location} in Redis has ${manifest.bytes} bytes, not ${fileBytes}.`,
      );
    }
    await writeNewFile(target, this.#chunks(location, manifest));
  }

  async remove(location: string): Promise<void> {
    checkLocation(location);
    const manifest = await this.#manifest(location);
    const expected = Math.ceil(
      (manifest?.bytes ?? this.maxBlobBytes) / (manifest?.chunkBytes ?? REDIS_CHUNK_BYTES),
    );
    // Beyond what is expected, for as long as a server with a larger limit has left something.
    for (let first = 0, removed = 1; first < expected || removed > 0; first += KEY_BATCH) {
      const keys = Array.from({ length: KEY_BATCH }, (_, i) => this.#chunkKey(location, first + i));
      removed = await this.#link.send((redis) => redis.unlink(...keys));
    }
    await this.#link.send((redis) => redis.unlink(this.#manifestKey(location)));
  }

  close(): Promise<void> {
    return this.#link.close();
  }

  /** Undefined when there is none that can be read. */
  async #manifest(location: string): Promise<Manifest | undefined> {
    const bytes = await this.#get(this.#manifestKey(location));
    if (bytes === undefined || bytes.length > MANIFEST_BYTES_MAX) return undefined;
    let json: JsonValue;
    try {
      json = parseJsonBytes(bytes);
    } catch {
      return undefined;
    }
    if (!isJsonObject(json) || json.version !== MANIFEST_VERSION) return undefined;
    const { bytes: size, chunkBytes } = json;
    const valid = (value: unknown, least: number): value is number =>
      Number.isSafeInteger(value) && (value as number) >= least;
    return valid(size, 0) && valid(chunkBytes, 1) ? { bytes: size, chunkBytes } : undefined;
  }

  async *#chunks(location: string, manifest: Manifest): AsyncGenerator<Uint8Array> {
    const { bytes, chunkBytes } = manifest;
    const count = Math.ceil(bytes / chunkBytes);
    const under: Promise<Buffer | undefined>[] = [];
    const ask = (index: number) => {
      const answer = this.#get(this.#chunkKey(location, index));
      // The first failure ends the transfer; the others must not count as unhandled.
      answer.catch(() => undefined);
      under.push(answer);
    };
    for (let index = 0; index < Math.min(WINDOW_CHUNKS, count); index++) ask(index);
    for (let index = 0; index < count; index++) {
      const chunk = await under.shift();
      const expected = Math.min(chunkBytes, bytes - index * chunkBytes);
      if (chunk?.length !== expected) {
        throw blobMissing(
          `Chunk ${index} of the blob ${location} in Redis ` +
            (chunk === undefined ? 'is missing.' : `has ${chunk.length} bytes, not ${expected}.`),
        );
      }
      if (index + WINDOW_CHUNKS < count) ask(index + WINDOW_CHUNKS);
      yield chunk;
    }
  }

  /** Undefined for no key and for a key of another type: neither is a part of a blob. */
  #get(key: string): Promise<Buffer | undefined> {
    return this.#link.send(async (redis) => {
      try {
        return (await redis.getBuffer(key)) ?? undefined;
      } catch (error) {
        if ((error as Error).message.startsWith('WRONGTYPE')) return undefined;
        throw error;
      }
    });
  }

  /** @throws LoramuxError blob_unavailable when Redis lost a chunk meanwhile. */
  async #persist(location: string, count: number): Promise<void> {
    for (let first = 0; first < count; first += KEY_BATCH) {
      const size = Math.min(KEY_BATCH, count - first);
      const keys = Array.from({ length: size }, (_, i) => this.#chunkKey(location, first + i));
      await this.#link.send((redis) => Promise.all(keys.map((key) => redis.persist(key))));
      // Asked apart, because PERSIST answers the same for a lost key and when it is sent twice.
      const lives = await this.#link.send((redis) =>
        Promise.all(keys.map((key) => redis.pttl(key))),
      );
      if (lives.every((life) => life === PTTL_NEVER)) continue;
      throw blobUnavailable(
        `Redis lost a part of the blob ${location} while it was stored; is its memory full?`,
      );
    }
  }

  /** Runs `count` prepared commands in order, at most WINDOW_CHUNKS of them unanswered. */
  async #inWindow(
    count: number,
    prepare: (index: number) => Promise<() => Promise<unknown>>,
  ): Promise<void> {
    const under: Promise<unknown>[] = [];
    try {
      for (let index = 0; index < count; index++) {
        const send = await prepare(index);
        if (under.length === WINDOW_CHUNKS) await under.shift();
        const answer = send();
        answer.catch(() => undefined);
        under.push(answer);
      }
    } finally {
      await Promise.allSettled(under);
    }
    await Promise.all(under);
  }

  #manifestKey(location: string): string {
    return `${this.#prefix}:blob:${location}`;
  }

  #chunkKey(location: string, index: number): string {
    return `${this.#prefix}:blob:${location}:${index}`;
  }
}
