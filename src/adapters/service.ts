/** Names, generations and references: the registry in memory, kept equal to the store. */
import { rm } from 'node:fs/promises';
import { LoramuxError } from '../errors.ts';
import type { AdapterImage } from '../native/addon-types.ts';
import type { ConvertResult } from './convert/canonicalize.ts';
import type { Converter } from './convert/pool.ts';
import { MAX_CONFIG_BYTES } from './formats/peft-config.ts';
import { KeyedLock } from './keyed-lock.ts';
import { checkAdapterName } from './names.ts';
import type {
  AdapterImages,
  AdapterService,
  AdapterServiceLimits,
  AdapterServiceStats,
  AdapterSource,
  DamagedAdapter,
  PutResult,
} from './service-types.ts';
import { openSourceDir } from './source-dir.ts';
import type { AdapterStore, StoreContents, StoredAdapter } from './store/types.ts';
import type { AdapterGeneration, AdapterRecord } from './types.ts';

/** Registrations under way or waiting; more are refused with queue_full. */
export const MAX_PENDING_PUTS = 256;

export interface RegistryOptions {
  readonly store: AdapterStore;
  readonly contents: StoreContents;
  readonly pool: Converter;
  readonly baseModelName: string;
  /** Digest of the base model's shapes. */
  readonly base: string;
  /** Resolved path; undefined forbids registering by path. */
  readonly adapterRoot: string | undefined;
  readonly maxAdapters: number;
  readonly maxAdapterBytes: number;
  readonly maxRank: number;
  readonly maxResidentBytes: number;
  /** Hash the whole file again before each load. */
  readonly verifyOnLoad: boolean;
  /** Seconds since the epoch. */
  readonly now: () => number;
  /** A leftover file could not be removed; it goes at the next start. */
  readonly onWarning: (message: string, error: unknown) => void;
}

/** A canonical file with what keeps it: names in the registry and holds of requests. */
interface GenerationState {
  readonly generation: AdapterGeneration;
  readonly fileBytes: number;
  readonly headerBytes: number;
  readonly headerDigest: string;
  names: number;
  holds: number;
}

interface NameState {
  readonly stored: StoredAdapter;
  readonly record: AdapterRecord;
  readonly state: GenerationState;
}

export class AdapterRegistry implements AdapterService, AdapterImages {
  readonly limits: AdapterServiceLimits;
  readonly uploadDir: string;
  readonly #options: RegistryOptions;
  readonly #names = new Map<string, NameState>();
  readonly #generations = new Map<string, GenerationState>();
  readonly #damaged = new Map<string, DamagedAdapter>();
  /** New names whose registration is under way; they count towards the limit. */
  readonly #arriving = new Set<string>();
  readonly #nameLock = new KeyedLock();
  readonly #digestLock = new KeyedLock();
  #pendingPuts = 0;
  #sorted: readonly AdapterRecord[] | undefined;
  #onRetired: (digest: string) => void = () => undefined;
  #closing: Promise<void> | undefined;

  constructor(options: RegistryOptions) {
    this.#options = options;
    this.uploadDir = options.store.uploadDir;
    this.limits = {
      maxAdapters: options.maxAdapters,
      maxAdapterBytes: options.maxAdapterBytes,
      maxConfigBytes: MAX_CONFIG_BYTES,
    };
    for (const stored of options.contents.adapters) {
      const state = this.#generations.get(stored.digest) ?? newState(stored);
      this.#generations.set(stored.digest, state);
      state.names++;
      this.#names.set(stored.name, { stored, record: recordOf(stored, state), state });
    }
    for (const entry of options.contents.damaged) this.#damaged.set(entry.name, entry);
  }

