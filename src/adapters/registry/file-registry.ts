/**
 * The embedded registry: one process, one folder (see name-folder.ts), everything known in memory.
 *
 * Memory says what the disk says. When an operation fails so that a name may have its old file or its
 * new one, the name is settled: what can be read is made durable and taken over. Until that works the
 * change was reported as registry_outcome_unknown and the name is neither read nor written.
 */
import { randomBytes } from 'node:crypto';
import { LoramuxError } from '../../errors.ts';
import { lockFolder } from '../../folder-lock.ts';
import { KeyedLock } from '../keyed-lock.ts';
import { nodeStoreFs, type StoreFs } from '../store/store-fs.ts';
import { decodeNameFile, encodeNameFile } from './name-files.ts';
import { NameFolder } from './name-folder.ts';
import { loadName, type NameChecks } from './name-loader.ts';
import { RevisionCounter } from './revision-counter.ts';
import type {
  GenerationMeta,
  NameEntry,
  RegistryBackend,
  RegistryDelta,
  RegistryListener,
  RegistrySnapshot,
  RegistryStatus,
  ReplicaInfo,
  VersionedEntry,
  WriteResult,
} from './types.ts';

/** Names checked at the same time at start. */
const OPEN_CONCURRENCY_MAX = 16;

export interface FileRegistryOptions {
  /** Created when missing. Canonical files may lie beside the registry's. */
  readonly root: string;
  /** Names it takes, damaged ones included. */
  readonly maxNames: number;
  /**
   * Says at start what is wrong with the canonical file of a generation, undefined when nothing is.
   * A name is damaged when the file of its current generation or of its split is; of older
   * generations it is a warning.
   */
  readonly checkBlob?: ((meta: GenerationMeta) => Promise<string | undefined>) | undefined;
  /** Something that costs nobody an answer: a leftover file, an older generation that is gone. */
  readonly onWarning?: ((message: string, error: unknown) => void) | undefined;
  readonly fs?: StoreFs | undefined;
}

export class FileRegistry implements RegistryBackend {
  readonly kind = 'file';
  readonly #maxNames: number;
  readonly #checks: NameChecks;
  readonly #folder: NameFolder;
  readonly #revisions: RevisionCounter;
  readonly #lock = new KeyedLock();
  readonly #names = new Map<string, VersionedEntry>();
  /** Reason by name. */
  readonly #damaged = new Map<string, string>();
  /** New names that are being written; they count towards the limit. */
  readonly #arriving = new Set<string>();
  /** Revision of the change by name whose outcome is not known. */
  readonly #unsettled = new Map<string, number>();
  #listener: RegistryListener | undefined;
  #isOpen = false;
  #opening: Promise<void> | undefined;
  #closing: Promise<void> | undefined;
  #unlock: (() => Promise<void>) | undefined;
  #sinceMs = Date.now();
  /** Of the newest change known. */
  #revision = 0;
  #reconciles = 0;
  #errors = 0;
  #self: ReplicaInfo | undefined;

  constructor(options: FileRegistryOptions) {
    const { root, maxNames, fs = nodeStoreFs, onWarning = () => undefined } = options;
    this.#maxNames = maxNames;
    this.#checks = { checkBlob: options.checkBlob ?? (async () => undefined), onWarning };
    const folder = new NameFolder(root, fs, onWarning);
    this.#folder = folder;
    this.#revisions = new RevisionCounter((bytes) => folder.writeCounter(bytes));
  }

  /**
   * @throws LoramuxError config_invalid when another process has the folder; what the disk throws.
   */
  open(listener: RegistryListener): Promise<void> {
    if (this.#opening !== undefined || this.#closing !== undefined) {
      return Promise.reject(unavailable('It was opened or closed before.'));
    }
    this.#opening = this.#open(listener);
    return this.#opening;
  }

  status(): RegistryStatus {
    const { size } = this.#unsettled;
    const unsettled =
      size === 0
        ? undefined
        : `It is not known whether all changes reached the disk (${size} open).`;
    return {
      kind: this.kind,
      state: this.#isOpen ? 'ok' : 'connecting',
      reason: this.#isOpen ? unsettled : 'It is not open.',
      sinceMs: this.#sinceMs,
      lagMs: 0,
      reconciles: this.#reconciles,
      events: 0,
      errors: this.#errors,
    };
  }

