/** What the request layer and start-up see of adapter registration. */
import type { AdapterImage } from '../native/addon-types.ts';
import type { AdapterGeneration, AdapterRecord } from './types.ts';

/** Where the two PEFT files of an upload are. */
export type AdapterSource =
  /** A PEFT directory; must lie under the configured adapter root after symbolic links. */
  | { readonly kind: 'directory'; readonly path: string }
  /**
   * Two complete temporary files of an upload, best written below `AdapterService.uploadDir`.
   * The service owns them from the call on and removes them whatever the outcome.
   */
  | { readonly kind: 'files'; readonly configPath: string; readonly weightsPath: string };

export interface PutResult {
  readonly record: AdapterRecord;
  /** True when the name existed before, also when it already had this very content. */
  readonly replaced: boolean;
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
}

/** Names, their generations and the files behind them. Reads are synchronous and cheap. */
export interface AdapterService {
  readonly limits: AdapterServiceLimits;
  /** Absolute folder for temporary files of uploads; emptied at start. */
  readonly uploadDir: string;
  /**
   * Checks, converts, stores and registers an adapter, or moves an existing name to it. Nothing is
   * registered and no file stays when it rejects. Calls for one name run in the order they came.
   *
   * @throws LoramuxError adapter_name_invalid, adapter_limit_exceeded, adapter_too_large,
   *   adapter_never_fits, adapter_path_forbidden, adapter_upload_incomplete, queue_full,
   *   shutting_down, and every content code (adapter_config_invalid, adapter_dora_unsupported, ...).
   */
  put(name: string, source: AdapterSource): Promise<PutResult>;
  get(name: string): AdapterRecord | undefined;
  /** All healthy names, sorted. */
  list(): readonly AdapterRecord[];
  /** @throws LoramuxError adapter_not_found; store_corrupt when the stored files are damaged. */
  resolve(name: string): AdapterRecord;
  /**
   * Keeps a resolved generation loadable, whatever happens to its name, until the returned function
   * is called (idempotent). Call it in the same tick as `resolve`, give it back when the request ends.
   */
  hold(generation: AdapterGeneration): () => void;
  /** Removes the name; sequences that run with it finish undisturbed. @throws adapter_not_found. */
  remove(name: string): Promise<void>;
  damaged(): readonly DamagedAdapter[];
  stats(): AdapterServiceStats;
  /** Waits for conversions in flight, then releases the data folder. Idempotent. */
  close(): Promise<void>;
}

/** What residency needs of the service: files by generation, and news of retired generations. */
export interface AdapterImages {
  /** @throws LoramuxError adapter_not_found when no name and no hold keeps the generation. */
  openImage(generation: AdapterGeneration): Promise<AdapterImage>;
  hold(generation: AdapterGeneration): () => void;
  /** Called with a digest when neither a name nor a hold keeps it any more. One listener. */
  onRetired(listener: (digest: string) => void): void;
}
