/** JSON files beside the weights: config.json, generation_config.json, the shard index. */
import { readFile, stat } from 'node:fs/promises';
import { type ErrorCode, LoramuxError } from '../errors.ts';
import { isJsonObject, type JsonObject, parseJsonBytes } from './json.ts';

const MAX_JSON_BYTES = 64 * 1024 * 1024;

/**
 * A file holding a JSON object, undefined when there is no such file.
 * @throws LoramuxError with `code` when it is too large, not JSON or not an object.
 */
export async function readJsonFile(
  path: string,
  code: ErrorCode,
): Promise<{ json: JsonObject; bytes: Buffer } | undefined> {
  let bytes: Buffer;
  try {
    const { size } = await stat(path);
    if (size > MAX_JSON_BYTES) {
      throw new LoramuxError(code, `${path} has ${size} bytes, the limit is ${MAX_JSON_BYTES}.`);
    }
    bytes = await readFile(path);
  } catch (cause) {
    if (isMissing(cause)) return undefined;
    throw cause;
  }
  try {
    const json = parseJsonBytes(bytes);
    if (isJsonObject(json)) return { json, bytes };
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new LoramuxError(code, `${path} is not valid JSON: ${reason}.`, { cause });
  }
  throw new LoramuxError(code, `${path} is not a JSON object.`);
}

/** True when `path` exists. */
export async function exists(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch (error) {
    if (isMissing(error)) return false;
    throw error;
  }
}

function isMissing(error: unknown): boolean {
  const code = (error as NodeJS.ErrnoException | undefined)?.code;
  return code === 'ENOENT' || code === 'ENOTDIR';
}
