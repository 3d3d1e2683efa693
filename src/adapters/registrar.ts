/** Changes of names: an upload becomes a generation, a name moves. One at a time for each name. */
import { rm } from 'node:fs/promises';
import { LoramuxError } from '../errors.ts';
import type { LoraDtype } from '../native/addon-types.ts';
import type { BlobFiles, LocalBlobs } from './blobs/types.ts';
import { type ChangedName, changeName } from './change-name.ts';
import type { ConvertResult } from './convert/canonicalize.ts';
import type { Converter } from './convert/pool.ts';
import type { GenerationTable } from './generations.ts';
import { KeyedLock } from './keyed-lock.ts';
import { UnknownOutcomes } from './outcomes.ts';
import { checkCondition, putGeneration } from './registry/entry.ts';
import type {
  GenerationMeta,
  KeptGeneration,
  NameEntry,
  RegistryBackend,
} from './registry/types.ts';
import { knownName, type RegistryView } from './registry-view.ts';
import type { AdapterSource, Condition, PutOptions, PutResult } from './service-types.ts';
import type { OpenedSource, SourceOpener } from './sources/types.ts';
import type { AdapterRecord } from './types.ts';

export interface RegistrarOptions {
  readonly backend: RegistryBackend;
  readonly local: LocalBlobs;
  readonly files: BlobFiles;
  readonly opener: SourceOpener;
  readonly pool: Converter;
  /** Digest of the base model's shapes. */
  readonly base: string;
  /** Generations a name keeps, the current one included. */
  readonly maxGenerations: number;
  readonly maxAdapterBytes: number;
  readonly maxRank: number;
  readonly maxResidentBytes: number;
  readonly loraDtype?: LoraDtype | undefined;
  /** Seconds since the epoch. */
  readonly now: () => number;
  /** Something failed that no request can be told about. */
  readonly onWarning: (message: string, error: unknown) => void;
}

/** What a change is applied to when it is durable. */
export interface RegistrarState {
  readonly view: RegistryView;
  readonly generations: GenerationTable;
  /** After every change. */
  readonly onChanged: () => void;
}

/** How the next entry of a name is computed; `nowSeconds` since the epoch. */
type Next = (
  entry: NameEntry | undefined,
  nowSeconds: number,
  isDamaged: boolean,
) => NameEntry | undefined;

export class Registrar {
  readonly #options: RegistrarOptions;
  readonly #state: RegistrarState;
  readonly #nameLock = new KeyedLock();
  readonly #digestLock = new KeyedLock();
  /** Ends fetches of sources at shutdown. */
  readonly #abort = new AbortController();
  readonly #unknown: UnknownOutcomes;

  constructor(options: RegistrarOptions, state: RegistrarState) {
    this.#options = options;
    this.#state = state;
    this.#unknown = new UnknownOutcomes(options.backend, this.#abort.signal);
  }

