/** Records of the adapter layer as JSON objects. */
import type { KeptGeneration, ReplicaInfo } from '../../adapters/registry/types.ts';
import type { AdapterHistory, AdapterService } from '../../adapters/service-types.ts';
import type {
  AdapterGeneration,
  AdapterRecord,
  ResidencyControl,
  ResidencyView,
} from '../../adapters/types.ts';
import type {
  WireAdapter,
  WireGeneration,
  WireReplica,
  WireResidency,
} from '../schemas/adapters.ts';

/**
 * A name with its current generation, where `resolve` would choose a side of a split.
 * @throws LoramuxError adapter_not_found, store_corrupt, registry_unavailable
 */
export function recordOf(
  adapters: Pick<AdapterService, 'get' | 'resolve'>,
  name: string,
): AdapterRecord {
  return adapters.get(name) ?? adapters.resolve(name);
}

type View = Pick<ResidencyControl, 'view'>;

export function wireResidency(view: ResidencyView): WireResidency {
  const { level, pinned, references, evicting } = view;
  return { level, pinned, references, evicting };
}

/** What changes only with the name, so that its text can be kept. */
export function wireRecord(record: AdapterRecord): Omit<WireAdapter, 'residency'> {
  const { split } = record;
  return {
    name: record.name,
    object: 'adapter',
    generation: record.generation.digest,
    created: record.createdAt,
    updated: record.updatedAt,
    rank: record.generation.rank,
    target_modules: [...record.targetModules],
    resident_bytes: record.generation.residentBytes,
    file_bytes: record.fileBytes,
    has_chat_template: record.hasChatTemplate === true,
    source: record.source,
    revision: record.revision,
    generations: record.numGenerations,
    split:
      split === undefined ? null : { generation: split.generation.digest, weight: split.weight },
    pinned: record.pinned,
  };
}

export function wireAdapter(record: AdapterRecord, residency: View): WireAdapter {
  return {
    ...wireRecord(record),
    residency: wireResidency(residency.view(record.generation)),
  };
}

/** A kept generation as residency knows it. */
export function generationOfKept({
  digest,
  rank,
  residentBytes,
}: KeptGeneration): AdapterGeneration {
  return { digest, rank, residentBytes };
}

export function wireHistory(history: AdapterHistory, residency: View) {
  const { name, revision, current, split, pinned } = history;
  return {
    object: 'list' as const,
    name,
    revision,
    split: split === undefined ? null : { generation: split.digest, weight: split.weight },
    pinned,
    data: history.generations.map(
      (kept): WireGeneration => ({
        generation: kept.digest,
        object: 'adapter.generation',
        created: kept.createdAt,
        source: kept.source,
        rank: kept.rank,
        target_modules: [...kept.targetModules],
        resident_bytes: kept.residentBytes,
        file_bytes: kept.fileBytes,
        has_chat_template: kept.hasChatTemplate === true,
        current: kept.digest === current,
        canary: kept.digest === split?.digest,
        residency: wireResidency(residency.view(generationOfKept(kept))),
      }),
    ),
  };
}

const seconds = (ms: number) => Math.floor(ms / 1000);

export function wireReplica(replica: ReplicaInfo, selfId: string): WireReplica {
  return {
    id: replica.id,
    object: 'replica',
    self: replica.id === selfId,
    url: replica.url,
    version: replica.version,
    model: replica.model,
    started: seconds(replica.startedAtMs),
    updated: seconds(replica.updatedAtMs),
    slots: replica.slots,
    revision: replica.revision,
    running: replica.requestsRunning,
    waiting: replica.requestsWaiting,
    adapters: replica.adapters.map(({ generation, names, level, pinned }) => ({
      generation,
      names: [...names],
      level,
      pinned,
    })),
  };
}
