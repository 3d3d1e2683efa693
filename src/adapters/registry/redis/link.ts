/**
 * The connections to one Redis: one for commands, one for writes that are waited for on replicas,
 * one for change notices. Commands fail at once when Redis is away; connections come back alone.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { Redis, type RedisOptions } from 'ioredis';
import { LoramuxError } from '../../../errors.ts';
import { runScript, type ScriptName, type ScriptResult } from './scripts.ts';

/** Pauses between tries to connect: doubling from the first to the last, with jitter. */
const RECONNECT_FIRST_MS = 50;
const RECONNECT_LAST_MS = 2000;
const RECONNECT_JITTER = 0.25;
/** Pause before a script that may be run twice is tried again. */
const REPEAT_PAUSE_MS = 25;
/** TCP probes, so that a peer that vanished without a word is noticed while idle. */
const KEEP_ALIVE_MS = 15_000;

/**
 * What a failed command means: `not_sent` and `refused` certainly changed nothing (Redis refuses a
 * script before its first write or not at all), `unknown` may have been carried out.
 */
export type FailureKind = 'not_sent' | 'refused' | 'unknown';

export class RedisFailure extends Error {
  readonly kind: FailureKind;

  constructor(kind: FailureKind, message: string, cause: unknown) {
    super(message, { cause });
    this.kind = kind;
  }

  /** Refused for now: loading its data, a failover under way, a script that runs for long. */
  get isPassing(): boolean {
    return (
      this.kind === 'refused' && /^(LOADING|BUSY|READONLY|MASTERDOWN|TRYAGAIN)/.test(this.message)
    );
  }
}

export interface LinkOptions {
  readonly url: string;
  readonly timeoutMs: number;
  /** Use a connection of their own for writes, because WAIT holds up what comes after it. */
  readonly separateWriter: boolean;
  readonly channel: string;
}

export interface LinkListener {
  /** Commands can be sent (again). */
  readonly onUp: () => void;
  readonly onDown: (reason: string) => void;
  readonly onNotice: (message: string) => void;
  /** Notices come (again); what was published before was missed. */
  readonly onNoticesUp: () => void;
}

/** @throws LoramuxError config_invalid; the message does not repeat credentials. */
export function checkRedisUrl(url: string): URL {
  const parsed = URL.canParse(url) ? new URL(url) : undefined;
  const isRedis = parsed !== undefined && ['redis:', 'rediss:'].includes(parsed.protocol);
  if (!isRedis || parsed.hostname === '' || !/^\/?\d*$/.test(parsed.pathname)) {
    throw new LoramuxError(
      'config_invalid',
      'The Redis address must be a URL as redis://HOST:PORT/DB or, with TLS, rediss://HOST:PORT/DB ' +
        '(--redis).',
    );
  }
  return parsed;
}

function redisOptions(timeoutMs: number): Omit<RedisOptions, 'replyMapping'> {
  return {
    enableOfflineQueue: false,
    // The loading state shows as refused commands, which are retried; INFO may be forbidden.
    enableReadyCheck: false,
    autoResubscribe: false,
    autoResendUnfulfilledCommands: false,
    maxRetriesPerRequest: 0,
    commandTimeout: timeoutMs,
    connectTimeout: timeoutMs,
    keepAlive: KEEP_ALIVE_MS,
    lazyConnect: true,
    retryStrategy: (times) => {
      const pause = Math.min(RECONNECT_LAST_MS, RECONNECT_FIRST_MS * 2 ** Math.min(times - 1, 10));
      return Math.round(pause * (1 - RECONNECT_JITTER * Math.random()));
    },
  };
}

export class RedisLink {
  /** Without credentials, for messages. */
  readonly place: string;
  readonly commands: Redis;
  readonly #writer: Redis;
  readonly #subscriber: Redis;
  readonly #options: LinkOptions;
  readonly #blobs = new Set<Redis>();
  #errors = 0;
  #lastError: string | undefined;
  #noticesUp = false;
  #closed = false;

  constructor(options: LinkOptions) {
    const { host, pathname } = checkRedisUrl(options.url);
    this.#options = options;
    this.place = `Redis at ${host}${pathname === '/' ? '' : pathname}`;
    this.commands = this.#connection();
    this.#writer = options.separateWriter ? this.#connection() : this.commands;
    this.#subscriber = this.#connection();
  }

  /** Failed commands so far. */
  get errors(): number {
    return this.#errors;
  }

  get isUp(): boolean {
    return this.commands.status === 'ready';
  }

  /** Change notices arrive. */
  get noticesUp(): boolean {
    return this.#noticesUp;
  }

