/** What Redis answers, believed only as far as it can be checked. */
import { createHash } from 'node:crypto';
import { checkVersion, decodeEntry, encodeEntry } from '../entry-codec.ts';
import type { NameEntry, VersionedEntry } from '../types.ts';
import type { DamagedName } from './view.ts';

/** An entry as it is stored. */
export interface EncodedEntry {
  readonly text: string;
  /** Separated by spaces. */
  readonly digests: string;
}

/** @throws Error that says why the entry cannot be stored. */
export function encodeForRedis(entry: NameEntry): EncodedEntry {
  const digests = entry.generations.map(({ digest }) => digest).join(' ');
  return { text: encodeEntry(entry), digests };
}

/** One name as `page.lua` and `read.lua` answer it. */
export interface StoredName {
  readonly name: string;
  readonly revision: number;
  readonly keyType: string;
  readonly changeId: string;
  /** Null: the field is missing, or was not asked for (`entry`). */
  readonly fields: readonly (string | null)[];
}

/** @throws Error when the script answered something else. */
export function storedName(raw: unknown): StoredName {
  if (!Array.isArray(raw) || raw.length !== 8)
    throw new Error('a name is not as scripts answer it');
  const [name, revision, keyType, ...fields] = raw as unknown[];
  return {
    name: text(name),
    revision: integer(revision),
    keyType: text(keyType),
    changeId: typeof fields[1] === 'string' ? fields[1] : '',
    fields: fields.map((field) => (typeof field === 'string' ? field : null)),
  };
}

/** Decides between a sound entry and a damaged name; needs the entry. */
export function decodeStored(stored: StoredName): VersionedEntry | DamagedName {
  const { name, revision, keyType, changeId, fields } = stored;
  const damaged = (reason: string): DamagedName => ({ name, reason, changeId, keyType, revision });
  if (keyType === 'none') return damaged('its key is gone from Redis: evicted, or deleted');
  if (keyType !== 'hash') {
    return damaged(`its key in Redis holds a ${keyType}: another program wrote it`);
  }
  const [storedRevision, storedChangeId, digests, sum, entryText] = fields;
  if (!storedRevision || !storedChangeId || digests == null || !sum || !entryText) {
    return damaged('its key in Redis lacks a field');
  }
  if (storedRevision !== String(revision)) {
    return damaged('its key in Redis is of another revision than the index says');
  }
  const content = [name, storedRevision, storedChangeId, digests, entryText].join('\n');
  if (createHash('sha1').update(content).digest('hex') !== sum) {
    return damaged('its key in Redis does not match its checksum');
  }
  try {
    checkVersion(revision, storedChangeId);
    const entry = decodeEntry(entryText, name);
    return Object.freeze({ revision, changeId: storedChangeId, entry });
  } catch (error) {
    return damaged((error as Error).message);
  }
}

export function isDamaged(result: VersionedEntry | DamagedName): result is DamagedName {
  return 'reason' in result;
}

export function text(value: unknown): string {
  if (typeof value !== 'string') throw new Error(`expected a string, not ${typeof value}`);
  return value;
}

export function integer(value: unknown): number {
  const number = typeof value === 'string' ? Number(value) : value;
  if (typeof number !== 'number' || !Number.isSafeInteger(number)) {
    throw new Error('expected a whole number');
  }
  return number;
}

/** A script could not use the registry as it is; see `head` in common.lua. */
export class Unusable extends Error {
  /** The registry that was known is gone or damaged, as opposed to one helper key. */
  readonly isLoss: boolean;
  readonly status: string;

  constructor(status: string, isLoss: boolean, message: string) {
    super(message);
    this.status = status;
    this.isLoss = isLoss;
  }
}

/**
 * The result of a script without its status, if that is one of `expected`.
 * @throws Unusable for the results of `head`.
 */
export function expectStatus(
  result: readonly unknown[],
  root: string,
  ...expected: readonly string[]
): { readonly status: string; readonly rest: readonly unknown[] } {
  const status = text(result[0]);
  if (expected.includes(status)) return { status, rest: result.slice(1) };
  const detail = result.slice(1).map(String);
  const isHead = detail[0] === `${root}:meta` || detail[0] === `${root}:index`;
  const isLoss = status !== 'damaged' || isHead;
  throw new Unusable(status, isLoss, unusableMessage(status, detail, root));
}

function unusableMessage(status: string, detail: readonly string[], root: string): string {
  switch (status) {
    case 'absent':
      return `Redis has no registry at ${root} any more: it was flushed, or restarted without its data`;
    case 'headless':
      return `Redis lost ${root}:meta: evicted, or deleted`;
    case 'other':
      return `Redis has another registry at ${root} than the one that was known (${detail[0]})`;
    case 'damaged':
      return (
        `the key ${detail[0]} in Redis holds something else (${detail[1]}): another program wrote ` +
        'it; restore it or delete it'
      );
    case 'index_gone':
      return (
        `the index of the registry, ${root}:index, has ${detail[0]} of ${detail[1]} names: it was ` +
        'evicted or changed by another program; restore it from a backup'
      );
    case 'schema':
      return (
        `the registry at ${root} has schema version ${detail[0]}, which this version does not ` +
        'speak; use another prefix (--redis-prefix) or the matching version'
      );
    default:
      return `a script answered ${status}`;
  }
}
