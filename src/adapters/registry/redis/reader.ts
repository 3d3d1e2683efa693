/** Readings of the registry: what changed since a position, or everything. */
import type { VersionedEntry } from '../types.ts';
import {
  decodeStored,
  encodeForRedis,
  expectStatus,
  integer,
  isDamaged,
  type StoredName,
  storedName,
  text,
} from './decode.ts';
import type { RedisKeys } from './keys.ts';
import type { RedisLink } from './link.ts';
import type { Changes, DamagedName, KnownRegistry, Position } from './view.ts';

/** Names, and removals, of one answer. */
const PAGE_NAMES_MAX = 128;
/** Bytes of entries after which an answer ends. */
const PAGE_BYTES_MAX = 1024 * 1024;
/** Times a complete reading begins again because what was removed meanwhile is forgotten already. */
const READINGS_MAX = 3;

/**
 * How the history that Redis has relates to what was known: `same` continues it, `other` lost
 * changes or took another turn (a failover, a restored backup), `unknown` cannot be told.
 */
export type History = 'same' | 'other' | 'unknown';

export interface Reading extends Changes {
  readonly history: History;
  /** Names that Redis counts. */
  readonly names: number;
}

interface Page {
  readonly position: Position;
  readonly names: number;
  /** Removals up to this revision are forgotten. */
  readonly floor: number;
  readonly history: History;
  readonly more: boolean;
  readonly changed: readonly StoredName[];
  readonly removed: readonly { readonly name: string; readonly revision: number }[];
}

const HISTORIES: Readonly<Record<string, History>> = { 1: 'same', 0: 'other', '?': 'unknown' };

export class RegistryReader {
  readonly #link: RedisLink;
  readonly #keys: RedisKeys;
  readonly #known: KnownRegistry;
  readonly #onWarning: (message: string) => void;

  constructor(
    link: RedisLink,
    keys: RedisKeys,
    known: KnownRegistry,
    onWarning: (message: string) => void,
  ) {
    this.#link = link;
    this.#keys = keys;
    this.#known = known;
    this.#onWarning = onWarning;
  }

  /**
   * Changes since what is known; undefined when only a complete reading can tell.
   * @throws RedisFailure, Unusable.
   */
  async delta(): Promise<Reading | undefined> {
    const { position } = this.#known;
    const since = position.revision;
    const reading = await this.#collect(since, since, position, true);
    const isWhole = reading.history === 'same' && since >= reading.floor;
    return isWhole ? reading : undefined;
  }

  /** Everything. What Redis lost of it (an evicted key) is put back. @throws as `delta`. */
  async complete(): Promise<Reading> {
    for (let tries = 1; ; tries++) {
      const reading = await this.#collect(0, undefined, this.#known.position, true);
      const found = reading.changed.length + reading.damaged.length;
      if (found === reading.names) return this.#healed(reading);
      if (tries === READINGS_MAX) {
        throw new Error(`read ${found} of ${reading.names} names; others change them too quickly`);
      }
    }
  }

  /**
   * Whether every name is in Redis as it is known, without reading the entries.
   * @throws as `delta`.
   */
  async verify(): Promise<boolean> {
    const { position } = this.#known;
    const reading = await this.#collect(0, position.revision, position, false);
    return reading.history === 'same' && reading.names === this.#known.size && reading.agrees;
  }

  /** One name as it is now. @throws RedisFailure, Unusable. */
  async name(name: string): Promise<VersionedEntry | DamagedName | undefined> {
    const { meta, index, names, root } = this.#keys;
    const keys = [meta, index, names + name];
    const result = await this.#link.run('read', keys, [this.#known.id ?? '', name]);
    const { status, rest } = expectStatus(result, root, 'name', 'none');
    if (status === 'none') return undefined;
    const stored = storedName(rest);
    if (stored.keyType !== 'none') return decodeStored(stored);
    return (await this.#restore(stored.name, stored.revision)) ?? decodeStored(stored);
  }

  async #collect(
    after: number,
    removedAfter: number | undefined,
    known: Position,
    withEntries: boolean,
  ): Promise<Reading & { readonly floor: number; readonly agrees: boolean }> {
    const found = new Map<string, StoredName>();
    const removed = new Map<string, number>();
    let cursor = after;
    let removedCursor = removedAfter;
    let history: History | undefined;
    for (;;) {
      const page = await this.#page(cursor, removedCursor, known, withEntries);
      history ??= page.history;
      // What is removed while a complete reading goes on counts from its first page.
      removedCursor ??= page.position.revision;
      for (const stored of page.changed) {
        found.set(stored.name, stored);
        cursor = Math.max(cursor, stored.revision);
      }
      for (const { name, revision } of page.removed) {
        removed.set(name, revision);
        removedCursor = Math.max(removedCursor, revision);
      }
      if (!page.more) return this.#reading(page, history, found, removed, withEntries);
    }
  }

