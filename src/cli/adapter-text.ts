/** Adapters and replicas as people read them. */
import type { Adapter, AdapterList, GenerationList, Replica } from './api.ts';
import { formatBytes, table } from './output.ts';

const SHORT = 12;
const yes = (value: boolean | undefined) => (value === true ? 'yes' : '');
const short = (generation: string) => generation.slice(0, SHORT);

/** 0.1 -> "10 %" */
export function formatShare(weight: number): string {
  return `${Number((weight * 100).toFixed(2))} %`;
}

/** Seconds since the epoch -> "2026-01-31 12:00:00Z" */
function formatTime(seconds: number): string {
  return new Date(seconds * 1000).toISOString().replace('T', ' ').replace('.000', '');
}

function splitText({ split }: Adapter): string {
  return split === null || split === undefined
    ? ''
    : `${short(split.generation)} ${formatShare(split.weight)}`;
}

/** One line: which generation answers, and what is special about it. */
export function adapterLine(adapter: Adapter): string {
  const { name, generation, rank, split, pinned } = adapter;
  const parts = [`${name}: generation ${generation}`, `rank ${rank}`];
  if (split !== null && split !== undefined) {
    parts.push(`${formatShare(split.weight)} of the requests get ${split.generation}`);
  }
  if (pinned === true) parts.push('pinned');
  return parts.join(', ');
}

export function adapterTable({ data, damaged }: AdapterList): string {
  const head = ['name', 'generation', 'rank', 'memory', 'level', 'pinned', 'split'];
  const rows = data.map((adapter) => [
    adapter.name,
    short(adapter.generation),
    String(adapter.rank),
    formatBytes(adapter.resident_bytes),
    adapter.residency?.level ?? '',
    yes(adapter.pinned),
    splitText(adapter),
  ]);
  const lines = [table([head, ...rows])];
  for (const { name, reason } of damaged) lines.push(`${name}: DAMAGED, ${reason}`);
  return lines.join('\n');
}

/** Every field of the answer, nested ones as JSON. */
export function fieldTable(object: object): string {
  const cell = (value: unknown): string => {
    if (value === null) return 'none';
    if (Array.isArray(value)) return value.map(cell).join(', ');
    return typeof value === 'object' ? JSON.stringify(value) : String(value);
  };
  return table(Object.entries(object).map(([key, value]) => [key, cell(value)]));
}

export function generationTable({ data }: GenerationList): string {
  const head = ['generation', 'created', 'rank', 'memory', 'level', 'role', 'source'];
  const rows = data.map((kept) => [
    kept.generation,
    formatTime(kept.created),
    String(kept.rank),
    formatBytes(kept.resident_bytes),
    kept.residency?.level ?? '',
    kept.current ? 'current' : kept.canary ? 'canary' : '',
    kept.source,
  ]);
  return table([head, ...rows]);
}

export function replicaTable(replicas: readonly Replica[]): string {
  const head = ['id', 'url', 'version', 'running', 'waiting', 'device', 'host', 'revision', 'seen'];
  const rows = replicas.map((replica) => {
    const at = (level: string) => replica.adapters.filter((one) => one.level === level).length;
    return [
      replica.id,
      replica.url,
      replica.version,
      String(replica.running),
      String(replica.waiting),
      `${at('device')}/${replica.slots}`,
      String(at('host')),
      String(replica.revision),
      `${formatTime(replica.updated)}${replica.self ? ' (asked)' : ''}`,
    ];
  });
  return table([head, ...rows]);
}

/** Where one adapter is warm. */
export function warmTable(replicas: readonly Replica[], name: string): string {
  const rows = replicas.flatMap((replica) =>
    replica.adapters
      .filter(({ names }) => names.includes(name))
      .map((one) => [
        replica.id,
        replica.url,
        short(one.generation),
        one.level,
        one.pinned ? 'pinned' : '',
      ]),
  );
  if (rows.length === 0) return `${name}: on no replica`;
  return table([['id', 'url', 'generation', 'level', 'pinned'], ...rows]);
}
