/** Public surface of the adapter layer, and its composition. */
import { realpath } from 'node:fs/promises';
import { LoramuxError } from '../errors.ts';
import type { ModuleDescription } from '../importer/types.ts';
import type { LoraDtype } from '../native/addon-types.ts';
import { AdapterRegistry } from './adapter-registry.ts';
import { ConvertPool, DEFAULT_CONVERT_THREADS } from './convert/pool.ts';
import { baseShapesDigest } from './formats/canonical-file.ts';
import { MAX_CONFIG_BYTES } from './formats/peft-config.ts';
import { createImageTiers } from './residency/image-tiers.ts';
import { SlotResidency } from './residency/slot-residency.ts';
import type { ResidencyOptions } from './residency/types.ts';
import { type ArchiveLimits, maxArchiveBytes } from './sources/archive-contents.ts';
import { createSourceOpener } from './sources/opener.ts';
import type { SourceOpener } from './sources/types.ts';
import { type FleetOptions, openEmbedded, openFleet } from './storage.ts';

export type { AdapterRegistry } from './adapter-registry.ts';
export type { SlotResidency } from './residency/slot-residency.ts';
export type * from './residency/types.ts';
export type * from './service-types.ts';
export type { FleetOptions } from './storage.ts';
export type * from './types.ts';

export const DEFAULT_MAX_ADAPTERS = 10_000;
export const DEFAULT_MAX_GENERATIONS = 5;
export const DEFAULT_MAX_ADAPTER_BYTES = 512 * 1024 ** 2;
export const DEFAULT_MAX_RANK = 256;
export const DEFAULT_HOST_CACHE_BYTES = 512 * 1024 ** 2;
export const DEFAULT_MAX_ARCHIVE_ENTRIES = 64;
export const DEFAULT_SOURCE_TIMEOUT_MS = 600_000;
const DEFAULT_HUB_ENDPOINT = 'https://huggingface.co';

/** What may be fetched from elsewhere. */
export interface RemoteSourceOptions {
  /** Whether to fetch from the hub and from URLs at all. */
  readonly remote: boolean;
  readonly allowPrivate: boolean;
  readonly hubEndpoint: string;
  readonly hubToken?: string | undefined;
  readonly timeoutMs: number;
}

export interface AdapterServiceOptions {
  /** The server's data folder; the registry takes `adapters/` below it. */
  readonly dataDir: string;
  /** Folder that PUT with a path may read from; undefined forbids it. */
  readonly adapterRoot?: string | undefined;
  /** No adapter may have this name. */
  readonly baseModelName: string;
  /** All modules of the base model, from the importer. */
  readonly modules: readonly ModuleDescription[];
  /** Adapter memory of the session, bytes: what can never fit is refused at once. */
  readonly maxResidentBytes: number;
  /** Of adapters in slots; default float32. */
  readonly loraDtype?: LoraDtype | undefined;
  /** Host memory for checked files that are not resident, bytes. */
  readonly hostCacheBytes?: number | undefined;
  readonly maxAdapters?: number | undefined;
  /** Generations a name keeps, the current one included. */
  readonly maxGenerations?: number | undefined;
  /** Largest adapter_model.safetensors. */
  readonly maxAdapterBytes?: number | undefined;
  readonly maxRank?: number | undefined;
  readonly maxArchiveEntries?: number | undefined;
  readonly sources?: RemoteSourceOptions | undefined;
  /** Share the registry with others; otherwise it is embedded in the data folder. */
  readonly fleet?: FleetOptions | undefined;
  readonly convertThreads?: number | undefined;
  /** Hash a stored file again before each load; default true. */
  readonly verifyOnLoad?: boolean | undefined;
  /** Something failed that no request can be told about. */
  readonly onWarning?: ((message: string, error: unknown) => void) | undefined;
  /** Milliseconds since the epoch. */
  readonly now?: (() => number) | undefined;
}

/**
 * Opens the registry and takes the data folder for this process.
 * @throws LoramuxError config_invalid: the data folder is in use, the registry holds adapters for a
 *   base model of another shape, or the adapter root does not exist.
 */
