/** The Lua scripts: read once, run by their digest, sent whole when Redis does not have them. */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import type { Redis } from 'ioredis';

export interface Script {
  readonly name: string;
  readonly sha1: string;
  readonly lua: string;
}

export type ScriptName =
  | 'open'
  | 'page'
  | 'read'
  | 'restore'
  | 'write'
  | 'blob-begin'
  | 'blob-commit'
  | 'blob-locate'
  | 'blob-missing'
  | 'blob-wanted'
  | 'blob-claim'
  | 'blob-confirm'
  | 'refs-rebuild'
  | 'announce'
  | 'replicas'
  | 'withdraw';

/** Answer of a script: a status word, then what its head lists. */
export type ScriptResult = readonly unknown[];

const loaded = new Map<ScriptName, Script>();

const source = (name: string) =>
  readFileSync(new URL(`./lua/${name}.lua`, import.meta.url), 'utf8');

function load(name: ScriptName): Script {
  const known = loaded.get(name);
  if (known !== undefined) return known;
  const lua = `${source('common')}\n${source(name)}`;
  const script = { name, lua, sha1: createHash('sha1').update(lua).digest('hex') };
  loaded.set(name, script);
  return script;
}

/**
 * Runs a script. Redis forgets scripts when it restarts, fails over or is told to; then the script
 * certainly did not run, and is sent whole.
 */
export async function runScript(
  redis: Redis,
  name: ScriptName,
  keys: readonly string[],
  args: readonly (string | number)[],
): Promise<ScriptResult> {
  const { sha1, lua } = load(name);
  let result: unknown;
  try {
    result = await redis.evalsha(sha1, keys.length, ...keys, ...args);
  } catch (error) {
    if (!(error instanceof Error) || !error.message.startsWith('NOSCRIPT')) throw error;
    result = await redis.eval(lua, keys.length, ...keys, ...args);
  }
  if (!Array.isArray(result)) throw new Error(`the script ${name} answered ${typeof result}`);
  return result;
}
