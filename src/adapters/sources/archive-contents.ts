/**
 * What an archive may hold, decided from its entries alone: names, kinds and sizes. The readers of
 * both formats report every entry here before they touch its bytes.
 */
import { LoramuxError } from '../../errors.ts';
import {
  MAX_TEMPLATE_BYTES,
  MAX_TOKENIZER_CONFIG_BYTES,
  TEMPLATE_FILE,
  TOKENIZER_CONFIG_FILE,
} from '../formats/chat-templates.ts';
import type { ChatFilePaths } from '../service-types.ts';
import { CONFIG_FILE, PICKLE_FILE, WEIGHTS_FILE } from './source-dir.ts';
import { isDiskError } from './work-files.ts';

export interface ArchiveLimits {
  /** Bytes of adapter_model.safetensors. */
  readonly maxAdapterBytes: number;
  /** Bytes of adapter_config.json. */
  readonly maxConfigBytes: number;
  /** Entries of any kind, folders included. */
  readonly maxArchiveEntries: number;
}

/** Longest path of an entry, bytes. */
export const MAX_NAME_BYTES = 1024;
/** Folders an entry may lie in. */
export const MAX_NAME_DEPTH = 16;
/** What lies beside the adapter in a training folder: an optimizer keeps two moments per weight. */
const BESIDE_FACTOR = 3;
/** Tokenizer files, which do not grow with the adapter. */
const BESIDE_BYTES = 64 * 1024 * 1024;
/** Headers of one entry in either format, with its name in several places. */
const HEADER_BYTES_PER_ENTRY = 8 * 1024;

/** Bytes that all files of an archive may have together. */
export function maxUnpackedBytes(limits: ArchiveLimits): number {
  return limits.maxConfigBytes + (1 + BESIDE_FACTOR) * limits.maxAdapterBytes + BESIDE_BYTES;
}

/** Bytes that an archive file itself may have. */
export function maxArchiveBytes(limits: ArchiveLimits): number {
  return maxUnpackedBytes(limits) + maxHeaderBytes(limits);
}

/** Bytes of headers, of either format, that an archive may have besides its files. */
export function maxHeaderBytes(limits: ArchiveLimits): number {
  return limits.maxArchiveEntries * HEADER_BYTES_PER_ENTRY;
}

/** The adapter's two files as they lie in the work folder. */
export interface ExtractedFiles extends ChatFilePaths {
  readonly configPath: string;
  readonly weightsPath: string;
}

/** An entry's part in the adapter; undefined for what is passed over. */
export type Role = 'config' | 'weights' | 'template' | 'tokenizer' | undefined;

const ROLES: Readonly<Record<string, Role>> = {
  [CONFIG_FILE]: 'config',
  [WEIGHTS_FILE]: 'weights',
  [TEMPLATE_FILE]: 'template',
  [TOKENIZER_CONFIG_FILE]: 'tokenizer',
};

/** Where the reader put the entries of the adapter, by the names that the archive has. */
export type Placed = ReadonlyMap<string, string>;

export class ArchiveContents {
  readonly #limits: ArchiveLimits;
  #entries = 0;
  #bytes = 0;
  /** Folded paths of files, and of folders with all folders above them. */
  readonly #files = new Set<string>();
  readonly #folders = new Set<string>();
  /** The one folder with the adapter's files. */
  #home: string | undefined;
  readonly #roles = new Map<Role, string>();
  /** Entries with a part in a chat, by folder: they count only beside the adapter's. */
  readonly #beside: { role: Role; folder: string; name: string; size: number }[] = [];
  #pickle: string | undefined;

  constructor(limits: ArchiveLimits) {
    this.#limits = limits;
  }

