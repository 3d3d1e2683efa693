/**
 * What a remote registry held when it was last read, on disk: one line about the whole, one per name,
 * and a checksum. Replaced as a whole, so that a crash leaves the old one or the new one.
 */
import { createHash } from 'node:crypto';
import { type FileHandle, mkdir, open, readFile, rename, rm, stat } from 'node:fs/promises';
import path from 'node:path';
import { setImmediate as breathe } from 'node:timers/promises';
import { isJsonObject, type JsonObject, parseJson } from '../../importer/json.ts';
import type { DamagedAdapter } from '../service-types.ts';
import { versionedFromJson, versionedToJson } from './entry-codec.ts';
import type { VersionedEntry } from './types.ts';

export const MAX_SNAPSHOT_FILE_BYTES = 256 * 1024 * 1024;
/** Names that are encoded or decoded before others get the event loop. */
const NAMES_PER_TURN = 128;
const DEBOUNCE_MS = 250;
/** Pause before a write in multiples of what the last one took: large copies are written less often. */
const PAUSE_FACTOR = 10;
const FORMAT = 'loramux-registry-snapshot';
const VERSION = 1;
const DIGEST_CHARS = 64;

export interface SavedRegistry {
  /** Of the registry that it is a copy of. */
  readonly id: string;
  readonly revision: number;
  readonly changeId: string;
  /** When it was last known to be complete, milliseconds since the epoch. */
  readonly completeAtMs: number;
  readonly entries: readonly VersionedEntry[];
  readonly damaged: readonly DamagedAdapter[];
}

export interface SnapshotFileOptions {
  readonly file: string;
  /** Pause in which several changes become one write, milliseconds. */
  readonly debounceMs?: number;
  readonly onWarning: (message: string, error?: unknown) => void;
}

export class SnapshotFile {
  readonly #file: string;
  readonly #debounceMs: number;
  readonly #onWarning: SnapshotFileOptions['onWarning'];
  #take: (() => SavedRegistry) | undefined;
  #timer: NodeJS.Timeout | undefined;
  #lastWriteMs = 0;
  #writing: Promise<void> = Promise.resolve();

  constructor({ file, debounceMs = DEBOUNCE_MS, onWarning }: SnapshotFileOptions) {
    this.#file = file;
    this.#debounceMs = debounceMs;
    this.#onWarning = onWarning;
  }