  /** Starts to connect; goes on until `close`. */
  start(listener: LinkListener): void {
    const { commands } = this;
    const subscriber = this.#subscriber;
    commands.on('ready', () => {
      this.#lastError = undefined;
      listener.onUp();
    });
    commands.on('close', () => {
      if (!this.#closed) listener.onDown(this.downReason());
    });
    subscriber.on('ready', () => {
      subscriber.subscribe(this.#options.channel).then(
        () => {
          this.#noticesUp = true;
          listener.onNoticesUp();
        },
        (error: Error) => this.#remember(error),
      );
    });
    subscriber.on('close', () => {
      this.#noticesUp = false;
    });
    subscriber.on('message', (_channel: string, message: string) => listener.onNotice(message));
    for (const redis of new Set([commands, this.#writer, subscriber])) {
      redis.connect().catch((error: Error) => this.#remember(error));
    }
  }

  downReason(): string {
    return `cannot reach ${this.place}${this.#lastError === undefined ? '' : ` (${this.#lastError})`}`;
  }

  /** @throws RedisFailure. */
  run(
    name: ScriptName,
    keys: readonly string[],
    args: readonly (string | number)[],
  ): Promise<ScriptResult> {
    return this.call((redis) => runScript(redis, name, keys, args));
  }

  /** @throws RedisFailure. */
  call<Result>(command: (redis: Redis) => Promise<Result>): Promise<Result> {
    return this.#call(this.commands, command);
  }

  /** On the connection for writes. @throws RedisFailure. */
  callWriter<Result>(command: (redis: Redis) => Promise<Result>): Promise<Result> {
    return this.#call(this.#writer, command);
  }

  /** True when a write can be sent, at the latest after this time. */
  writerReady(timeoutMs: number): Promise<boolean> {
    return this.#ready(this.#writer, timeoutMs);
  }

  /**
   * Runs a script that may be run twice, again while it is not known whether it ran.
   * @throws RedisFailure of the last try, at the latest after `withinMs`.
   */
  async runRepeatable(
    name: ScriptName,
    keys: readonly string[],
    args: readonly (string | number)[],
    withinMs: number,
  ): Promise<ScriptResult> {
    const deadline = performance.now() + withinMs;
    let wasSent = false;
    for (;;) {
      try {
        return await this.run(name, keys, args);
      } catch (error) {
        const failure = error as RedisFailure;
        wasSent ||= failure.kind === 'unknown';
        if (!wasSent || (failure.kind === 'refused' && !failure.isPassing)) throw failure;
        const leftMs = deadline - performance.now();
        await sleep(Math.min(REPEAT_PAUSE_MS, Math.max(0, leftMs)));
        if (!(await this.#ready(this.commands, leftMs - REPEAT_PAUSE_MS))) throw failure;
      }
    }
  }

  /** Gives up connections that do not answer and makes new ones. */
  reconnect(): void {
    for (const redis of new Set([this.commands, this.#writer])) {
      if (redis.status === 'ready') redis.disconnect(true);
    }
  }

  /** Notices whether the connection for notices is dead without having been closed. */
  async checkNotices(): Promise<void> {
    const subscriber = this.#subscriber;
    if (subscriber.status !== 'ready') return;
    try {
      if (this.#noticesUp) await subscriber.ping();
      else subscriber.disconnect(true);
    } catch {
      if (!this.#closed && subscriber.status === 'ready') subscriber.disconnect(true);
    }
  }

  /**
   * A further connection, for transfers that must not delay commands: not connected yet, without a
   * queue while it is away, and without a time limit per command, since a command may wait behind
   * the bytes of many others. Ended by `close`, or by whoever got it.
   */
  openBlobConnection(): Redis {
    const { commandTimeout: _, ...options } = redisOptions(this.#options.timeoutMs);
    const redis = new Redis(this.#options.url, options);
    this.#watch(redis);
    this.#blobs.add(redis);
    redis.once('end', () => this.#blobs.delete(redis));
    return redis;
  }

  async #ready(redis: Redis, timeoutMs: number): Promise<boolean> {
    if (this.#closed || timeoutMs <= 0) return false;
    if (redis.status === 'ready') return true;
    return new Promise<boolean>((resolve) => {
      const done = (ready: boolean) => () => {
        clearTimeout(timer);
        redis.off('ready', onReady);
        redis.off('end', onEnd);
        resolve(ready);
      };
      const onReady = done(true);
      const onEnd = done(false);
      const timer = setTimeout(done(false), timeoutMs);
      redis.once('ready', onReady);
      redis.once('end', onEnd);
    });
  }

  close(): void {
    this.#closed = true;
    for (const redis of [this.commands, this.#writer, this.#subscriber, ...this.#blobs]) {
      redis.disconnect();
    }
  }

  #connection(): Redis {
    const redis = new Redis(this.#options.url, redisOptions(this.#options.timeoutMs));
    this.#watch(redis);
    return redis;
  }

  #watch(redis: Redis): void {
    redis.on('error', (error: Error) => this.#remember(error));
  }

  #remember(error: Error): void {
    const { code } = error as NodeJS.ErrnoException;
    this.#lastError = error.message === '' ? (code ?? 'connection failed') : error.message;
  }

  async #call<Result>(redis: Redis, command: (redis: Redis) => Promise<Result>): Promise<Result> {
    if (redis.status !== 'ready') {
      this.#errors++;
      throw new RedisFailure('not_sent', this.downReason(), undefined);
    }
    try {
      return await command(redis);
    } catch (error) {
      this.#errors++;
      throw this.#failure(error as Error);
    }
  }

  #failure(error: Error): RedisFailure {
    if (error.name === 'ReplyError') {
      if (error.message.startsWith('READONLY')) this.reconnect();
      return new RedisFailure('refused', error.message, error);
    }
    if (error.message.startsWith("Stream isn't writeable")) {
      return new RedisFailure('not_sent', this.downReason(), error);
    }
    const message =
      error.message === 'Command timed out'
        ? `${this.place} did not answer within ${this.#options.timeoutMs} ms`
        : `the connection to ${this.place} was lost`;
    return new RedisFailure('unknown', message, error);
  }
}