  /** The upload's files are gone afterwards, whatever the outcome. */
  async put(name: string, source: AdapterSource, options: PutOptions): Promise<PutResult> {
    return this.#nameLock.run(name, async () => {
      this.#abort.signal.throwIfAborted();
      const opened = await this.#options.opener.open(source, this.#abort.signal);
      const staged = this.#options.local.stage();
      try {
        return await this.#register(name, opened, staged, options);
      } finally {
        await opened.cleanup();
        await this.#tolerate('discard a staged file', () => this.#options.local.discard(staged));
      }
    });
  }

  /** A change of a name that must exist. */
  edit(
    name: string,
    condition: Condition,
    next: (entry: NameEntry, nowSeconds: number) => NameEntry,
  ): Promise<AdapterRecord> {
    return this.#nameLock.run(name, async () => {
      this.#abort.signal.throwIfAborted();
      const changing = this.#change(name, false, (entry, now) => {
        if (entry === undefined) throw notFound(name);
        checkCondition(name, entry, condition);
        return this.#checkFiles(entry, next(entry, now));
      });
      const { after } = await this.#askIfUnknown(changing);
      return knownName(after!).record;
    });
  }

  remove(name: string, condition: Condition): Promise<void> {
    return this.#nameLock.run(name, async () => {
      this.#abort.signal.throwIfAborted();
      const changing = this.#change(name, true, (entry, _now, isDamaged) => {
        if (entry === undefined && !isDamaged) throw notFound(name);
        if (entry !== undefined) checkCondition(name, entry, condition);
        return undefined;
      });
      await this.#filesSettled(await this.#askIfUnknown(changing));
    });
  }

  /** Removes the local file of a generation that nothing keeps any more. */
  removeFile(digest: string): Promise<void> {
    const { files, local } = this.#options;
    const { generations, view } = this.#state;
    return this.#digestLock.run(digest, async () => {
      // The same content may have been registered again before its old file went.
      if (generations.has(digest) || !local.has(digest)) return;
      // A damaged name may need it; what nobody needs goes at the first start without damage.
      if (!files.shared && view.numDamaged > 0) return;
      await this.#tolerate('remove an unused adapter file', () => local.remove(digest));
    });
  }

  /** Removes the temporary files of an upload; they may be gone. */
  async removeUpload(source: AdapterSource): Promise<void> {
    let files: string[] = [];
    if (source.kind === 'files') {
      const { configPath, weightsPath, chatTemplatePath, tokenizerConfigPath } = source;
      const all = [configPath, weightsPath, chatTemplatePath, tokenizerConfigPath];
      files = all.filter((file) => file !== undefined);
    }
    if (source.kind === 'archive') files = [source.path];
    for (const file of files) {
      await this.#tolerate('remove an uploaded file', () => rm(file, { force: true }));
    }
  }

  /** No new change begins and fetches end. */
  abort(error: LoramuxError): void {
    this.#abort.abort(error);
  }

  /** Resolves when nothing is under way any more. */
  async idle(): Promise<void> {
    await this.#nameLock.idle();
    await this.#unknown.idle();
    await this.#digestLock.idle();
  }

  async #register(
    name: string,
    opened: OpenedSource,
    staged: string,
    options: PutOptions,
  ): Promise<PutResult> {
    const { base, now, files, maxGenerations } = this.#options;
    const result = await this.#convert(opened, staged);
    const kept: KeptGeneration = { ...result, base, source: opened.label, createdAt: now() };
    const release = await this.#commitFile(kept, staged);
    let keepFile = false;
    try {
      await files.ensureShared(kept.digest);
      const changed = await this.#change(name, true, (entry, nowSeconds) => {
        checkCondition(name, entry, options);
        const { canaryWeight, onlyNewContent } = options;
        const isKept = entry?.generations.some(({ digest }) => digest === kept.digest) ?? false;
        if (onlyNewContent === true && isKept) return entry;
        return putGeneration(entry, name, kept, { canaryWeight, maxGenerations, nowSeconds });
      });
      await this.#filesSettled(changed);
      const replaced = changed.before !== undefined || changed.wasDamaged;
      return { record: knownName(changed.after!).record, replaced };
    } catch (error) {
      // The registry may name the generation: its file stays until that is known.
      keepFile = isUnknownOutcome(error);
      if (keepFile) this.#unknown.ask(release);
      throw error;
    } finally {
      if (!keepFile) release();
    }
  }

  #convert(opened: OpenedSource, out: string): Promise<ConvertResult> {
    const { configPath, weightsPath, chatTemplatePath, tokenizerConfigPath, root } = opened;
    const { pool, maxRank, maxAdapterBytes, maxResidentBytes, loraDtype } = this.#options;
    const limits = { maxRank, maxAdapterBytes, maxResidentBytes, loraDtype };
    const chat = { chatTemplatePath, tokenizerConfigPath };
    return pool.convert({ configPath, weightsPath, ...chat, root, outPath: out, limits });
  }

  /** Makes the file durable; the returned function ends the promise to keep it. */
  #commitFile(meta: GenerationMeta, staged: string): Promise<() => void> {
    const { local } = this.#options;
    return this.#digestLock.run(meta.digest, async () => {
      const unreserve = this.#state.generations.reserve(meta);
      const unhold = local.hold(meta.digest);
      const release = () => {
        unhold();
        unreserve();
      };
      try {
        // Also over a file that is there: it may be the damaged one that this upload is to repair.
        await local.commit(staged, meta.digest);
        return release;
      } catch (error) {
        release();
        throw error;
      }
    });
  }

  async #change(name: string, replacesDamaged: boolean, next: Next): Promise<ChangedName> {
    const { backend, now } = this.#options;
    const changed = await changeName(backend, {
      name,
      replacesDamaged,
      next: (entry, isDamaged) => next(entry, now(), isDamaged),
      shareBlobs: (digests) => this.#shareAgain(digests),
    });
    const { before, after, revision } = changed;
    // Nothing was changed; what others changed comes with a reading, which also says when it is lost.
    if (after !== undefined && after === before) return changed;
    if (after !== undefined) this.#state.view.applyEntry(after);
    else this.#state.view.applyRemoval({ name, revision });
    this.#state.onChanged();
    return changed;
  }

  /** A name must not move to what cannot be loaded; a fleet may fetch it. */
  #checkFiles(before: NameEntry, after: NameEntry): NameEntry {
    const { files, local } = this.#options;
    if (files.shared) return after;
    for (const digest of [after.current, after.split?.digest]) {
      if (digest === undefined || local.has(digest)) continue;
      if (digest === before.current || digest === before.split?.digest) continue;
      throw new LoramuxError(
        'store_corrupt',
        `The file of generation ${digest} of ${JSON.stringify(before.name)} is gone; nothing was ` +
          'changed. Upload the adapter again.',
      );
    }
    return after;
  }

  /** Waits for the files that a change made superfluous to go. */
  async #filesSettled({ before, after }: ChangedName): Promise<void> {
    const kept = new Set(after?.entry.generations.map(({ digest }) => digest));
    for (const { digest } of before?.entry.generations ?? []) {
      if (!kept.has(digest)) await this.#digestLock.run(digest, async () => undefined);
    }
  }

  async #askIfUnknown<T>(changing: Promise<T>): Promise<T> {
    try {
      return await changing;
    } catch (error) {
      if (isUnknownOutcome(error)) this.#unknown.ask();
      throw error;
    }
  }

  async #shareAgain(digests: readonly string[]): Promise<void> {
    const { files, local } = this.#options;
    for (const digest of digests) if (local.has(digest)) await files.ensureShared(digest);
  }

  async #tolerate(what: string, work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      this.#options.onWarning(`The adapter store could not ${what}.`, error);
    }
  }
}

function isUnknownOutcome(error: unknown): boolean {
  return error instanceof LoramuxError && error.code === 'registry_outcome_unknown';
}

const NAME_SHOWN_MAX = 200;

/** The error for a name that no adapter has. */
export function notFound(name: string): LoramuxError {
  const shown = name.length > NAME_SHOWN_MAX ? `${name.slice(0, NAME_SHOWN_MAX)}...` : name;
  return new LoramuxError(
    'adapter_not_found',
    `No adapter is registered under the name ${JSON.stringify(shown)}.`,
  );
}
