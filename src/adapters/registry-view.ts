/**
 * The registry as this process knows it: a map of names that readings and own changes are applied to
 * in any order, each at most once and never backwards.
 */
import { type GenerationState, type GenerationTable, generationOf } from './generations.ts';
import type {
  KeptGeneration,
  RegistryDelta,
  RegistrySnapshot,
  RemovedName,
  VersionedEntry,
} from './registry/types.ts';
import type { DamagedAdapter } from './service-types.ts';
import type { AdapterRecord } from './types.ts';

/** Removals remembered, so that a late reading does not bring a name back. */
const REMOVALS_MAX = 4096;

const FOREIGN = 'it is for a base model of another shape';

/** A name with what resolving it needs, made once per change. */
export interface KnownName {
  readonly versioned: VersionedEntry;
  /** Answers with the current generation. */
  readonly record: AdapterRecord;
  /** Answers with the split's generation. */
  readonly splitRecord: AdapterRecord | undefined;
  /** Answers with the given generation; undefined when the name does not keep it. */
  recordWith(digest: string): AdapterRecord | undefined;
}

export interface ViewOptions {
  readonly generations: GenerationTable;
  /** Digest of the base model's shapes: entries for another base are damaged here. */
  readonly base: string;
}

export class RegistryView {
  readonly #options: ViewOptions;
  readonly #names = new Map<string, KnownName>();
  readonly #pinned = new Set<string>();
  readonly #damaged = new Map<string, DamagedAdapter>();
  /** Revision of the removal by name, oldest first. */
  readonly #removals = new Map<string, number>();
  #sorted: readonly AdapterRecord[] | undefined;
  #revision = 0;

  constructor(options: ViewOptions) {
    this.#options = options;
  }

  /** The newest revision that was applied. */
  get revision(): number {
    return this.#revision;
  }

  get size(): number {
    return this.#names.size;
  }

  get numDamaged(): number {
    return this.#damaged.size;
  }

  get(name: string): KnownName | undefined {
    return this.#names.get(name);
  }

