/**
 * Entries as JSON, for files, Redis and the cached snapshot. Reading checks every field, refuses
 * unknown ones, and believes nothing that breaks a rule of entries.
 */
import {
  isJsonObject,
  type JsonObject,
  type JsonValue,
  parseJson,
  parseJsonBytes,
} from '../../importer/json.ts';
import { entryViolations } from './entry-rules.ts';
import type { KeptGeneration, NameEntry, Split, VersionedEntry } from './types.ts';

/** Bytes of one entry as JSON; real ones have about 600 per generation. */
export const MAX_ENTRY_BYTES = 1024 * 1024;
const CHANGE_ID = /^[0-9a-f-]{16,64}$/;

/**
 * Compact JSON with the fields in a fixed order: equal entries give equal text.
 * @throws Error that names every violated rule, or that the entry is too large.
 */
export function encodeEntry(entry: NameEntry): string {
  const text = JSON.stringify(entryToJson(entry));
  const bytes = Buffer.byteLength(text);
  if (bytes > MAX_ENTRY_BYTES) {
    throw new Error(`the entry has ${bytes} bytes, more than the limit of ${MAX_ENTRY_BYTES}`);
  }
  return text;
}

/**
 * @param name under which it was found; the entry must hold the same one.
 * @throws Error that says what is wrong with it.
 */
export function decodeEntry(data: string | Uint8Array, name: string): NameEntry {
  const size = typeof data === 'string' ? Buffer.byteLength(data) : data.length;
  if (size > MAX_ENTRY_BYTES) {
    throw new Error(`the entry has ${size} bytes, more than the limit of ${MAX_ENTRY_BYTES}`);
  }
  let json: JsonValue;
  try {
    json = typeof data === 'string' ? parseJson(data) : parseJsonBytes(data);
  } catch (cause) {
    throw new Error(`the entry is not JSON (${(cause as Error).message})`, { cause });
  }
  return entryFromJson(json, name);
}

/** @throws Error that names every violated rule. */
export function entryToJson(entry: NameEntry): JsonObject {
  refuseViolations(entry);
  const { digest, weight } = entry.split ?? {};
  return {
    name: entry.name,
    current: entry.current,
    split: digest === undefined || weight === undefined ? null : { digest, weight },
    pinned: entry.pinned,
    createdAt: entry.createdAt,
    updatedAt: entry.updatedAt,
    generations: entry.generations.map(generationToJson),
  };
}

/** @throws Error that says what is wrong with it. */
export function entryFromJson(json: JsonValue | undefined, name: string): NameEntry {
  const fields = new Fields(json, 'the entry');
  const entry = Object.freeze({
    name: fields.text('name'),
    current: fields.text('current'),
    split: splitFromJson(fields.take('split')),
    pinned: fields.flag('pinned'),
    createdAt: fields.number('createdAt'),
    updatedAt: fields.number('updatedAt'),
    generations: fields.list('generations').map(generationFromJson),
  });
  fields.end();
  if (entry.name !== name) throw new Error('the entry holds another name');
  refuseViolations(entry);
  return entry;
}

/** An entry with its version, for snapshots that hold many. @throws as `entryToJson`. */
export function versionedToJson({ revision, changeId, entry }: VersionedEntry): JsonObject {
  return { revision, changeId, entry: entryToJson(entry) };
}

/** @throws Error that says what is wrong with it. */
export function versionedFromJson(json: JsonValue | undefined, name: string): VersionedEntry {
  const fields = new Fields(json, 'the versioned entry');
  const revision = fields.number('revision');
  const changeId = fields.text('changeId');
  const entry = entryFromJson(fields.take('entry'), name);
  fields.end();
  checkVersion(revision, changeId);
  return Object.freeze({ revision, changeId, entry });
}

