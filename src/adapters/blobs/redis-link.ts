/** One connection to Redis for large values, made when it is needed and dropped when it is stuck. */
import type { Redis } from 'ioredis';
import { LoramuxError } from '../../errors.ts';
import { blobUnavailable } from './io.ts';

interface Connection {
  readonly redis: Redis;
  /** Settles when it becomes ready or ends; undefined while nobody waits for that. */
  becomingReady: Promise<void> | undefined;
  /** When it last answered anything, milliseconds of the monotonic clock. */
  answeredAt: number;
  lastErrorMessage: string | undefined;
}

export class RedisLink {
  readonly #connect: () => Redis;
  readonly #timeoutMs: number;
  #connection: Connection | undefined;
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
    this.#connection ??= open(this.#connect);
    const connection = this.#connection;
    try {
      const work = whenReady(connection).then(() => run(connection.redis));
      const answer = await this.#unlessSilent(connection, work);
      connection.answeredAt = performance.now();
      return answer;
    } catch (error) {
      // An ended client never connects again.
      if (connection.redis.status === 'end') this.#drop(connection);
      if (error instanceof LoramuxError) throw error;
      throw blobUnavailable(`Redis refused a blob: ${(error as Error).message}`, error);
    }
  }

  /** Commands under way fail. Idempotent. */
  async close(): Promise<void> {
    this.#closed = true;
    if (this.#connection !== undefined) this.#drop(this.#connection);
  }

  #drop(connection: Connection): void {
    if (this.#connection === connection) this.#connection = undefined;
    connection.redis.disconnect();
  }

  /**
   * Fails when Redis was silent for the whole time, measured from the last answer to anybody: behind
   * the chunks of other transfers an answer may take longer. A silent connection is given up, with
   * everything that still waits in it.
   */
  #unlessSilent<T>(connection: Connection, work: Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      const since = performance.now();
      const check = () => {
        const silentMs = performance.now() - Math.max(since, connection.answeredAt);
        if (silentMs < this.#timeoutMs) {
          timer = setTimeout(check, this.#timeoutMs - silentMs);
          return;
        }
        const silent = `Redis gave no answer about a blob for ${this.#timeoutMs} ms.`;
        const ready = connection.redis.status === 'ready';
        reject(ready ? blobUnavailable(silent) : notReachable(connection));
        this.#drop(connection);
      };
      let timer = setTimeout(check, this.#timeoutMs);
      work.then(resolve, reject).finally(() => clearTimeout(timer));
    });
  }
}

function open(connect: () => Redis): Connection {
  const connection: Connection = {
    redis: connect(),
    becomingReady: undefined,
    answeredAt: performance.now(),
    lastErrorMessage: undefined,
  };
  connection.redis.on('error', (error: Error) => {
    connection.lastErrorMessage = error.message;
  });
  return connection;
}

/** With an offline queue the bytes of many chunks would wait in memory, so nothing is queued. */
function whenReady(connection: Connection): Promise<void> {
  if (connection.redis.status === 'ready') return Promise.resolve();
  connection.becomingReady ??= becomeReady(connection).finally(() => {
    connection.becomingReady = undefined;
  });
  return connection.becomingReady;
}

function becomeReady(connection: Connection): Promise<void> {
  const { redis } = connection;
  return new Promise((resolve, reject) => {
    const onReady = () => {
      connection.answeredAt = performance.now();
      redis.off('end', onEnd);
      resolve();
    };
    const onEnd = () => {
      redis.off('ready', onReady);
      reject(notReachable(connection));
    };
    redis.once('ready', onReady);
    redis.once('end', onEnd);
    if (redis.status === 'end') onEnd();
    // Why it fails comes as events.
    else if (redis.status === 'wait') redis.connect().catch(() => undefined);
  });
}

function notReachable({ lastErrorMessage }: Connection): LoramuxError {
  const why = lastErrorMessage === undefined ? '' : ` (${lastErrorMessage})`;
  return blobUnavailable(`Redis cannot be reached for blobs${why}.`);
}