  async read(name: string): Promise<VersionedEntry | undefined> {
    this.#refuseUnlessOpen();
    if (this.#unsettled.has(name)) await this.#lock.run(name, () => this.#settle(name));
    const reason = this.#damaged.get(name);
    if (reason !== undefined) {
      throw new LoramuxError(
        'store_corrupt',
        `The stored adapter ${JSON.stringify(name)} is damaged (${reason}). ` +
          'Upload it again or remove it.',
      );
    }
    return this.#names.get(name);
  }

  async write(
    name: string,
    expected: number | 'damaged',
    next: NameEntry | undefined,
  ): Promise<WriteResult> {
    this.#refuseUnlessOpen();
    if (next !== undefined && next.name !== name) {
      throw new LoramuxError(
        'internal_error',
        `The entry of ${JSON.stringify(next.name)} was to be written as ${JSON.stringify(name)}.`,
      );
    }
    return this.#lock.run(name, () => this.#write(name, expected, next));
  }

  /** Settles what is unsettled and looks again at damaged names, which may have been repaired. */
  async reconcile(): Promise<void> {
    this.#refuseUnlessOpen();
    const before = this.#revision;
    await Promise.all([
      ...[...this.#unsettled.keys()].map((name) => this.#lock.run(name, () => this.#settle(name))),
      ...[...this.#damaged.keys()].map((name) =>
        this.#lock.run(name, async () => {
          if (!this.#damaged.has(name)) return;
          await this.#load(name);
          await this.#numberVersion1(name);
        }),
      ),
    ]);
    this.#reconciles++;
    this.#listener?.onSnapshot(this.#snapshot(), before);
  }

  async announce(self: ReplicaInfo): Promise<void> {
    this.#refuseUnlessOpen();
    this.#self = self;
  }

  async replicas(): Promise<readonly ReplicaInfo[]> {
    this.#refuseUnlessOpen();
    return this.#self === undefined ? [] : [this.#self];
  }

  /** Waits for changes that were begun, then gives the folder free. */
  close(): Promise<void> {
    this.#isOpen = false;
    this.#closing ??= (async () => {
      // Whoever opened it was told what went wrong.
      await this.#opening?.catch(() => undefined);
      this.#isOpen = false;
      await this.#lock.idle();
      await this.#release();
    })();
    return this.#closing;
  }

  async #open(listener: RegistryListener): Promise<void> {
    await this.#folder.makeFolders();
    this.#unlock = await lockFolder(this.#folder.names);
    try {
      await this.#folder.removeStaged();
      await this.#readAll();
    } catch (error) {
      await this.#release();
      throw error;
    }
    if (this.#closing !== undefined) return;
    this.#listener = listener;
    this.#isOpen = true;
    this.#sinceMs = Date.now();
    listener.onSnapshot(this.#snapshot(), 0);
    listener.onStatus(this.status());
  }

  async #readAll(): Promise<void> {
    const names = await this.#folder.list();
    for (let i = 0; i < names.length; i += OPEN_CONCURRENCY_MAX) {
      await Promise.all(names.slice(i, i + OPEN_CONCURRENCY_MAX).map((name) => this.#load(name)));
    }
    const problem = this.#revisions.start(await this.#folder.readCounter(), this.#revision);
    if (problem !== undefined) {
      this.#checks.onWarning(`The registry skips revisions: ${problem}.`, undefined);
    }
    for (const name of names) await this.#numberVersion1(name);
  }

  /** A file of version 1 has no revision; its entry gets one for as long as this process runs. */
  async #numberVersion1(name: string): Promise<void> {
    const versioned = this.#names.get(name);
    if (versioned === undefined || versioned.revision > 0) return;
    const revision = await this.#nextRevision();
    this.#names.set(name, Object.freeze({ ...versioned, revision }));
    this.#revision = Math.max(this.#revision, revision);
  }

  /** Takes over what a name's file holds. Revision 0 stands for a file of version 1. */
  async #load(name: string): Promise<void> {
    const loaded = await loadName(this.#folder, name, this.#checks);
    if (typeof loaded === 'string') {
      this.#damaged.set(name, loaded);
      return;
    }
    const { revision = 0, changeId, entry } = loaded;
    this.#damaged.delete(name);
    this.#names.set(name, Object.freeze({ revision, changeId, entry }));
    this.#revision = Math.max(this.#revision, revision);
    this.#revisions.observe(revision);
  }

  async #write(
    name: string,
    expected: number | 'damaged',
    entry: NameEntry | undefined,
  ): Promise<WriteResult> {
    await this.#settle(name);
    if (!this.#isAt(name, expected)) return { status: 'conflict' };
    const changeId = randomBytes(16).toString('hex');
    const isNew = expected === 0;
    if (isNew && entry === undefined) {
      return { status: 'written', revision: this.#revision, changeId };
    }
    if (isNew && this.#isFull()) return { status: 'full' };
    if (isNew) this.#arriving.add(name);
    try {
      const revision = await this.#nextRevision();
      const versioned = entry && Object.freeze({ revision, changeId, entry });
      await this.#change(name, revision, versioned);
      return { status: 'written', revision, changeId };
    } finally {
      this.#arriving.delete(name);
    }
  }

  /** Resolves when the change is durable and known. */
  async #change(
    name: string,
    revision: number,
    versioned: VersionedEntry | undefined,
  ): Promise<void> {
    const staged = versioned && (await this.#stage(versioned));
    try {
      if (staged === undefined) await this.#folder.remove(name);
      else await this.#folder.publish(staged, name);
    } catch (cause) {
      this.#errors++;
      this.#unsettled.set(name, revision);
      await this.#settleAfter(name, cause);
      if (staged !== undefined) await this.#folder.discard(staged);
      if (this.#isChanged(name, versioned)) return;
      throw unavailable(`The change of ${JSON.stringify(name)} failed on disk.`, cause);
    }
    this.#apply(name, revision, versioned);
  }

  async #stage(versioned: VersionedEntry): Promise<string> {
    let bytes: Uint8Array;
    try {
      bytes = encodeNameFile(versioned);
    } catch (cause) {
      const { message } = cause as Error;
      throw new LoramuxError('internal_error', `An entry cannot be stored: ${message}.`, { cause });
    }
    try {
      return await this.#folder.stage(bytes);
    } catch (cause) {
      this.#errors++;
      throw unavailable('The folder of the registry cannot be written.', cause);
    }
  }

  async #nextRevision(): Promise<number> {
    try {
      return await this.#revisions.next();
    } catch (cause) {
      this.#errors++;
      throw unavailable('The folder of the registry cannot be written.', cause);
    }
  }

  async #settleAfter(name: string, cause: unknown): Promise<void> {
    try {
      await this.#settle(name);
    } catch {
      this.#listener?.onStatus(this.status());
      throw new LoramuxError(
        'registry_outcome_unknown',
        `It is not known whether the change of ${JSON.stringify(name)} reached the disk ` +
          `(${(cause as Error).message}). Look at the name before you try again.`,
        { cause },
      );
    }
  }

  /**
   * After a failed change: what the folder shows is made durable and taken over.
   * @throws LoramuxError registry_unavailable when that fails too; the name stays unsettled.
   */
  async #settle(name: string): Promise<void> {
    const revision = this.#unsettled.get(name);
    if (revision === undefined) return;
    let bytes: Uint8Array | undefined;
    try {
      bytes = await this.#folder.read(name);
      await this.#folder.sync();
    } catch (cause) {
      this.#errors++;
      throw unavailable(`What is stored of ${JSON.stringify(name)} cannot be read.`, cause);
    }
    this.#unsettled.delete(name);
    if (bytes === undefined) {
      if (this.#exists(name)) this.#apply(name, revision, undefined);
    } else {
      this.#takeOver(name, bytes, revision);
    }
    this.#listener?.onStatus(this.status());
  }

  /** The file is the old one, as memory has it, or that of the change with this revision. */
  #takeOver(name: string, bytes: Uint8Array, revision: number): void {
    try {
      const { changeId, entry, ...file } = decodeNameFile(bytes, name);
      if (file.revision !== revision) return;
      this.#apply(name, revision, Object.freeze({ revision, changeId, entry }));
    } catch (error) {
      if (this.#damaged.has(name)) return;
      const reason = (error as Error).message;
      this.#names.delete(name);
      this.#damaged.set(name, reason);
      this.#tell({ damaged: [{ name, reason }] });
    }
  }

  #apply(name: string, revision: number, versioned: VersionedEntry | undefined): void {
    this.#damaged.delete(name);
    this.#revision = Math.max(this.#revision, revision);
    if (versioned === undefined) {
      this.#names.delete(name);
      this.#tell({ removed: [{ name, revision }] });
    } else {
      this.#names.set(name, versioned);
      this.#tell({ changed: [versioned] });
    }
  }

  #tell(delta: Partial<RegistryDelta>): void {
    const { changed = [], removed = [], damaged = [] } = delta;
    this.#listener?.onDelta({ revision: this.#revision, changed, removed, damaged });
  }

  #snapshot(): RegistrySnapshot {
    const byName = (a: { name: string }, b: { name: string }) => (a.name < b.name ? -1 : 1);
    return {
      revision: this.#revision,
      entries: [...this.#names.values()].sort((a, b) => byName(a.entry, b.entry)),
      damaged: [...this.#damaged].map(([name, reason]) => ({ name, reason })).sort(byName),
    };
  }

  #isAt(name: string, expected: number | 'damaged'): boolean {
    if (expected === 'damaged') return this.#damaged.has(name);
    return !this.#damaged.has(name) && (this.#names.get(name)?.revision ?? 0) === expected;
  }

  #isChanged(name: string, versioned: VersionedEntry | undefined): boolean {
    if (versioned === undefined) return !this.#exists(name);
    return this.#names.get(name)?.changeId === versioned.changeId;
  }

  #exists(name: string): boolean {
    return this.#names.has(name) || this.#damaged.has(name);
  }

  #isFull(): boolean {
    return this.#names.size + this.#damaged.size + this.#arriving.size >= this.#maxNames;
  }

  #refuseUnlessOpen(): void {
    if (!this.#isOpen) throw unavailable('It is not open.');
  }

  async #release(): Promise<void> {
    const unlock = this.#unlock;
    this.#unlock = undefined;
    await unlock?.();
  }
}

function unavailable(why: string, cause?: unknown): LoramuxError {
  const detail = cause instanceof Error ? ` (${cause.message})` : '';
  return new LoramuxError(
    'registry_unavailable',
    `The adapter registry cannot do this now; nothing was changed. ${why}${detail}`,
    { cause },
  );
}
