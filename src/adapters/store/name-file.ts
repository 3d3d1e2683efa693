/** One name's file: a JSON object with a checksum over the rest of it. */
import { createHash } from 'node:crypto';
import {
  isJsonObject,
  type JsonObject,
  type JsonValue,
  parseJsonBytes,
} from '../../importer/json.ts';
import type { StoredAdapter } from './types.ts';

export const NAME_FILE_VERSION = 1;
/** Bytes of one name file; real ones have below 1 KB. */
export const MAX_NAME_FILE_BYTES = 64 * 1024;
const EXTENSION = '.json';

/** Names have no `+`, so this is one-to-one and keeps file names within 255 bytes. */
export function nameToFile(name: string): string {
  return name.replaceAll('/', '+') + EXTENSION;
}

/** Undefined when the file is not one of ours. */
export function fileToName(file: string): string | undefined {
  if (!file.endsWith(EXTENSION)) return undefined;
  return file.slice(0, -EXTENSION.length).replaceAll('+', '/');
}

export function encodeNameFile(adapter: StoredAdapter): Uint8Array {
  const body = { version: NAME_FILE_VERSION, ...adapter };
  return Buffer.from(`${JSON.stringify({ ...body, checksum: checksum(body) }, null, 2)}\n`);
}

/** @throws Error that says what is wrong with the file. */
export function decodeNameFile(bytes: Uint8Array, name: string): StoredAdapter {
  if (bytes.length > MAX_NAME_FILE_BYTES) throw new Error('the name file is too large');
  let json: JsonValue;
  try {
    json = parseJsonBytes(bytes);
  } catch (cause) {
    throw new Error('the name file is not JSON', { cause });
  }
  if (!isJsonObject(json)) throw new Error('the name file is not an object');
  const { checksum: stated, ...body } = json;
  if (stated !== checksum(body)) throw new Error('the name file has a wrong checksum');
  if (body.version !== NAME_FILE_VERSION) {
    throw new Error(`the name file has version ${body.version}, this server reads version 1`);
  }
  if (body.name !== name) throw new Error('the name file holds another name');
  return readFields(body);
}

function checksum(body: object): string {
  const sorted = Object.fromEntries(Object.entries(body).sort(([a], [b]) => (a < b ? -1 : 1)));
  return createHash('sha256').update(JSON.stringify(sorted)).digest('hex');
}

function readFields(body: JsonObject): StoredAdapter {
  const text = (field: string): string => {
    const value = body[field];
    if (typeof value !== 'string') throw new Error(`the name file has no ${field}`);
    return value;
  };
  const number = (field: string): number => {
    const value = body[field];
    if (typeof value !== 'number') throw new Error(`the name file has no ${field}`);
    return value;
  };
  const modules = body.targetModules;
  if (!Array.isArray(modules) || !modules.every((item) => typeof item === 'string')) {
    throw new Error('the name file has no targetModules');
  }
  const digest = text('digest');
  if (!/^[0-9a-f]{64}$/.test(digest)) throw new Error('the name file has no valid digest');
  return {
    name: text('name'),
    digest,
    fileBytes: number('fileBytes'),
    headerBytes: number('headerBytes'),
    headerDigest: text('headerDigest'),
    rank: number('rank'),
    residentBytes: number('residentBytes'),
    targetModules: modules,
    source: text('source'),
    createdAt: number('createdAt'),
    base: text('base'),
  };
}