  /**
   * @param name the entry's path as the archive has it.
   * @param size declared bytes.
   * @throws LoramuxError archive_unsafe, archive_limit_exceeded, archive_invalid, adapter_too_large.
   */
  add(name: string, kind: 'file' | 'folder', size: number): Role {
    this.#entries++;
    if (this.#entries > this.#limits.maxArchiveEntries) {
      throw tooManyEntries(this.#limits);
    }
    const parts = checkName(name);
    this.#addPath(name, parts, kind);
    if (!Number.isSafeInteger(size) || size < 0) {
      throw invalid(`the size of ${quote(name)} is out of range`);
    }
    if (kind === 'folder') {
      if (size !== 0) throw invalid(`the folder ${quote(name)} has bytes`);
      return undefined;
    }
    const base = parts.at(-1);
    const role = Object.hasOwn(ROLES, base!) ? ROLES[base!] : undefined;
    const folder = parts.slice(0, -1).join('/');
    if (role === 'config' || role === 'weights') this.#addWanted(role, folder, name, size);
    else if (role !== undefined) this.#beside.push({ role, folder, name, size });
    else if (PICKLE_FILE.test(base!) && base!.startsWith('adapter_model')) this.#pickle ??= name;
    this.#bytes += size;
    if (this.#bytes > maxUnpackedBytes(this.#limits)) {
      throw new LoramuxError(
        'archive_limit_exceeded',
        `The archive unpacks to more than ${maxUnpackedBytes(this.#limits)} bytes. ` +
          `Pack only ${CONFIG_FILE} and ${WEIGHTS_FILE}.`,
      );
    }
    return role;
  }

  /**
   * The names of the adapter's entries by their part.
   * @throws LoramuxError adapter_upload_incomplete, adapter_pickle_refused, adapter_too_large.
   */
  complete(): ReadonlyMap<Role, string> {
    if (!this.#roles.has('weights') && this.#pickle !== undefined) {
      throw new LoramuxError(
        'adapter_pickle_refused',
        `The archive has ${quote(this.#pickle)} but no ${WEIGHTS_FILE}. Pickle files can run ` +
          'code and are never read; save the adapter as safetensors.',
      );
    }
    for (const [role, file] of [['config', CONFIG_FILE] as const, ['weights', WEIGHTS_FILE]]) {
      if (!this.#roles.has(role as Role)) {
        throw new LoramuxError('adapter_upload_incomplete', `The archive has no ${file}.`);
      }
    }
    for (const { role, folder, name, size } of this.#beside) {
      if (folder !== this.#home) continue;
      checkChatFileSize(role === 'template' ? TEMPLATE_FILE : TOKENIZER_CONFIG_FILE, size);
      this.#roles.set(role, name);
    }
    return this.#roles;
  }

  #addPath(name: string, parts: readonly string[], kind: 'file' | 'folder'): void {
    const keys = parts.map((_, index) => fold(parts.slice(0, index + 1).join('/')));
    const own = keys.pop();
    for (const above of keys) {
      if (this.#files.has(above)) throw repeated(name);
      this.#folders.add(above);
    }
    if (own === undefined) {
      if (kind === 'file') throw unsafe(`a file is called ${quote(name)}`);
      return;
    }
    if (this.#files.has(own) || (kind === 'file' && this.#folders.has(own))) throw repeated(name);
    (kind === 'file' ? this.#files : this.#folders).add(own);
  }

  #addWanted(role: 'config' | 'weights', folder: string, name: string, size: number): void {
    this.#home ??= folder;
    if (this.#home !== folder) {
      throw unsafe(
        `${quote(this.#home || '.')} and ${quote(folder)} both have adapter files; pack one adapter`,
      );
    }
    this.#roles.set(role, name);
    checkWantedSize(role, size, this.#limits);
  }
}

/** @throws LoramuxError adapter_too_large. */
export function checkWantedSize(
  role: 'config' | 'weights',
  bytes: number,
  limits: ArchiveLimits,
): void {
  const limit = role === 'config' ? limits.maxConfigBytes : limits.maxAdapterBytes;
  if (bytes <= limit) return;
  const file = role === 'config' ? CONFIG_FILE : WEIGHTS_FILE;
  throw new LoramuxError('adapter_too_large', `${file} has more than ${limit} bytes, the limit.`);
}

/** @throws LoramuxError adapter_too_large. */
export function checkChatFileSize(file: string, bytes: number): void {
  const limit = file === TEMPLATE_FILE ? MAX_TEMPLATE_BYTES : MAX_TOKENIZER_CONFIG_BYTES;
  if (bytes <= limit) return;
  throw new LoramuxError('adapter_too_large', `${file} has more than ${limit} bytes, the limit.`);
}

/** The adapter's files, of those that were unpacked. */
export function filesOf(roles: ReadonlyMap<Role, string>, placed: Placed): ExtractedFiles {
  const of = (role: Role) => placed.get(roles.get(role) ?? '');
  const [template, tokenizer] = [of('template'), of('tokenizer')];
  return {
    configPath: of('config')!,
    weightsPath: of('weights')!,
    ...(template !== undefined && { chatTemplatePath: template }),
    ...(tokenizer !== undefined && { tokenizerConfigPath: tokenizer }),
  };
}

export function tooManyEntries(limits: ArchiveLimits): LoramuxError {
  return new LoramuxError(
    'archive_limit_exceeded',
    `The archive has more than ${limits.maxArchiveEntries} entries. ` +
      `Pack only ${CONFIG_FILE} and ${WEIGHTS_FILE}.`,
  );
}

/**
 * The folders and the file of an entry's path, without `.` and empty parts.
 * @throws LoramuxError archive_unsafe, archive_limit_exceeded, archive_invalid.
 */
export function checkName(name: string): string[] {
  if (name === '') throw invalid('an entry has no name');
  if (Buffer.byteLength(name) > MAX_NAME_BYTES) {
    throw new LoramuxError(
      'archive_limit_exceeded',
      `The archive has a path of more than ${MAX_NAME_BYTES} bytes: ${quote(name)}.`,
    );
  }
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what is looked for
  if (/[\x00-\x1f\x7f]/.test(name)) throw unsafe(`${quote(name)} has control characters`);
  if (name.includes('\\')) throw unsafe(`${quote(name)} has backslashes`);
  if (name.startsWith('/') || /^[A-Za-z]:/.test(name)) throw unsafe(`${quote(name)} is absolute`);
  const parts = name.split('/').filter((part) => part !== '' && part !== '.');
  if (parts.includes('..')) throw unsafe(`${quote(name)} leads out of it`);
  if (parts.length > MAX_NAME_DEPTH + 1) {
    throw new LoramuxError(
      'archive_limit_exceeded',
      `The archive has a path of more than ${MAX_NAME_DEPTH} folders: ${quote(name)}.`,
    );
  }
  return parts;
}

/** Names that some file system takes for the same have the same fold. */
function fold(name: string): string {
  return name.normalize('NFKC').toUpperCase().toLowerCase().normalize('NFKC');
}

/** An untrusted text for a message: one line, bounded. */
export function quote(text: string): string {
  return JSON.stringify(text.length > 120 ? `${text.slice(0, 120)}...` : text);
}

export function unsafe(what: string): LoramuxError {
  return new LoramuxError('archive_unsafe', `The archive is refused: ${what}.`);
}

export function invalid(what: string, cause?: unknown): LoramuxError {
  return new LoramuxError(
    'archive_invalid',
    `The archive cannot be read: ${what}.`,
    cause === undefined ? {} : { cause },
  );
}

/**
 * What a failed reading is reported as: the reason of an abort, our own refusals and failures of the
 * disk as they are; anything else is the archive's fault.
 */
export function readingError(error: unknown, signal: AbortSignal): unknown {
  if (signal.aborted) return signal.reason;
  if (error instanceof LoramuxError || isDiskError(error)) return error;
  const what = error instanceof Error ? error.message : String(error);
  return invalid(quote(what), error);
}

function repeated(name: string): LoramuxError {
  return unsafe(`it has ${quote(name)} more than once, or under names that differ only in form`);
}
