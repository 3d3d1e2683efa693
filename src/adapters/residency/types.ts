/** Options, events and numbers of adapter residency. */
import type { LoraDtype, NativeSession } from '../../native/addon-types.ts';
import type { AdapterImages, LoadTier } from '../service-types.ts';

export interface ResidencyOptions {
  readonly native: Pick<NativeSession, 'loadAdapter' | 'freeAdapter'>;
  readonly images: AdapterImages;
  /** As the native session was created with. */
  readonly maxSlots: number;
  /** Adapter memory, bytes. */
  readonly maxBytes: number;
  /** As the native session was created with; default float32. */
  readonly loraDtype?: LoraDtype | undefined;
  /** Adapters that are checked and read at the same time. */
  readonly maxConcurrentLoads?: number | undefined;
  /**
   * How long a failed load answers with its error before it is tried again, milliseconds. Loads of
   * pinned adapters are tried again after this long, then twice as long each time.
   */
  readonly failureRetryMs?: number | undefined;
  /** Must be quick and must not throw. */
  readonly onEvent?: ((event: ResidencyEvent) => void) | undefined;
  /** Milliseconds, monotonic. */
  readonly now?: (() => number) | undefined;
}

export type ResidencyEvent =
  | {
      readonly kind: 'loaded';
      readonly digest: string;
      readonly bytes: number;
      readonly ms: number;
      readonly tier: LoadTier;
    }
  /** Loaded, and nobody had asked for more than a prefetch by then. */
  | { readonly kind: 'prefetched'; readonly digest: string }
  | { readonly kind: 'load_failed'; readonly digest: string; readonly error: unknown }
  /** Made room for another adapter, or somebody wanted it out. */
  | {
      readonly kind: 'evicted';
      readonly digest: string;
      readonly reason: 'room' | 'request';
    }
  /** No name and no request keeps it any more. */
  | { readonly kind: 'retired'; readonly digest: string }
  /** There is no room for this pin beside the earlier ones; it is loaded on demand only. */
  | { readonly kind: 'pin_left_out'; readonly digest: string; readonly reason: string }
  /** The session refused to free a slot without references: a defect; freeing is tried again. */
  | { readonly kind: 'free_refused'; readonly digest: string; readonly error: unknown };

export type ResidencyState = 'waiting' | 'loading' | 'resident' | 'failed';

export interface AdapterResidencyStats {
  /** Acquisitions that found the adapter resident at once. */
  readonly hits: number;
  /** Acquisitions that had to wait for a load. */
  readonly misses: number;
  readonly loads: number;
  /** By where their bytes came from. */
  readonly loadsByTier: Readonly<Record<LoadTier, number>>;
  readonly loadFailures: number;
  readonly evictions: number;
  readonly freesRefused: number;
  /** Milliseconds from the start of a load to its end, summed over `loads`. */
  readonly loadMsSum: number;
  readonly residentBytes: number;
  readonly maxBytes: number;
  readonly resident: number;
  readonly loading: number;
  readonly waiting: number;
  /** Resident adapters with references. */
  readonly referenced: number;
  readonly maxSlots: number;
  /** Pins in force, loaded or on their way. */
  readonly pinned: number;
  readonly hostBytes: number;
  readonly hostMaxBytes: number;
  readonly hostEntries: number;
  /** Loads that found their adapter in host memory. */
  readonly hostHits: number;
}

export interface ResidentAdapter {
  readonly digest: string;
  readonly state: ResidencyState;
  /** Undefined while it waits or has failed. */
  readonly slot: number | undefined;
  readonly references: number;
  readonly bytes: number;
  readonly pinned: boolean;
}
