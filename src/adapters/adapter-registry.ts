/** Names, generations and references: the registry as this process knows it. */
import { LoramuxError, shuttingDown } from '../errors.ts';
import type { ManagedBlobFiles } from './blobs/blob-files.ts';
import { readStoredTemplates } from './chat-templates.ts';
import { MAX_TEMPLATE_BYTES, MAX_TOKENIZER_CONFIG_BYTES } from './formats/chat-templates.ts';
import { MAX_CONFIG_BYTES } from './formats/peft-config.ts';
import { type GenerationState, GenerationTable } from './generations.ts';
import { checkAdapterName } from './names.ts';
import { notFound, Registrar, type RegistrarOptions } from './registrar.ts';
import { checkCondition, rollback, setPinned, setSplit } from './registry/entry.ts';
import { chooseGeneration } from './registry/split.ts';
import type { RegistryStatus, ReplicaInfo, Split } from './registry/types.ts';
import { type KnownName, RegistryView } from './registry-view.ts';
import type { ImageTiers } from './residency/image-tiers.ts';
import type {
  AdapterHistory,
  AdapterImages,
  AdapterService,
  AdapterServiceLimits,
  AdapterServiceStats,
  AdapterSource,
  Condition,
  DamagedAdapter,
  HostTierStats,
  OpenedImage,
  PutOptions,
  PutResult,
} from './service-types.ts';
import type { AdapterGeneration, AdapterRecord } from './types.ts';

/** Registrations under way or waiting; more are refused with queue_full. */
export const MAX_PENDING_PUTS = 256;

/** Checked images of generations, in host memory as far as its budget goes. */
export type ImageLoader = Pick<
  ImageTiers,
  'open' | 'prefetch' | 'drop' | 'has' | 'digests' | 'stats' | 'close'
>;

export interface RegistryOptions extends RegistrarOptions {
  readonly images: ImageLoader;
  readonly files: ManagedBlobFiles;
  readonly baseModelName: string;
  readonly maxAdapters: number;
  readonly maxArchiveBytes: number;
  /** Ends what the composition added, after the backend and before the local files. */
  readonly onClose?: (() => Promise<void>) | undefined;
}

export class AdapterRegistry implements AdapterService, AdapterImages {
  readonly limits: AdapterServiceLimits;
  readonly uploadDir: string;
  readonly ready: Promise<void>;
  readonly #options: RegistryOptions;
  readonly #generations: GenerationTable;
  readonly #view: RegistryView;
  readonly #registrar: Registrar;
  /** New names whose registration is under way; they count towards the limit. */
  readonly #arriving = new Map<string, number>();
  readonly #listeners: (() => void)[] = [];
  readonly #settleReady: { resolve: () => void; reject: (error: LoramuxError) => void };
  #isKnown = false;
  #pendingPuts = 0;
  #changeQueued = false;
  #onRetired: (digest: string) => void = () => undefined;
  #closing: Promise<void> | undefined;

