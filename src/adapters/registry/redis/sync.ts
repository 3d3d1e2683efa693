/**
 * Keeps what is known equal to Redis: readings on notices, from time to time and after every
 * reconnection. No own write runs during a reading, so that a reading which began before a write
 * never overwrites what the write told.
 */
import { randomUUID } from 'node:crypto';
import type { RegistryListener } from '../types.ts';
import { expectStatus, text, Unusable } from './decode.ts';
import type { RedisKeys } from './keys.ts';
import { RedisFailure, type RedisLink } from './link.ts';
import type { Reading, RegistryReader } from './reader.ts';
import type { StatusBoard } from './status-board.ts';
import { Turns } from './turns.ts';
import { type Changes, deltaOf, type KnownRegistry, START } from './view.ts';

/** Every so many periodic readings compare all names, for what changes without a notice. */
const VERIFY_EVERY = 30;

export interface SyncOptions {
  readonly link: RedisLink;
  readonly keys: RedisKeys;
  readonly known: KnownRegistry;
  readonly reader: RegistryReader;
  readonly board: StatusBoard;
  readonly listener: RegistryListener;
  readonly schemaVersion: number;
  readonly reconcileMs: number;
  readonly now: () => number;
  readonly onWarning: (message: string) => void;
  /** A registry was met for the first time by this process. */
  readonly onMet: (id: string) => Promise<void>;
  /** What is known changed. */
  readonly onChanged: () => void;
  /** From time to time, while Redis answers. */
  readonly onRound: () => void;
}

type Kind = 'delta' | 'verify' | 'complete';
const THOROUGH: readonly Kind[] = ['delta', 'verify', 'complete'];

export class RegistrySync {
  readonly #options: SyncOptions;
  readonly #turns = new Turns();
  #wanted: { kind: Kind; revision: number } | undefined;
  #pumping = false;
  #timer: NodeJS.Timeout | undefined;
  #rounds = 0;
  #lastFailure: Error | undefined;
  #closed = false;

  constructor(options: SyncOptions) {
    this.#options = options;
  }

  /** Why the last reading failed. */
  get lastFailure(): Error | undefined {
    return this.#lastFailure;
  }

  /** Runs an own write. Others may run at the same time, but no reading. */
  whileNotReading<Result>(write: () => Promise<Result>): Promise<Result> {
    return this.#turns.shared(write);
  }

  /** Runs while nothing is read or written. */
  alone<Result>(work: () => Promise<Result>): Promise<Result> {
    return this.#turns.exclusive(work);
  }

