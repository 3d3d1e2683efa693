/** Public surface of the adapter layer. */
import { realpath } from 'node:fs/promises';
import path from 'node:path';
import { LoramuxError } from '../errors.ts';
import type { ModuleDescription } from '../importer/types.ts';
import { ConvertPool, DEFAULT_CONVERT_THREADS } from './convert/pool.ts';
import { baseShapesDigest } from './formats/canonical-file.ts';
import { SlotResidency } from './residency/slot-residency.ts';
import type { ResidencyOptions } from './residency/types.ts';
import { AdapterRegistry } from './service.ts';
import type { AdapterImages, AdapterService } from './service-types.ts';
import { FileAdapterStore } from './store/file-store.ts';
import type { AdapterStore } from './store/types.ts';

export type { SlotResidency } from './residency/slot-residency.ts';
export type * from './residency/types.ts';
export type * from './service-types.ts';
export type { AdapterStore, StoreContents, StoredAdapter } from './store/types.ts';
export type * from './types.ts';

export const DEFAULT_MAX_ADAPTERS = 10_000;
export const DEFAULT_MAX_ADAPTER_BYTES = 2 * 1024 ** 3;
export const DEFAULT_MAX_RANK = 256;

export interface AdapterServiceOptions {
  /** The server's data folder; the store takes `adapters/` below it. */
  readonly dataDir: string;
  /** Folder that PUT with a path may read from; undefined forbids it. */
  readonly adapterRoot?: string | undefined;
  /** No adapter may have this name. */
  readonly baseModelName: string;
  /** All modules of the base model, from the importer. */
  readonly modules: readonly ModuleDescription[];
  /** Adapter memory of the session, bytes: what can never fit is refused at once. */
  readonly maxResidentBytes: number;
  readonly maxAdapters?: number | undefined;
  /** Largest adapter_model.safetensors. */
  readonly maxAdapterBytes?: number | undefined;
  readonly maxRank?: number | undefined;
  readonly convertThreads?: number | undefined;
  /** Hash a stored file again before each load; default true. */
  readonly verifyOnLoad?: boolean | undefined;
  /** A leftover file could not be removed. */
  readonly onWarning?: ((message: string, error: unknown) => void) | undefined;
  /** Milliseconds since the epoch. */
  readonly now?: (() => number) | undefined;
  /** Another durable registry than the embedded one. */
  readonly store?: AdapterStore | undefined;
}

/**
 * Opens the store and takes it for this process.
 * @throws LoramuxError config_invalid: the data folder is in use, holds adapters for a base model of
 *   another shape, or the adapter root does not exist.
 */
export async function createAdapterService(
  options: AdapterServiceOptions,
): Promise<AdapterService & AdapterImages> {
  const store = options.store ?? new FileAdapterStore(path.join(options.dataDir, 'adapters'));
  const adapterRoot = await resolveRoot(options.adapterRoot);
  const base = baseShapesDigest(options.modules);
  const contents = await store.open();
  const foreign = contents.adapters.filter((adapter) => adapter.base !== base);
  if (foreign.length > 0) {
    await store.close();
    throw new LoramuxError(
      'config_invalid',
      `The data folder ${options.dataDir} holds ${foreign.length} adapters (such as ` +
        `${foreign[0]!.name}) for a base model of another shape. Choose another data folder.`,
    );
  }
  const { now = Date.now } = options;
  const threads = options.convertThreads ?? DEFAULT_CONVERT_THREADS;
  return new AdapterRegistry({
    store,
    contents,
    pool: new ConvertPool({ modules: options.modules, threads }),
    baseModelName: options.baseModelName,
    base,
    adapterRoot,
    maxAdapters: options.maxAdapters ?? DEFAULT_MAX_ADAPTERS,
    maxAdapterBytes: options.maxAdapterBytes ?? DEFAULT_MAX_ADAPTER_BYTES,
    maxRank: options.maxRank ?? DEFAULT_MAX_RANK,
    maxResidentBytes: options.maxResidentBytes,
    verifyOnLoad: options.verifyOnLoad ?? true,
    now: () => Math.floor(now() / 1000),
    onWarning: options.onWarning ?? (() => undefined),
  });
}

/** Slots of the native session, filled on demand. Takes over `images.onRetired`. */
export function createResidency(options: ResidencyOptions): SlotResidency {
  return new SlotResidency(options);
}

async function resolveRoot(root: string | undefined): Promise<string | undefined> {
  if (root === undefined) return undefined;
  try {
    return await realpath(root);
  } catch (cause) {
    throw new LoramuxError('config_invalid', `The adapter root ${root} does not exist.`, { cause });
  }
}