  /** Call `open` next. */
  constructor(options: RegistryOptions) {
    this.#options = options;
    this.uploadDir = options.local.uploadDir;
    this.limits = {
      maxAdapters: options.maxAdapters,
      maxAdapterBytes: options.maxAdapterBytes,
      maxConfigBytes: MAX_CONFIG_BYTES,
      maxChatTemplateBytes: MAX_TEMPLATE_BYTES,
      maxTokenizerConfigBytes: MAX_TOKENIZER_CONFIG_BYTES,
      maxArchiveBytes: options.maxArchiveBytes,
    };
    this.#generations = new GenerationTable({
      onRetired: (digest) => {
        options.images.drop(digest);
        this.#onRetired(digest);
      },
      onUnused: (digest) => void this.#registrar.removeFile(digest),
    });
    this.#view = new RegistryView({ generations: this.#generations, base: options.base });
    this.#registrar = new Registrar(options, {
      view: this.#view,
      generations: this.#generations,
      onChanged: () => this.#changed(),
    });
    let settle!: { resolve: () => void; reject: (error: LoramuxError) => void };
    this.ready = new Promise((resolve, reject) => {
      settle = { resolve, reject };
    });
    // Whoever waits is told; that nobody does is no error.
    this.ready.catch(() => undefined);
    this.#settleReady = settle;
  }

  /** Starts the registry; see `ready` for its first reading. */
  async open(): Promise<void> {
    const { backend, local } = this.#options;
    await backend.open({
      onSnapshot: (snapshot, before) => {
        this.#view.applySnapshot(snapshot, before);
        this.#isKnown = true;
        this.#settleReady.resolve();
        this.#changed();
      },
      onDelta: (delta) => {
        this.#view.applyDelta(delta);
        this.#changed();
      },
      onStatus: () => this.#changed(),
    });
    // What a crash left behind. Which files a damaged name needs is not known, so then all stay; a
    // fleet's files are a cache with a budget of its own.
    if (backend.kind !== 'file' || this.#view.numDamaged > 0) return;
    await local.retainOnly(new Set([...this.#generations.values()].map(({ meta }) => meta.digest)));
  }

  /** Names of adapters for a base model of another shape. */
  foreignNames(): readonly string[] {
    return this.#view.foreignNames();
  }

  /** Makes this replica visible to the others until the announcement expires. */
  announce(self: ReplicaInfo): Promise<void> {
    return this.#options.backend.announce(self);
  }

  /** What host memory holds, in bytes of canonical files. */
  hostImages(): { readonly digest: string; readonly bytes: number }[] {
    return this.#options.images.digests().map((digest) => ({
      digest,
      bytes: this.#generations.get(digest)?.meta.fileBytes ?? 0,
    }));
  }

  get isKnown(): boolean {
    return this.#isKnown;
  }

  checkPut(name: string, options: PutOptions = {}): void {
    checkAdapterName(name, this.#options.baseModelName);
    this.#refuseWhenClosing();
    this.#refuseWhenAway();
    if (this.#pendingPuts >= MAX_PENDING_PUTS) {
      throw new LoramuxError(
        'queue_full',
        `${this.#pendingPuts} adapters are being registered; retry later.`,
      );
    }
    const known = this.#view.get(name)?.versioned.entry;
    // Another replica's change may not have arrived here yet; the write itself decides then.
    if (this.#options.backend.kind === 'file') checkCondition(name, known, options);
    if (!this.#exists(name)) this.#refuseWhenFull();
  }

  async put(name: string, source: AdapterSource, options: PutOptions = {}): Promise<PutResult> {
    let leave: (() => void) | undefined;
    try {
      this.checkPut(name, options);
      leave = this.#arrive(name);
      return await this.#registrar.put(name, source, options);
    } finally {
      leave?.();
      await this.#registrar.removeUpload(source);
    }
  }

  get(name: string): AdapterRecord | undefined {
    return this.#view.get(name)?.record;
  }

  list(): readonly AdapterRecord[] {
    return this.#view.list();
  }

  resolve(name: string, splitKey?: string): AdapterRecord {
    const { versioned, record, splitRecord } = this.#known(name);
    if (splitRecord === undefined) return record;
    const digest = chooseGeneration(versioned.entry, splitKey);
    return digest === record.generation.digest ? record : splitRecord;
  }

  resolveGeneration(digest: string, name?: string): AdapterRecord {
    const holder = name ?? firstName(this.#generations.get(digest));
    const record = holder === undefined ? undefined : this.#known(holder).recordWith(digest);
    if (record !== undefined) return record;
    this.#refuseWhenAway();
    const keeps =
      name === undefined ? 'No adapter keeps' : `The adapter ${JSON.stringify(name)} does not keep`;
    throw new LoramuxError('generation_not_found', `${keeps} the generation ${digest}.`);
  }

  history(name: string): AdapterHistory {
    const { entry, revision } = this.#known(name).versioned;
    const { current, split, pinned, generations } = entry;
    return { name, revision, current, split, pinned, generations };
  }

  imageStats(): HostTierStats {
    return this.#options.images.stats();
  }

  hold(generation: AdapterGeneration): () => void {
    return this.#generations.hold(generation.digest);
  }

  async rollback(
    name: string,
    options: { readonly generation?: string | undefined } & Condition = {},
  ): Promise<AdapterRecord> {
    this.#refuseWhenClosing();
    const { generation } = options;
    return this.#registrar.edit(name, options, (entry, now) => rollback(entry, generation, now));
  }

  async setSplit(
    name: string,
    split: Split | undefined,
    condition: Condition = {},
  ): Promise<AdapterRecord> {
    this.#refuseWhenClosing();
    return this.#registrar.edit(name, condition, (entry, now) => setSplit(entry, split, now));
  }

  async setPinned(name: string, pinned: boolean): Promise<AdapterRecord> {
    this.#refuseWhenClosing();
    return this.#registrar.edit(name, {}, (entry, now) => setPinned(entry, pinned, now));
  }

  async remove(name: string, condition: Condition = {}): Promise<void> {
    this.#refuseWhenClosing();
    return this.#registrar.remove(name, condition);
  }

  damaged(): readonly DamagedAdapter[] {
    return this.#view.damaged();
  }

  stats(): AdapterServiceStats {
    return {
      names: this.#view.size,
      damaged: this.#view.numDamaged,
      generations: this.#generations.size,
      storedBytes: this.#generations.storedBytes,
      holds: this.#generations.holds,
      pendingPuts: this.#pendingPuts,
      disk: this.#options.local.stats(),
    };
  }

  registry(): RegistryStatus {
    return this.#options.backend.status();
  }

  async replicas(): Promise<readonly ReplicaInfo[]> {
    return this.#options.backend.replicas();
  }

  /** Newest revision of the registry that is applied here. */
  get revision(): number {
    return this.#view.revision;
  }

  namesOf(digest: string): readonly string[] {
    return [...(this.#generations.get(digest)?.servedBy ?? [])];
  }

  pinnedGenerations(): readonly AdapterGeneration[] {
    const pinned = this.#view.pinned();
    pinned.sort((a, b) => a.versioned.entry.createdAt - b.versioned.entry.createdAt);
    const byDigest = new Map<string, AdapterGeneration>();
    for (const { record, splitRecord } of pinned) {
      byDigest.set(record.generation.digest, record.generation);
      const split = splitRecord?.generation;
      if (split !== undefined) byDigest.set(split.digest, split);
    }
    return [...byDigest.values()];
  }

  onChange(listener: () => void): void {
    this.#listeners.push(listener);
  }

  async chatTemplates(generation: AdapterGeneration): Promise<ReadonlyMap<string, string>> {
    const state = this.#generations.stateOf(generation.digest);
    const release = this.hold(generation);
    try {
      return await readStoredTemplates(this.#options.files, state.meta);
    } finally {
      release();
    }
  }

  async openImage(generation: AdapterGeneration): Promise<OpenedImage> {
    const state = this.#generations.stateOf(generation.digest);
    const release = this.hold(generation);
    try {
      return await this.#options.images.open(state.meta);
    } finally {
      release();
    }
  }

  prefetchImage(generation: AdapterGeneration): void {
    const state = this.#generations.get(generation.digest);
    if (state !== undefined) this.#options.images.prefetch(state.meta);
  }

  dropImage(digest: string): boolean {
    return this.#options.images.drop(digest);
  }

  hasImage(digest: string): boolean {
    return this.#options.images.has(digest);
  }

  onRetired(listener: (digest: string) => void): void {
    this.#onRetired = listener;
  }

  /**
   * Ends transfers and fetches of sources, which may wait long for somebody who hangs; what needs them
   * fails. Call it before that which waits for loads. Idempotent.
   */
  async stop(): Promise<void> {
    const error = shuttingDown();
    this.#settleReady.reject(error);
    this.#registrar.abort(error);
    await this.#options.files.close();
  }

  close(): Promise<void> {
    this.#closing ??= (async () => {
      const { backend, images, pool, local, onClose } = this.#options;
      await this.stop();
      await images.close();
      await pool.close();
      await this.#registrar.idle();
      await backend.close();
      await onClose?.();
      await local.close();
    })();
    return this.#closing;
  }

  #known(name: string): KnownName {
    const known = this.#view.get(name);
    if (known !== undefined) return known;
    const damage = this.#view.damage(name);
    if (damage !== undefined) {
      throw new LoramuxError(
        'store_corrupt',
        `The stored adapter ${JSON.stringify(name)} is damaged (${damage.reason}). ` +
          'Upload it again or remove it.',
      );
    }
    this.#refuseWhenAway();
    throw notFound(name);
  }

  #exists(name: string): boolean {
    return this.#view.get(name) !== undefined || this.#view.damage(name) !== undefined;
  }

  /** Counts a registration, and the name if it is new; the returned function ends that. */
  #arrive(name: string): () => void {
    this.#pendingPuts++;
    const isNew = !this.#exists(name);
    if (isNew) this.#arriving.set(name, (this.#arriving.get(name) ?? 0) + 1);
    return () => {
      this.#pendingPuts--;
      if (!isNew) return;
      const others = this.#arriving.get(name)! - 1;
      if (others === 0) this.#arriving.delete(name);
      else this.#arriving.set(name, others);
    };
  }

  /** Tells the listeners once per turn, however much changed. */
  #changed(): void {
    if (this.#changeQueued) return;
    this.#changeQueued = true;
    setImmediate(() => {
      this.#changeQueued = false;
      if (this.#closing !== undefined) return;
      for (const listener of this.#listeners) listener();
    });
  }

  #refuseWhenClosing(): void {
    if (this.#closing !== undefined) {
      throw shuttingDown();
    }
  }

  /** What is unknown here may exist; whether it does cannot be asked. */
  #refuseWhenAway(): void {
    const { state, reason } = this.#options.backend.status();
    if (state === 'ok') return;
    const code = state === 'lost' ? 'registry_lost' : 'registry_unavailable';
    const why = reason === undefined ? '' : `: ${reason}`;
    throw new LoramuxError(code, `The adapter registry is ${state}${why}; retry later.`);
  }

  #refuseWhenFull(): void {
    const { maxAdapters } = this.#options;
    const others = [...this.#arriving.keys()].filter((name) => !this.#exists(name)).length;
    if (this.#view.size + this.#view.numDamaged + others < maxAdapters) return;
    throw new LoramuxError(
      'adapter_limit_exceeded',
      `${maxAdapters} adapters are registered, which is the limit. Remove one first.`,
    );
  }
}

/** The name that stands for a generation: the first, by letters, of those that lead to it. */
function firstName(state: GenerationState | undefined): string | undefined {
  const names = state?.servedBy.size ? state.servedBy : state?.keptBy;
  let first: string | undefined;
  for (const name of names ?? []) if (first === undefined || name < first) first = name;
  return first;
}
