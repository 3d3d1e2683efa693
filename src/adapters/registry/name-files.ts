/**
 * One name's file: a JSON object with a checksum over the rest of it. Version 2 holds an entry;
 * version 1, which is still read, held the one generation a name had then.
 */
import { createHash } from 'node:crypto';
import {
  isJsonObject,
  type JsonObject,
  type JsonValue,
  parseJsonBytes,
} from '../../importer/json.ts';
import { checkVersion, entryFromJson, entryToJson, MAX_ENTRY_BYTES } from './entry-codec.ts';
import type { NameEntry, VersionedEntry } from './types.ts';

export const NAME_FILE_VERSION = 2;
/** Bytes of one name file: an entry and what is around it. */
export const MAX_NAME_FILE_BYTES = MAX_ENTRY_BYTES + 1024;
const EXTENSION = '.json';
/** Fields of version 1 that belong to its generation, all but `targetModules`. */
const V1_GENERATION_FIELDS = [
  ...['digest', 'fileBytes', 'headerBytes', 'headerDigest', 'rank', 'residentBytes'],
  ...['targetModules', 'base', 'source', 'createdAt'],
] as const;

export interface NameFile {
  /** Undefined in version 1, which had none. */
  readonly revision: number | undefined;
  readonly changeId: string;
  readonly entry: NameEntry;
}

/** Names have no `+`, so this is one-to-one and keeps file names within 255 bytes. */
export function nameToFile(name: string): string {
  return name.replaceAll('/', '+') + EXTENSION;
}

/** Undefined when the file is not one of ours. */
export function fileToName(file: string): string | undefined {
  if (!file.endsWith(EXTENSION)) return undefined;
  return file.slice(0, -EXTENSION.length).replaceAll('+', '/');
}

/** @throws Error when the entry is not sound or too large. */
export function encodeNameFile({ revision, changeId, entry }: VersionedEntry): Uint8Array {
  const body = { version: NAME_FILE_VERSION, revision, changeId, entry: entryToJson(entry) };
  const bytes = sealJson(body);
  if (bytes.length > MAX_NAME_FILE_BYTES) {
    throw new Error(`the entry takes ${bytes.length} bytes, more than ${MAX_ENTRY_BYTES}`);
  }
  return bytes;
}

/** @throws Error that says what is wrong with the file. */
export function decodeNameFile(bytes: Uint8Array, name: string): NameFile {
  if (bytes.length > MAX_NAME_FILE_BYTES) throw new Error('the name file is too large');
  const { body, checksum } = unsealJson(bytes, 'the name file');
  if (body.version === 1) return decodeVersion1(body, checksum, name);
  if (body.version !== NAME_FILE_VERSION) {
    const found = JSON.stringify(body.version);
    throw new Error(
      `the name file has version ${found}, this server reads up to ${NAME_FILE_VERSION}`,
    );
  }
  const { revision, changeId } = body;
  if (typeof revision !== 'number' || typeof changeId !== 'string') {
    throw new Error('the name file has no revision or change id');
  }
  checkVersion(revision, changeId);
  return { revision, changeId, entry: entryFromJson(body.entry, name) };
}

/** JSON on one line with a checksum over the rest. */
export function sealJson(body: JsonObject): Uint8Array {
  return Buffer.from(`${JSON.stringify({ ...body, checksum: checksumOf(body) })}\n`);
}

/** @throws Error, beginning with `what`, when it is no JSON object or the checksum is wrong. */
export function unsealJson(
  bytes: Uint8Array,
  what: string,
): { readonly body: JsonObject; readonly checksum: string } {
  let json: JsonValue;
  try {
    json = parseJsonBytes(bytes);
  } catch (cause) {
    throw new Error(`${what} is not JSON`, { cause });
  }
  if (!isJsonObject(json)) throw new Error(`${what} is not an object`);
  const { checksum: stated, ...body } = json;
  const checksum = checksumOf(body);
  if (stated !== checksum) throw new Error(`${what} has a wrong checksum`);
  return { body, checksum };
}

function decodeVersion1(body: JsonObject, checksum: string, name: string): NameFile {
  const field = (key: string): JsonValue => {
    const value = body[key];
    if (value === undefined) throw new Error(`the name file has no ${key}`);
    return value;
  };
  const generation = Object.fromEntries(V1_GENERATION_FIELDS.map((key) => [key, field(key)]));
  const entry = entryFromJson(
    {
      name: field('name'),
      current: field('digest'),
      split: null,
      pinned: false,
      createdAt: field('createdAt'),
      updatedAt: field('createdAt'),
      generations: [generation],
    },
    name,
  );
  return { revision: undefined, changeId: checksum.slice(0, 32), entry };
}

function checksumOf(body: JsonObject): string {
  const sorted = Object.fromEntries(Object.entries(body).sort(([a], [b]) => (a < b ? -1 : 1)));
  return createHash('sha256').update(JSON.stringify(sorted)).digest('hex');
}