  #reading(
    last: Page,
    history: History,
    found: ReadonlyMap<string, StoredName>,
    removals: ReadonlyMap<string, number>,
    withEntries: boolean,
  ): Reading & { readonly floor: number; readonly agrees: boolean } {
    const changed: VersionedEntry[] = [];
    const damaged: DamagedName[] = [];
    let agrees = true;
    for (const stored of found.values()) {
      if ((removals.get(stored.name) ?? 0) > stored.revision) continue;
      const known = this.#known.entries.get(stored.name);
      const isKnown =
        stored.keyType === 'hash' &&
        known?.revision === stored.revision &&
        known.changeId === stored.changeId;
      agrees &&= isKnown || isSameDamage(stored, this.#known.damaged.get(stored.name));
      if (!withEntries) continue;
      const result = decodeStored(stored);
      if (isDamaged(result)) damaged.push(result);
      // The same object for the same change, so that nobody mistakes it for a new one.
      else changed.push(isKnown ? known : result);
    }
    const removed = [...removals]
      .filter(([name, revision]) => (found.get(name)?.revision ?? 0) < revision)
      .map(([name, revision]) => ({ name, revision }));
    const { position, names, floor } = last;
    return { position, names, floor, history, changed, removed, damaged, agrees };
  }

  async #page(
    after: number,
    removedAfter: number | undefined,
    known: Position,
    withEntries: boolean,
  ): Promise<Page> {
    const { meta, index, removed, log, names, root } = this.#keys;
    const result = await this.#link.run(
      'page',
      [meta, index, removed, log],
      [
        ...[this.#known.id ?? '', known.revision, known.changeId],
        ...[after, removedAfter ?? '+inf', PAGE_NAMES_MAX, PAGE_BYTES_MAX],
        ...[withEntries ? 1 : 0, names],
      ],
    );
    const { rest } = expectStatus(result, root, 'ok');
    const gone = rest[7] as unknown[];
    return {
      position: { revision: integer(rest[0]), changeId: text(rest[1]) },
      names: integer(rest[2]),
      floor: integer(rest[3]),
      history: HISTORIES[text(rest[4])] ?? 'unknown',
      more: rest[5] === '1',
      changed: (rest[6] as unknown[]).map(storedName),
      removed: gone.flatMap((name, i) =>
        i % 2 === 0 ? [{ name: text(name), revision: integer(gone[i + 1]) }] : [],
      ),
    };
  }

  /** Puts back names whose keys are gone, where what is known is certainly what was there. */
  async #healed(reading: Reading): Promise<Reading> {
    if (reading.damaged.length === 0) return reading;
    const changed = [...reading.changed];
    const damaged: DamagedName[] = [];
    for (const name of reading.damaged) {
      const isGone = name.keyType === 'none';
      const restored = isGone ? await this.#restore(name.name, name.revision) : undefined;
      if (restored === undefined) damaged.push(name);
      else changed.push(restored);
    }
    return { ...reading, changed, damaged };
  }

  /** The known entry of this revision, written again; undefined when that is not possible. */
  async #restore(name: string, revision: number): Promise<VersionedEntry | undefined> {
    const known = this.#known.entries.get(name);
    if (known === undefined || known.revision !== revision) return undefined;
    const { meta, index, log, names, root } = this.#keys;
    const { text: entry, digests } = encodeForRedis(known.entry);
    const { id = '', position } = this.#known;
    const result = await this.#link.run(
      'restore',
      [meta, index, names + name, log],
      [id, name, revision, known.changeId, digests, entry, position.revision, position.changeId],
    );
    const { status } = expectStatus(result, root, 'restored', 'changed');
    if (status !== 'restored') return undefined;
    this.#onWarning(
      `Redis had lost the entry of adapter ${JSON.stringify(name)} (evicted, or deleted by ` +
        'somebody); it was written again. Set maxmemory-policy noeviction.',
    );
    return known;
  }
}

/** Whether a name that was found damaged looks as it did then; another replica may have healed it. */
function isSameDamage(stored: StoredName, damaged: DamagedName | undefined): boolean {
  return (
    damaged !== undefined &&
    damaged.keyType === stored.keyType &&
    damaged.changeId === stored.changeId &&
    damaged.revision === stored.revision
  );
}
