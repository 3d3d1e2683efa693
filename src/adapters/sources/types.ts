/** Turning any source of an adapter into its two PEFT files on local disk. */
import type { AdapterSource, ChatFilePaths } from '../service-types.ts';

export interface OpenedSource extends ChatFilePaths {
  readonly configPath: string;
  readonly weightsPath: string;
  /** When given, both files must really lie below it (checked again on the open descriptors). */
  readonly root: string | undefined;
  /** For `source` of the adapter: path below the root, `hf:org/repo@commit`, URL or `upload`. */
  readonly label: string;
  /** Removes what was made for it. Idempotent; never rejects. */
  cleanup(): Promise<void>;
}

export interface SourceOpener {
  /**
   * @throws LoramuxError adapter_path_forbidden, adapter_upload_incomplete, adapter_pickle_refused,
   *   adapter_too_large, archive_invalid, archive_unsafe, archive_limit_exceeded, source_forbidden,
   *   source_not_found, source_unavailable, invalid_request; errors of the local disk as they are;
   *   the signal's reason. Nothing stays when it rejects.
   */
  open(source: AdapterSource, signal: AbortSignal): Promise<OpenedSource>;
}