  /** Undefined when there is none, or, with a warning, when it is damaged. */
  async load(): Promise<SavedRegistry | undefined> {
    try {
      const { size } = await stat(this.#file);
      if (size > MAX_SNAPSHOT_FILE_BYTES) throw new Error(`it has ${size} bytes`);
      return await decode(await readFile(this.#file));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
      const why = (error as Error).message;
      this.#onWarning(`The cached registry ${this.#file} is ignored: ${why}.`, error);
      return undefined;
    }
  }

  /** Writes what `take` answers, soon. */
  schedule(take: () => SavedRegistry): void {
    this.#take = take;
    const pauseMs = Math.max(this.#debounceMs, PAUSE_FACTOR * this.#lastWriteMs);
    this.#timer ??= setTimeout(() => void this.flush(), pauseMs).unref();
  }

  /** Writes what was scheduled now; resolves when it is on disk. Failures are warnings. */
  flush(): Promise<void> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#writing = this.#writing.then(async () => {
      const take = this.#take;
      this.#take = undefined;
      if (take === undefined) return;
      const began = performance.now();
      try {
        await this.#write(take());
        this.#lastWriteMs = performance.now() - began;
      } catch (error) {
        const why = (error as Error).message;
        this.#onWarning(`The registry could not be cached in ${this.#file}: ${why}.`, error);
      }
    });
    return this.#writing;
  }

  /** Renames the file, so that what it holds is not overwritten. @returns the new name. */
  async setAside(): Promise<string | undefined> {
    const aside = `${this.#file}.bak`;
    try {
      await rename(this.#file, aside);
      return aside;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') {
        this.#onWarning(`The cached registry ${this.#file} could not be set aside.`, error);
      }
      return undefined;
    }
  }

  async #write(saved: SavedRegistry): Promise<void> {
    const folder = path.dirname(this.#file);
    const temporary = `${this.#file}.tmp`;
    await mkdir(folder, { recursive: true });
    const handle = await open(temporary, 'w', 0o600);
    try {
      await encode(saved, handle);
      await handle.sync();
    } catch (error) {
      await handle.close();
      await rm(temporary, { force: true });
      throw error;
    }
    await handle.close();
    await rename(temporary, this.#file);
    const directory = await open(folder, 'r');
    try {
      await directory.sync();
    } finally {
      await directory.close();
    }
  }
}

async function encode(saved: SavedRegistry, handle: FileHandle): Promise<void> {
  const hash = createHash('sha256');
  let bytes = 0;
  const write = async (lines: readonly JsonObject[]) => {
    const chunk = Buffer.from(lines.map((line) => `${JSON.stringify(line)}\n`).join(''));
    bytes += chunk.length;
    if (bytes > MAX_SNAPSHOT_FILE_BYTES) {
      throw new Error(`it would have more than ${MAX_SNAPSHOT_FILE_BYTES} bytes`);
    }
    hash.update(chunk);
    await handle.writeFile(chunk);
  };
  const { id, revision, changeId, completeAtMs, entries, damaged } = saved;
  const counts = { entries: entries.length, damaged: damaged.length };
  await write([
    { format: FORMAT, version: VERSION, id, revision, changeId, completeAtMs, ...counts },
  ]);
  for (let from = 0; from < entries.length; from += NAMES_PER_TURN) {
    await write(entries.slice(from, from + NAMES_PER_TURN).map(versionedToJson));
  }
  for (let from = 0; from < damaged.length; from += NAMES_PER_TURN) {
    const some = damaged.slice(from, from + NAMES_PER_TURN);
    await write(some.map(({ name, reason }) => ({ name, reason })));
  }
  await handle.writeFile(hash.digest('hex'));
}

/** @throws Error that says what is wrong. */
async function decode(bytes: Buffer): Promise<SavedRegistry> {
  const end = bytes.length - DIGEST_CHARS;
  if (end <= 0) throw new Error('it is too short');
  const body = bytes.subarray(0, end);
  const sum = bytes.subarray(end).toString('latin1');
  if (createHash('sha256').update(body).digest('hex') !== sum) {
    throw new Error('its checksum does not match');
  }
  let cursor = 0;
  const next = () => {
    const lineEnd = body.indexOf(0x0a, cursor);
    if (lineEnd < 0) throw new Error('it ends early');
    const line = parseJson(body.toString('utf8', cursor, lineEnd));
    cursor = lineEnd + 1;
    if (!isJsonObject(line)) throw new Error('it has a line that is no object');
    return line;
  };
  const head = next();
  if (head.format !== FORMAT || head.version !== VERSION) {
    throw new Error('it is of another version');
  }
  const entries: VersionedEntry[] = [];
  for (let i = 0; i < count(head.entries); i++) {
    const line = next();
    const { entry } = line;
    const name = isJsonObject(entry) ? String(entry.name) : '';
    entries.push(versionedFromJson(line, name));
    if (i % NAMES_PER_TURN === 0) await breathe();
  }
  const damaged: DamagedAdapter[] = [];
  for (let i = 0; i < count(head.damaged); i++) {
    const { name, reason } = next();
    damaged.push({ name: String(name), reason: String(reason) });
  }
  return {
    id: String(head.id),
    revision: count(head.revision),
    changeId: String(head.changeId),
    completeAtMs: count(head.completeAtMs),
    entries,
    damaged,
  };
}

function count(value: unknown): number {
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 0) {
    throw new Error('its first line has something else where a number belongs');
  }
  return value;
}