/** @throws Error when it is no revision or no change id of ours. */
export function checkVersion(revision: number, changeId: string): void {
  if (!Number.isSafeInteger(revision) || revision < 1) {
    throw new Error(`the revision ${revision} is not a whole number from 1`);
  }
  if (!CHANGE_ID.test(changeId))
    throw new Error('the change id is not 16 to 64 hexadecimal digits');
}

function refuseViolations(entry: NameEntry): void {
  const violations = entryViolations(entry);
  if (violations.length > 0) throw new Error(`the entry is not sound: ${violations.join('; ')}`);
}

function generationToJson(generation: KeptGeneration): JsonObject {
  return {
    digest: generation.digest,
    fileBytes: generation.fileBytes,
    headerBytes: generation.headerBytes,
    headerDigest: generation.headerDigest,
    rank: generation.rank,
    residentBytes: generation.residentBytes,
    targetModules: [...generation.targetModules],
    ...(generation.hasChatTemplate && { hasChatTemplate: true }),
    base: generation.base,
    source: generation.source,
    createdAt: generation.createdAt,
  };
}

function generationFromJson(json: JsonValue, index: number): KeptGeneration {
  const fields = new Fields(json, `generation ${index} of the entry`);
  const generation = Object.freeze({
    digest: fields.text('digest'),
    fileBytes: fields.number('fileBytes'),
    headerBytes: fields.number('headerBytes'),
    headerDigest: fields.text('headerDigest'),
    rank: fields.number('rank'),
    residentBytes: fields.number('residentBytes'),
    targetModules: fields.texts('targetModules'),
    ...(fields.onlyTrue('hasChatTemplate') && { hasChatTemplate: true as const }),
    base: fields.text('base'),
    source: fields.text('source'),
    createdAt: fields.number('createdAt'),
  });
  fields.end();
  return generation;
}

function splitFromJson(json: JsonValue): Split | undefined {
  if (json === null) return undefined;
  const fields = new Fields(json, 'the split of the entry');
  const split = Object.freeze({ digest: fields.text('digest'), weight: fields.number('weight') });
  fields.end();
  return split;
}

/** Reads an object field by field; what nobody asked for is an error at the end. */
class Fields {
  readonly #rest: Map<string, JsonValue>;
  readonly #what: string;

  constructor(json: JsonValue | undefined, what: string) {
    if (!isJsonObject(json)) throw new Error(`${what} is not an object`);
    this.#rest = new Map(Object.entries(json));
    this.#what = what;
  }

  take(field: string): JsonValue {
    const value = this.#rest.get(field);
    if (value === undefined) throw new Error(`${this.#what} has no ${field}`);
    this.#rest.delete(field);
    return value;
  }

  text(field: string): string {
    const value = this.take(field);
    return typeof value === 'string' ? value : this.#refuse(field, 'a string');
  }

  number(field: string): number {
    const value = this.take(field);
    return typeof value === 'number' ? value : this.#refuse(field, 'a number');
  }

  flag(field: string): boolean {
    const value = this.take(field);
    return typeof value === 'boolean' ? value : this.#refuse(field, 'true or false');
  }

  /** A field that is true or not there. */
  onlyTrue(field: string): boolean {
    if (!this.#rest.has(field)) return false;
    return this.take(field) === true || this.#refuse(field, 'true or left out');
  }

  list(field: string): JsonValue[] {
    const value = this.take(field);
    return Array.isArray(value) ? value : this.#refuse(field, 'a list');
  }

  texts(field: string): string[] {
    const list = this.list(field);
    return list.every((item) => typeof item === 'string')
      ? list
      : this.#refuse(field, 'a list of strings');
  }

  end(): void {
    const [unknown] = this.#rest.keys();
    if (unknown === undefined) return;
    throw new Error(`${this.#what} has the unknown field ${JSON.stringify(unknown)}`);
  }

  #refuse(field: string, kind: string): never {
    throw new Error(`${field} of ${this.#what} is not ${kind}`);
  }
}
