/** One connection to Redis for large values, made when it is needed and dropped when it is stuck. */
import type { Redis } from 'ioredis';
import { LoramuxError } from '../../errors.ts';
import { blobUnavailable } from './io.ts';

export class RedisLink {
  readonly #connect: () => Redis;
  readonly #timeoutMs: number;
  #redis: Redis | undefined;
  #becomingReady: Promise<void> | undefined;
  #lastErrorMessage: string | undefined;
  /** When the connection last answered anything, milliseconds of the monotonic clock. */
  #answeredAt = 0;
  #closed = false;

  /** @param timeoutMs longest silence of Redis while something is asked of it. */
  constructor(connect: () => Redis, timeoutMs: number) {
    this.#connect = connect;
    this.#timeoutMs = timeoutMs;
  }

  /**
   * Runs commands on the connection, which is ready by then.
   * @throws LoramuxError blob_unavailable with Redis' own words.
   */
  async send<T>(run: (redis: Redis) => Promise<T>): Promise<T> {
    if (this.#closed) throw blobUnavailable('The blob store is closed.');
    this.#redis ??= this.#open();
    const redis = this.#redis;
    try {
      const answer = await this.#unlessSilent(
        redis,
        this.#whenReady(redis).then(() => run(redis)),
      );
      this.#answeredAt = performance.now();
      return answer;
    } catch (error) {
      if (error instanceof LoramuxError) throw error;
      throw blobUnavailable(`Redis refused a blob: ${(error as Error).message}`, error);
    }
  }

  /** Commands under way fail. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#drop(this.#redis);
  }

  #open(): Redis {
    const redis = this.#connect();
    redis.on('error', (error: Error) => {
      this.#lastErrorMessage = error.message;
    });
    this.#answeredAt = performance.now();
    return redis;
  }

  #drop(redis: Redis | undefined): void {
    if (redis === undefined) return;
    if (this.#redis === redis) this.#redis = undefined;
    redis.disconnect();
  }

  /** With an offline queue the bytes of many chunks would wait in memory, so nothing is queued. */
  #whenReady(redis: Redis): Promise<void> {
    if (redis.status === 'ready') return Promise.resolve();
    this.#becomingReady ??= this.#becomeReady(redis).finally(() => {
      this.#becomingReady = undefined;
    });
    return this.#becomingReady;
  }

  #becomeReady(redis: Redis): Promise<void> {
    return new Promise((resolve, reject) => {
      const onReady = () => {
        this.#answeredAt = performance.now();
        redis.off('end', onEnd);
        resolve();
      };
      const onEnd = () => {
        redis.off('ready', onReady);
        reject(this.#notReachable());
      };
      redis.once('ready', onReady);
      redis.once('end', onEnd);
      if (redis.status === 'end') onEnd();
      else if (redis.status === 'wait') redis.connect().catch(() => undefined);
    });
  }

  /**
   * Fails when Redis was silent for the whole time, measured from the last answer to anybody: behind
   * the chunks of other transfers an answer may take longer. A silent connection is given up, with
   * everything that still waits in it.
   */
  #unlessSilent<T>(redis: Redis, work: Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      const since = performance.now();
      const check = () => {
        const silentMs = performance.now() - Math.max(since, this.#answeredAt);
        if (silentMs < this.#timeoutMs) {
          timer = setTimeout(check, this.#timeoutMs - silentMs);
          return;
        }
        reject(redis.status === 'ready' ? this.#silent() : this.#notReachable());
        this.#drop(redis);
      };
      let timer = setTimeout(check, this.#timeoutMs);
      work.then(resolve, reject).finally(() => clearTimeout(timer));
    });
  }

  #silent(): LoramuxError {
    return blobUnavailable(`Redis gave no answer about a blob for ${this.#timeoutMs} ms.`);
  }

  #notReachable(): LoramuxError {
    const why = this.#lastErrorMessage === undefined ? '' : ` (${this.#lastErrorMessage})`;
    return blobUnavailable(`Redis cannot be reached for blobs${why}.`);
  }
}