  async put(name: string, source: AdapterSource): Promise<PutResult> {
    try {
      checkAdapterName(name, this.#options.baseModelName);
      this.#refuseWhenClosing();
      if (this.#pendingPuts >= MAX_PENDING_PUTS) {
        throw new LoramuxError(
          'queue_full',
          `${this.#pendingPuts} adapters are being registered; retry later.`,
        );
      }
      this.#pendingPuts++;
      try {
        return await this.#nameLock.run(name, () => this.#put(name, source));
      } finally {
        this.#pendingPuts--;
      }
    } finally {
      if (source.kind === 'files') await this.#removeUpload(source);
    }
  }

  get(name: string): AdapterRecord | undefined {
    return this.#names.get(name)?.record;
  }

  list(): readonly AdapterRecord[] {
    this.#sorted ??= [...this.#names.values()]
      .map(({ record }) => record)
      .sort((a, b) => (a.name < b.name ? -1 : 1));
    return this.#sorted;
  }

  resolve(name: string): AdapterRecord {
    const found = this.#names.get(name);
    if (found !== undefined) return found.record;
    const damage = this.#damaged.get(name);
    if (damage !== undefined) {
      throw new LoramuxError(
        'store_corrupt',
        `The stored adapter ${JSON.stringify(name)} is damaged (${damage.reason}). ` +
          'Upload it again or remove it.',
      );
    }
    throw notFound(name);
  }

  hold(generation: AdapterGeneration): () => void {
    const state = this.#stateOf(generation);
    state.holds++;
    let held = true;
    return () => {
      if (!held) return;
      held = false;
      state.holds--;
      void this.#retireIfUnused(state);
    };
  }

  async remove(name: string): Promise<void> {
    this.#refuseWhenClosing();
    return this.#nameLock.run(name, async () => {
      this.#refuseWhenClosing();
      const found = this.#names.get(name);
      const damage = this.#damaged.get(name);
      if (found === undefined && damage === undefined) throw notFound(name);
      try {
        await this.#options.store.removeName(name);
      } catch (error) {
        if (found !== undefined) await this.#restoreName(name, found);
        throw error;
      }
      this.#damaged.delete(name);
      if (found === undefined) return;
      this.#names.delete(name);
      this.#sorted = undefined;
      found.state.names--;
      await this.#retireIfUnused(found.state);
    });
  }

  damaged(): readonly DamagedAdapter[] {
    return [...this.#damaged.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  stats(): AdapterServiceStats {
    let storedBytes = 0;
    let holds = 0;
    for (const state of this.#generations.values()) {
      storedBytes += state.fileBytes;
      holds += state.holds;
    }
    return {
      names: this.#names.size,
      damaged: this.#damaged.size,
      generations: this.#generations.size,
      storedBytes,
      holds,
      pendingPuts: this.#pendingPuts,
    };
  }

  async openImage(generation: AdapterGeneration): Promise<AdapterImage> {
    const { fileBytes, headerBytes } = this.#stateOf(generation);
    const release = this.hold(generation);
    try {
      const { digest } = generation;
      return await this.#options.pool.open({
        path: await this.#options.store.localBlob(digest),
        digest,
        fileBytes,
        headerBytes,
        verify: this.#options.verifyOnLoad,
      });
    } finally {
      release();
    }
  }

  onRetired(listener: (digest: string) => void): void {
    this.#onRetired = listener;
  }

  close(): Promise<void> {
    this.#closing ??= (async () => {
      await this.#options.pool.close();
      await this.#nameLock.idle();
      await this.#digestLock.idle();
      await this.#options.store.close();
    })();
    return this.#closing;
  }

  async #put(name: string, source: AdapterSource): Promise<PutResult> {
    this.#refuseWhenClosing();
    const isNew = !this.#names.has(name) && !this.#damaged.has(name);
    if (isNew) {
      const count = this.#names.size + this.#damaged.size + this.#arriving.size;
      if (count >= this.#options.maxAdapters) {
        throw new LoramuxError(
          'adapter_limit_exceeded',
          `${this.#options.maxAdapters} adapters are registered, which is the limit. ` +
            'Remove one first.',
        );
      }
      this.#arriving.add(name);
    }
    const staged = this.#options.store.stage();
    try {
      const { result, label } = await this.#convert(source, staged);
      return await this.#register(name, result, label, staged);
    } finally {
      this.#arriving.delete(name);
      await this.#tolerate('discard a staged file', () => this.#options.store.discard(staged));
    }
  }

  async #convert(
    source: AdapterSource,
    staged: string,
  ): Promise<{ result: ConvertResult; label: string }> {
    const { pool, adapterRoot, maxRank, maxAdapterBytes, maxResidentBytes } = this.#options;
    const files =
      source.kind === 'directory'
        ? { ...(await openSourceDir(adapterRoot, source.path)), root: adapterRoot }
        : { ...source, label: 'upload', root: undefined };
    const result = await pool.convert({
      configPath: files.configPath,
      weightsPath: files.weightsPath,
      root: files.root,
      outPath: staged,
      limits: { maxRank, maxAdapterBytes, maxResidentBytes },
    });
    return { result, label: files.label };
  }

  async #register(
    name: string,
    result: ConvertResult,
    source: string,
    staged: string,
  ): Promise<PutResult> {
    const { store, base, now } = this.#options;
    const stored: StoredAdapter = { name, ...result, source, createdAt: now(), base };
    // From here on the generation counts one name more, so nobody removes its file meanwhile.
    const state = await this.#digestLock.run(result.digest, async () => {
      const existing = this.#generations.get(result.digest);
      if (existing === undefined) await store.commitBlob(staged, result.digest);
      const kept = existing ?? newState(stored);
      this.#generations.set(result.digest, kept);
      kept.names++;
      return kept;
    });
    const old = this.#names.get(name);
    try {
      await store.putName(stored);
    } catch (error) {
      state.names--;
      if (await this.#restoreName(name, old)) await this.#retireIfUnused(state);
      throw error;
    }
    const replaced = old !== undefined || this.#damaged.delete(name);
    const record = recordOf(stored, state);
    this.#names.set(name, { stored, record, state });
    this.#sorted = undefined;
    if (old !== undefined) {
      old.state.names--;
      await this.#retireIfUnused(old.state);
    }
    return { record, replaced };
  }

  /**
   * After a failed write the disk may name either generation. Puts the old one back; while that is
   * not sure, the new file stays where it is, so that the name has its file after a restart.
   */
  async #restoreName(name: string, old: NameState | undefined): Promise<boolean> {
    try {
      if (old === undefined) await this.#options.store.removeName(name);
      else await this.#options.store.putName(old.stored);
      return true;
    } catch (error) {
      this.#options.onWarning(`The adapter store could not restore ${name}.`, error);
      return false;
    }
  }

  #stateOf(generation: AdapterGeneration): GenerationState {
    const state = this.#generations.get(generation.digest);
    if (state !== undefined) return state;
    throw new LoramuxError(
      'adapter_not_found',
      `The adapter with digest ${generation.digest} was removed.`,
    );
  }

  /** Takes effect at once; the promise resolves, never rejects, when the file is gone too. */
  #retireIfUnused(state: GenerationState): Promise<void> {
    const { digest } = state.generation;
    if (state.names > 0 || state.holds > 0 || this.#generations.get(digest) !== state) {
      return Promise.resolve();
    }
    this.#generations.delete(digest);
    this.#onRetired(digest);
    return this.#digestLock.run(digest, async () => {
      // The same content may have been registered again before its old file went.
      if (this.#generations.has(digest)) return;
      await this.#tolerate('remove an unused adapter file', () =>
        this.#options.store.removeBlob(digest),
      );
    });
  }

  async #removeUpload(source: { configPath: string; weightsPath: string }): Promise<void> {
    for (const file of [source.configPath, source.weightsPath]) {
      await this.#tolerate('remove an uploaded file', () => rm(file, { force: true }));
    }
  }

  async #tolerate(what: string, work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      this.#options.onWarning(`The adapter store could not ${what}.`, error);
    }
  }

  #refuseWhenClosing(): void {
    if (this.#closing !== undefined) {
      throw new LoramuxError('shutting_down', 'The server is shutting down.');
    }
  }
}

function newState(stored: StoredAdapter): GenerationState {
  const { digest, rank, residentBytes, fileBytes, headerBytes, headerDigest } = stored;
  const generation = Object.freeze({ digest, rank, residentBytes });
  return { generation, fileBytes, headerBytes, headerDigest, names: 0, holds: 0 };
}

function recordOf(stored: StoredAdapter, state: GenerationState): AdapterRecord {
  const { name, createdAt, source, targetModules, fileBytes } = stored;
  return Object.freeze({
    name,
    generation: state.generation,
    createdAt,
    source,
    targetModules,
    fileBytes,
  });
}

function notFound(name: string): LoramuxError {
  const shown = name.length > 200 ? `${name.slice(0, 200)}...` : name;
  return new LoramuxError(
    'adapter_not_found',
    `No adapter is registered under the name ${JSON.stringify(shown)}.`,
  );
}