  /** Names that are to be kept resident. */
  pinned(): KnownName[] {
    return [...this.#pinned].map((name) => this.#names.get(name)!);
  }

  damage(name: string): DamagedAdapter | undefined {
    return this.#damaged.get(name);
  }

  /** Names whose adapters are for a base model of another shape; they are among the damaged. */
  foreignNames(): string[] {
    return [...this.#damaged.values()]
      .filter(({ reason }) => reason === FOREIGN)
      .map(({ name }) => name);
  }

  damaged(): DamagedAdapter[] {
    return [...this.#damaged.values()].sort(byName);
  }

  /** All records with their current generation, sorted by name; the same array until a change. */
  list(): readonly AdapterRecord[] {
    this.#sorted ??= [...this.#names.values()].map(({ record }) => record).sort(byName);
    return this.#sorted;
  }

  /** One change of this process. */
  applyEntry(versioned: VersionedEntry): void {
    const { name } = versioned.entry;
    const known = this.#names.get(name)?.versioned;
    const last = Math.max(known?.revision ?? 0, this.#removals.get(name) ?? 0);
    if (versioned.revision > last) this.#set(versioned);
  }

  applyRemoval({ name, revision }: RemovedName): void {
    const known = this.#names.get(name)?.versioned;
    if (known !== undefined && known.revision >= revision) return;
    this.#unset(name);
    this.#damaged.delete(name);
    this.#rememberRemoval(name, revision);
    this.#revision = Math.max(this.#revision, revision);
  }

  applyDelta(delta: RegistryDelta): void {
    for (const removed of delta.removed) this.applyRemoval(removed);
    for (const versioned of delta.changed) this.applyEntry(versioned);
    for (const damaged of delta.damaged) this.#setDamaged(damaged);
    this.#revision = Math.max(this.#revision, delta.revision);
  }

  /**
   * Makes the view equal to a complete reading, but for what this process changed after the reading
   * began. A reading with an older revision than was known before is a registry that lost changes
   * (a failover): it is believed.
   */
  applySnapshot(snapshot: RegistrySnapshot, before: number): void {
    const readUpTo = Math.max(before, snapshot.revision);
    const isNewer = (known: VersionedEntry | undefined): boolean =>
      known !== undefined && known.revision > readUpTo;
    const present = new Set(snapshot.damaged.map(({ name }) => name));
    for (const versioned of snapshot.entries) {
      const { name } = versioned.entry;
      present.add(name);
      const known = this.#names.get(name)?.versioned;
      if (isNewer(known) && versioned.revision <= known!.revision) continue;
      if ((this.#removals.get(name) ?? 0) > Math.max(readUpTo, versioned.revision)) continue;
      if (known?.changeId !== versioned.changeId || known.revision !== versioned.revision) {
        this.#set(versioned);
      }
    }
    for (const damaged of snapshot.damaged) this.#setDamaged(damaged);
    for (const { versioned } of [...this.#names.values()]) {
      const { name } = versioned.entry;
      if (!present.has(name) && !isNewer(versioned)) this.#unset(name);
    }
    for (const name of [...this.#damaged.keys()]) {
      if (!present.has(name)) this.#damaged.delete(name);
    }
    // Lost as well: their revisions are given out again.
    for (const [name, revision] of this.#removals) {
      if (revision > snapshot.revision && revision <= readUpTo) this.#removals.delete(name);
    }
    this.#revision = snapshot.revision;
    for (const { versioned } of this.#names.values()) {
      this.#revision = Math.max(this.#revision, versioned.revision);
    }
  }

  #set(versioned: VersionedEntry): void {
    const { entry, revision } = versioned;
    const { name } = entry;
    this.#revision = Math.max(this.#revision, revision);
    this.#removals.delete(name);
    const foreign = entry.generations.find(({ base }) => base !== this.#options.base);
    if (foreign !== undefined) {
      this.#setDamaged({ name, reason: FOREIGN });
      return;
    }
    const { generations } = this.#options;
    const before = this.#keepersOf(name);
    for (const state of before) forget(state, name);
    for (const meta of entry.generations) {
      const state = generations.adopt(meta);
      state.keptBy.add(name);
      if (meta.digest === entry.current || meta.digest === entry.split?.digest) {
        generations.serve(state, name);
      }
    }
    this.#names.set(name, knownName(versioned));
    if (entry.pinned) this.#pinned.add(name);
    else this.#pinned.delete(name);
    this.#damaged.delete(name);
    this.#sorted = undefined;
    for (const state of before) generations.settle(state);
  }

  #unset(name: string): void {
    const states = this.#keepersOf(name);
    if (!this.#names.delete(name)) return;
    this.#pinned.delete(name);
    this.#sorted = undefined;
    for (const state of states) forget(state, name);
    for (const state of states) this.#options.generations.settle(state);
  }

  #setDamaged(damaged: DamagedAdapter): void {
    this.#unset(damaged.name);
    this.#damaged.set(damaged.name, damaged);
  }

  #keepersOf(name: string): GenerationState[] {
    const entry = this.#names.get(name)?.versioned.entry;
    const { generations } = this.#options;
    return (entry?.generations ?? []).flatMap(({ digest }) => generations.get(digest) ?? []);
  }

  #rememberRemoval(name: string, revision: number): void {
    const newest = Math.max(revision, this.#removals.get(name) ?? 0);
    this.#removals.delete(name);
    this.#removals.set(name, newest);
    const oldest = this.#removals.keys().next().value;
    if (this.#removals.size > REMOVALS_MAX && oldest !== undefined) this.#removals.delete(oldest);
  }
}

function forget(state: GenerationState, name: string): void {
  state.keptBy.delete(name);
  state.servedBy.delete(name);
}

function byName(a: { readonly name: string }, b: { readonly name: string }): number {
  return a.name < b.name ? -1 : 1;
}

/** The records of an entry. Its current generation and its split's are among those it keeps. */
export function knownName(versioned: VersionedEntry): KnownName {
  const { entry, revision } = versioned;
  const kept = (digest: string) => entry.generations.find((meta) => meta.digest === digest)!;
  const split = entry.split && { kept: kept(entry.split.digest), weight: entry.split.weight };
  const shared = {
    revision,
    updatedAt: entry.updatedAt,
    pinned: entry.pinned,
    split: split && { generation: generationOf(split.kept), weight: split.weight },
    numGenerations: entry.generations.length,
  };
  const recordOf = (meta: KeptGeneration): AdapterRecord => {
    const { createdAt, source, targetModules, fileBytes, hasChatTemplate } = meta;
    const { name } = entry;
    const generation = generationOf(meta);
    return Object.freeze({
      name,
      generation,
      createdAt,
      source,
      targetModules,
      fileBytes,
      ...(hasChatTemplate && { hasChatTemplate }),
      ...shared,
    });
  };
  return {
    versioned,
    record: recordOf(kept(entry.current)),
    splitRecord: split && recordOf(split.kept),
    recordWith: (digest) => {
      const meta = entry.generations.find((one) => one.digest === digest);
      return meta && recordOf(meta);
    },
  };
}