export async function createAdapterService(
  options: AdapterServiceOptions,
): Promise<AdapterRegistry> {
  const { onWarning = () => undefined, maxAdapters = DEFAULT_MAX_ADAPTERS } = options;
  const adapterRoot = await resolveRoot(options.adapterRoot);
  const { dataDir, fleet } = options;
  const common = { dataDir, maxAdapters, onWarning };
  const storage = await (fleet === undefined
    ? openEmbedded(common)
    : openFleet({ ...common, ...fleet }));
  const { now = Date.now, convertThreads: threads = DEFAULT_CONVERT_THREADS } = options;
  const limits: ArchiveLimits = {
    maxAdapterBytes: options.maxAdapterBytes ?? DEFAULT_MAX_ADAPTER_BYTES,
    maxConfigBytes: MAX_CONFIG_BYTES,
    maxArchiveEntries: options.maxArchiveEntries ?? DEFAULT_MAX_ARCHIVE_ENTRIES,
  };
  try {
    const pool = new ConvertPool({ modules: options.modules, threads });
    const registry = new AdapterRegistry({
      ...storage,
      images: createImageTiers({
        files: storage.files,
        pool,
        budgetBytes: options.hostCacheBytes ?? DEFAULT_HOST_CACHE_BYTES,
        verify: options.verifyOnLoad ?? true,
        onWarning,
      }),
      opener: openerOf(options, limits, storage.local.uploadDir, adapterRoot),
      pool,
      baseModelName: options.baseModelName,
      base: baseShapesDigest(options.modules),
      maxAdapters,
      maxGenerations: options.maxGenerations ?? DEFAULT_MAX_GENERATIONS,
      maxAdapterBytes: limits.maxAdapterBytes,
      maxArchiveBytes: maxArchiveBytes(limits),
      maxRank: options.maxRank ?? DEFAULT_MAX_RANK,
      maxResidentBytes: options.maxResidentBytes,
      loraDtype: options.loraDtype,
      now: () => Math.floor(now() / 1000),
      onWarning,
    });
    await openRegistry(registry, options);
    return registry;
  } catch (error) {
    await storage.files.close();
    await storage.onClose?.();
    await storage.local.close();
    throw error;
  }
}

/** Slots of the native session, filled on demand. Takes over `images.onRetired`. */
export function createResidency(options: ResidencyOptions): SlotResidency {
  return new SlotResidency(options);
}

async function openRegistry(
  registry: AdapterRegistry,
  { dataDir, fleet }: AdapterServiceOptions,
): Promise<void> {
  try {
    await registry.open();
    const [foreign, ...more] = registry.foreignNames();
    if (foreign === undefined) return;
    const [place, remedy] =
      fleet === undefined
        ? [`The data folder ${dataDir}`, 'another data folder']
        : [`The registry in Redis under the prefix ${fleet.prefix}`, 'another prefix'];
    throw new LoramuxError(
      'config_invalid',
      `${place} holds ${more.length + 1} adapters (such as ${foreign}) for a base model of another ` +
        `shape. Choose ${remedy}.`,
    );
  } catch (error) {
    await registry.close();
    throw error;
  }
}

function openerOf(
  options: AdapterServiceOptions,
  limits: ArchiveLimits,
  workDir: string,
  adapterRoot: string | undefined,
): SourceOpener {
  const { sources, onWarning = () => undefined } = options;
  return createSourceOpener({
    workDir,
    adapterRoot,
    limits,
    hub: { endpoint: sources?.hubEndpoint ?? DEFAULT_HUB_ENDPOINT, token: sources?.hubToken },
    remote: sources?.remote ?? true,
    allowPrivate: sources?.allowPrivate ?? false,
    timeoutMs: sources?.timeoutMs ?? DEFAULT_SOURCE_TIMEOUT_MS,
    onWarning,
  });
}

async function resolveRoot(root: string | undefined): Promise<string | undefined> {
  if (root === undefined) return undefined;
  try {
    return await realpath(root);
  } catch (cause) {
    throw new LoramuxError('config_invalid', `The adapter root ${root} does not exist.`, { cause });
  }
}
