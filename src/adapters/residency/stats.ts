/** Numbers and lists of what is resident, for metrics and clients. */
import type { HostTierStats } from '../service-types.ts';
import type { SlotBook, SlotEntry } from './slot-book.ts';
import type { AdapterResidencyStats, ResidentAdapter } from './types.ts';

type Derived =
  | 'residentBytes'
  | 'maxBytes'
  | 'resident'
  | 'loading'
  | 'referenced'
  | 'maxSlots'
  | 'hostBytes'
  | 'hostMaxBytes'
  | 'hostEntries'
  | 'hostHits';

/** What the book does not know. */
export type ResidencyCounts = Omit<AdapterResidencyStats, Derived> & {
  readonly host: HostTierStats | undefined;
};

export function residencyStats(book: SlotBook, counts: ResidencyCounts): AdapterResidencyStats {
  const { host, ...rest } = counts;
  const entries = [...book.values()];
  const count = (test: (entry: SlotEntry) => boolean): number => entries.filter(test).length;
  return {
    ...rest,
    residentBytes: book.bytes,
    maxBytes: book.maxBytes,
    resident: count((entry) => entry.state === 'resident'),
    loading: count((entry) => entry.state === 'loading'),
    referenced: count((entry) => entry.references > 0),
    maxSlots: book.maxSlots,
    hostBytes: host?.bytes ?? 0,
    hostMaxBytes: host?.maxBytes ?? 0,
    hostEntries: host?.entries ?? 0,
    hostHits: host?.hits ?? 0,
  };
}

/** @param failed digests of loads that failed a moment ago. */
export function residentAdapters(book: SlotBook, failed: readonly string[]): ResidentAdapter[] {
  const known = [...book.values()].map(
    ({ generation, state, slot, references, bytes, pinned }) => ({
      digest: generation.digest,
      state,
      slot: slot < 0 ? undefined : slot,
      references,
      bytes,
      pinned,
    }),
  );
  const forgotten = failed.map((digest) => ({
    digest,
    state: 'failed' as const,
    slot: undefined,
    references: 0,
    bytes: 0,
    pinned: false,
  }));
  return [...known, ...forgotten];
}
