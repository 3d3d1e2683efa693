/** What the request layer and start-up see of adapter registration. */
import type { AdapterImage } from '../native/addon-types.ts';
import type { LocalBlobStats } from './blobs/types.ts';
import type { KeptGeneration, RegistryStatus, ReplicaInfo, Split } from './registry/types.ts';
import type { AdapterGeneration, AdapterRecord } from './types.ts';

/** Files beside an adapter that may bring its own chat template. */
export interface ChatFilePaths {
  /** chat_template.jinja, which wins. */
  readonly chatTemplatePath?: string | undefined;
  readonly tokenizerConfigPath?: string | undefined;
}

/** Where the two PEFT files of an adapter are. */
export type AdapterSource =
  /** A PEFT directory; must lie under the configured adapter root after symbolic links. */
  | { readonly kind: 'directory'; readonly path: string }
  /**
   * Two complete temporary files of an upload (and those of its chat), best written below `AdapterService.uploadDir`.
   * The service owns them from the call on and removes them whatever the outcome.
   */
  | ({
      readonly kind: 'files';
      readonly configPath: string;
      readonly weightsPath: string;
    } & ChatFilePaths)
  /** A complete temporary file of an upload: an archive of a PEFT directory. Owned as above. */
  | { readonly kind: 'archive'; readonly path: string; readonly format: 'zip' | 'tar.gz' }
  /** A Hugging Face repository; a revision that is no commit id is resolved to one and recorded. */
  | {
      readonly kind: 'hub';
      /** `owner/name`. */
      readonly repo: string;
      readonly revision: string | undefined;
      readonly subfolder: string | undefined;
    }
  /** An https URL of an archive. */
  | { readonly kind: 'url'; readonly url: string };

/** What must hold for a change to be made; otherwise it is refused with generation_mismatch. */
export interface Condition {
  /** Digest that must be current; `*` when any will do, but the name must exist. */
  readonly ifMatch?: string | undefined;
  /** The name must not exist. */
  readonly ifNoneMatch?: boolean | undefined;
}

export interface PutOptions extends Condition {
  /** Give the new generation this share of the name's requests instead of moving the name. */
  readonly canaryWeight?: number | undefined;
  /** Leave a name as it is when it keeps this content already, current or not. */
  readonly onlyNewContent?: boolean | undefined;
}

export interface PutResult {
  /** The name afterwards: its current generation, and a canary in `split`. */
  readonly record: AdapterRecord;
  /** True when the name existed before, also when it already had this very content. */
  readonly replaced: boolean;
}

/** A name with all generations that it keeps. */
export interface AdapterHistory {
  readonly name: string;
  readonly revision: number;
  readonly current: string;
  readonly split: Split | undefined;
  readonly pinned: boolean;
  /** Most recently put first. */
  readonly generations: readonly KeptGeneration[];
}

/** A name whose stored files failed the check at start; it answers store_corrupt until replaced. */
export interface DamagedAdapter {
  readonly name: string;
  readonly reason: string;
}

/** Upper bounds the request layer applies before it hands files over. */
export interface AdapterServiceLimits {
  readonly maxAdapters: number;
  /** Bytes of adapter_model.safetensors. */
  readonly maxAdapterBytes: number;
  /** Bytes of adapter_config.json. */
  readonly maxConfigBytes: number;
  /** Bytes of chat_template.jinja and of tokenizer_config.json. */
  readonly maxChatTemplateBytes: number;
  readonly maxTokenizerConfigBytes: number;
  /** Bytes of an archive as it is sent. */
  readonly maxArchiveBytes: number;
}

export interface AdapterServiceStats {
  readonly names: number;
  readonly damaged: number;
  /** Distinct contents that a name or a hold keeps. */
  readonly generations: number;
  /** Bytes of their canonical files. */
  readonly storedBytes: number;
  /** Holds of requests and of residency that were not given back yet. */
  readonly holds: number;
  readonly pendingPuts: number;
  readonly disk: LocalBlobStats;
}