  /** Begins the periodic readings. */
  start(): void {
    this.#timer = setTimeout(() => {
      void this.#round().finally(() => {
        if (!this.#closed) this.start();
      });
    }, this.#options.reconcileMs).unref();
  }

  /** A change of this revision was published. */
  noticed(id: string, revision: number): void {
    const { known, board } = this.#options;
    if (id !== known.id) return;
    board.events++;
    if (revision > known.position.revision) this.request('delta', revision);
  }

  /**
   * Reads soon; requests that come meanwhile become one. A failure shows in the state.
   * @param revision the reading may be left out when this one is known by then.
   */
  request(kind: Kind, revision = Number.POSITIVE_INFINITY): void {
    const before = this.#wanted;
    const rank = Math.max(THOROUGH.indexOf(kind), THOROUGH.indexOf(before?.kind ?? 'delta'));
    this.#wanted = {
      kind: THOROUGH[rank] ?? 'complete',
      revision: Math.max(revision, before?.revision ?? 0),
    };
    if (!this.#pumping) void this.#pump();
  }

  /** Everything, now. @throws RedisFailure, Unusable, which also show in the state. */
  readAll(): Promise<void> {
    return this.alone(() => this.#attempt('complete'));
  }

  async #attempt(kind: Kind): Promise<void> {
    const { board } = this.#options;
    try {
      await this.#read(board.state === 'ok' ? kind : 'complete');
    } catch (error) {
      this.#failed(error as Error);
      throw error;
    }
  }

  /** Applies changes and tells them. Only during a turn. */
  apply(changes: Changes): void {
    const { known, listener, onChanged } = this.#options;
    const isNews =
      changes.position.revision !== known.position.revision ||
      changes.changed.length + changes.removed.length + changes.damaged.length > 0;
    if (!isNews) return;
    known.apply(changes);
    listener.onDelta(deltaOf(changes));
    onChanged();
  }

  /** Resolves when what runs has ended; nothing begins any more. */
  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    await this.#turns.idle();
  }

  async #pump(): Promise<void> {
    this.#pumping = true;
    while (this.#wanted !== undefined && !this.#closed) {
      await this.alone(async () => {
        const wanted = this.#wanted;
        this.#wanted = undefined;
        if (wanted === undefined || this.#closed) return;
        const isKnown = wanted.revision <= this.#options.known.position.revision;
        if (wanted.kind !== 'delta' || !isKnown) await this.#attempt(wanted.kind);
      }).catch(() => undefined);
    }
    this.#pumping = false;
  }

  async #round(): Promise<void> {
    const { link } = this.#options;
    if (!link.isUp) return;
    this.#rounds++;
    const kind = this.#rounds % VERIFY_EVERY === 0 ? 'verify' : 'delta';
    await this.alone(() => this.#attempt(kind)).catch(() => undefined);
    await link.checkNotices();
    this.#options.onRound();
  }

  async #read(kind: Kind): Promise<void> {
    const { known, board, now } = this.#options;
    const began = now();
    if (known.id === undefined) await this.#meet();
    try {
      await this.#readKnown(kind);
    } catch (error) {
      // Nothing is lost with a registry of which nothing was known.
      if (!(error instanceof Unusable) || !error.isLoss || !known.isEmpty) throw error;
      known.id = undefined;
      known.position = START;
      await this.#meet();
      await this.#readKnown('complete');
    }
    board.reconciles++;
    board.complete(began);
    board.set('ok', undefined);
  }

  async #readKnown(kind: Kind): Promise<void> {
    const { known, reader } = this.#options;
    if (kind !== 'complete') {
      const reading = await reader.delta();
      if (reading !== undefined) {
        this.apply(reading);
        const isWhole = known.size === reading.names;
        if (isWhole && (kind === 'delta' || (await reader.verify()))) return;
      }
    }
    this.#replace(await reader.complete());
  }

  #replace(reading: Reading): void {
    const { known, listener, onWarning, onChanged } = this.#options;
    const { newestTold } = known;
    if (reading.history === 'other' && newestTold > 0) {
      onWarning(
        `Redis lost changes of the adapter registry: it is at revision ${reading.position.revision}, ` +
          `and revision ${known.position.revision}, which was known here, is not in its history (a ` +
          'failover or a restored backup). What Redis has now holds.',
      );
    }
    known.replace(reading.position, reading.changed, reading.damaged);
    listener.onSnapshot(known.snapshot(), newestTold);
    onChanged();
  }

  /** Opens the registry in Redis, or creates it where there is none. */
  async #meet(): Promise<void> {
    const { link, keys, schemaVersion, known, onMet } = this.#options;
    const newId = randomUUID().replaceAll('-', '');
    const result = await link.run('open', [keys.meta, keys.index], [schemaVersion, newId]);
    const { rest } = expectStatus(result, keys.root, 'ok');
    const id = text(rest[0]);
    await onMet(id);
    known.id = id;
  }

  #failed(error: Error): void {
    const { board, link } = this.#options;
    if (this.#closed) return;
    this.#lastFailure = error;
    if (error instanceof Unusable && error.isLoss) {
      board.set('lost', error.message);
      return;
    }
    board.away(error.message);
    // A connection that does not answer may be dead; a new one is.
    if (error instanceof RedisFailure && error.kind === 'unknown') link.reconnect();
  }
}