/** Names, their generations and the files behind them. Reads are synchronous and cheap. */
export interface AdapterService {
  readonly limits: AdapterServiceLimits;
  /** Absolute folder for temporary files of uploads; emptied at start. */
  readonly uploadDir: string;
  /**
   * Resolves when the registry was read for the first time (or the configured disk cache stands in
   * for it); rejects when the server is closed before.
   */
  readonly ready: Promise<void>;
  /** Whether that has happened: before it nothing is known, not even that a name does not exist. */
  readonly isKnown: boolean;
  /**
   * Refuses, before an upload is read, what `put` would refuse anyway as far as it is known here.
   * @throws LoramuxError adapter_name_invalid, adapter_limit_exceeded, generation_mismatch,
   *   queue_full, registry_unavailable, registry_lost, shutting_down.
   */
  checkPut(name: string, options?: PutOptions): void;
  /**
   * Checks, converts, stores and registers an adapter, or moves an existing name to it. Nothing is
   * registered and no file stays when it rejects. Calls for one name run in the order they came.
   *
   * @throws LoramuxError the codes of `checkPut`, adapter_too_large, adapter_never_fits,
   *   registry_conflict, registry_outcome_unknown, those of `SourceOpener`, and every content code
   *   (adapter_config_invalid, adapter_dora_unsupported, ...).
   */
  put(name: string, source: AdapterSource, options?: PutOptions): Promise<PutResult>;
  get(name: string): AdapterRecord | undefined;
  /** All healthy names, sorted. */
  list(): readonly AdapterRecord[];
  /**
   * The name with the generation that answers a request: the current one, or by its weight that of
   * the split. Equal keys get the same side for as long as the weight does not shrink; without a key
   * the side is drawn at random.
   * @throws LoramuxError adapter_not_found; store_corrupt when the stored entry is damaged;
   *   registry_unavailable when the name is unknown here and the registry cannot be asked.
   */
  resolve(name: string, splitKey?: string): AdapterRecord;
  /**
   * The generation with this digest, current or only kept, under the given name or else under one
   * that leads to it, or keeps it.
   * @throws LoramuxError as `resolve` for the name; generation_not_found; registry_unavailable when
   *   no name here has it and the registry cannot be asked.
   */
  resolveGeneration(digest: string, name?: string): AdapterRecord;
  /** @throws as `resolve`. */
  history(name: string): AdapterHistory;
  /**
   * The adapter's own chat templates, by name; none for most. Fetches its file if it is not here.
   * @throws LoramuxError adapter_not_found, store_corrupt, blob_missing, blob_unavailable
   */
  chatTemplates(generation: AdapterGeneration): Promise<ReadonlyMap<string, string>>;
  /**
   * Keeps a resolved generation loadable, whatever happens to its name, until the returned function
   * is called (idempotent). Call it in the same tick as `resolve`, give it back when the request ends.
   */
  hold(generation: AdapterGeneration): () => void;
  /**
   * Makes a kept generation current: the given one, or the one put before the current one. Ends a
   * split. @throws LoramuxError adapter_not_found, generation_not_found, generation_mismatch, ...
   */
  rollback(
    name: string,
    options?: { readonly generation?: string | undefined } & Condition,
  ): Promise<AdapterRecord>;
  /**
   * Gives a kept generation a share of the name's requests; undefined ends the split, leaving the
   * current generation. @throws LoramuxError as `rollback`; invalid_request when it is the current one.
   */
  setSplit(name: string, split: Split | undefined, condition?: Condition): Promise<AdapterRecord>;
  /**
   * Keeps the name's generations resident, here and on every replica with room, also after a restart.
   * @throws LoramuxError adapter_not_found, pin_limit_exceeded, ...
   */
  setPinned(name: string, pinned: boolean): Promise<AdapterRecord>;
  /** Removes the name; sequences that run with it finish undisturbed. @throws adapter_not_found. */
  remove(name: string, condition?: Condition): Promise<void>;
  damaged(): readonly DamagedAdapter[];
  stats(): AdapterServiceStats;
  registry(): RegistryStatus;
  /** Live replicas of the fleet, this one included. @throws registry_unavailable. */
  replicas(): Promise<readonly ReplicaInfo[]>;
  /** Names that lead to a generation (current or split). */
  namesOf(digest: string): readonly string[];
  /** Generations of pinned names, in the order they are to be honoured. */
  pinnedGenerations(): readonly AdapterGeneration[];
  /** Told when names, splits or pins changed, by this or another replica. */
  onChange(listener: () => void): void;
  /** Waits for conversions in flight, then releases the data folder. Idempotent. */
  close(): Promise<void>;
}

/** Which tier a load read its bytes from. */
export type LoadTier = 'host' | 'disk' | 'registry';

export interface OpenedImage {
  readonly image: AdapterImage;
  readonly tier: LoadTier;
  /** The load has ended: the image's bytes may go. Idempotent. */
  readonly release: () => void;
}

/** Numbers of the host tier. */
export interface HostTierStats {
  /** Loads that found their adapter in host memory. */
  readonly hits: number;
  readonly bytes: number;
  readonly maxBytes: number;
  readonly entries: number;
}

/** What residency needs of the service: images by generation, and news of retired generations. */
export interface AdapterImages {
  /** @throws LoramuxError adapter_not_found when no name and no hold keeps the generation. */
  openImage(generation: AdapterGeneration): Promise<OpenedImage>;
  /** Brings the generation to host memory if there is room; failures show at the load. */
  prefetchImage(generation: AdapterGeneration): void;
  /** Drops it from host memory. Returns whether it was there. */
  dropImage(digest: string): boolean;
  /** Whether host memory has it. */
  hasImage(digest: string): boolean;
  /** Absent where there is no host memory tier. */
  imageStats?(): HostTierStats;
  hold(generation: AdapterGeneration): () => void;
  /**
   * Called with a digest when it answers no request any more: no name leads to it (as current or
   * split) and no hold keeps it. Its file may stay for a rollback. One listener.
   */
  onRetired(listener: (digest: string) => void): void;
}
