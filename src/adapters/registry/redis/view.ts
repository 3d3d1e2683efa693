/** What this process knows of the registry in Redis, and up to which change. */
import type { DamagedAdapter } from '../../service-types.ts';
import type { RegistryDelta, RegistrySnapshot, VersionedEntry } from '../types.ts';

/** A point in the registry's history. */
export interface Position {
  /** 0 before the first change. */
  readonly revision: number;
  /** Empty before the first change. */
  readonly changeId: string;
}

export const START: Position = { revision: 0, changeId: '' };

export interface DamagedName extends DamagedAdapter {
  /** Change id of what is stored, if that much can be read: proof of what was found damaged. */
  readonly changeId: string;
  /** Type of its key; `none` when it is gone. */
  readonly keyType: string;
  readonly revision: number;
}

/** Names whose damage was seen by reading them alone. */
const PROOFS_MAX = 1024;

export class KnownRegistry {
  /** Of the registry that the rest is about; undefined before one was met. */
  id: string | undefined;
  position: Position = START;
  readonly entries = new Map<string, VersionedEntry>();
  readonly damaged = new Map<string, DamagedName>();
  /** Newest revision that listeners were told of. */
  newestTold = 0;
  readonly #proofs = new Map<string, string>();

  get isEmpty(): boolean {
    return this.entries.size === 0 && this.damaged.size === 0;
  }

  /** Names that the registry has, as far as it is known. */
  get size(): number {
    return this.entries.size + this.damaged.size;
  }

  replace(
    position: Position,
    entries: Iterable<VersionedEntry>,
    damaged: Iterable<DamagedName>,
  ): void {
    this.position = position;
    this.newestTold = position.revision;
    this.#proofs.clear();
    this.entries.clear();
    this.damaged.clear();
    for (const versioned of entries) this.entries.set(versioned.entry.name, versioned);
    for (const name of damaged) this.damaged.set(name.name, name);
  }

  apply({ position, changed, removed, damaged }: Changes): void {
    this.position = position;
    this.newestTold = Math.max(this.newestTold, position.revision);
    for (const { name } of removed) this.#forget(name);
    for (const versioned of changed) {
      const { name } = versioned.entry;
      this.#forget(name);
      this.entries.set(name, versioned);
      this.newestTold = Math.max(this.newestTold, versioned.revision);
    }
    for (const name of damaged) {
      this.#forget(name.name);
      this.damaged.set(name.name, name);
    }
  }

  /** Remembers what was found damaged by reading one name. */
  addProof({ name, changeId }: DamagedName): void {
    this.#proofs.set(name, changeId);
    const [oldest] = this.#proofs.keys();
    if (this.#proofs.size > PROOFS_MAX && oldest !== undefined) this.#proofs.delete(oldest);
  }

  /** Change id of the damaged content of a name that was seen; empty for none. */
  proofOfDamage(name: string): string {
    return this.#proofs.get(name) ?? this.damaged.get(name)?.changeId ?? '';
  }

  #forget(name: string): void {
    this.entries.delete(name);
    this.damaged.delete(name);
    this.#proofs.delete(name);
  }

  snapshot(): RegistrySnapshot {
    return {
      revision: this.position.revision,
      entries: [...this.entries.values()],
      damaged: [...this.damaged.values()].map(withoutProof),
    };
  }
}

/** Changes between two positions, each name once. */
export interface Changes {
  readonly position: Position;
  readonly changed: readonly VersionedEntry[];
  readonly removed: readonly { readonly name: string; readonly revision: number }[];
  readonly damaged: readonly DamagedName[];
}

export function deltaOf({ position, changed, removed, damaged }: Changes): RegistryDelta {
  return { revision: position.revision, changed, removed, damaged: damaged.map(withoutProof) };
}

function withoutProof({ name, reason }: DamagedName): DamagedAdapter {
  return { name, reason };
}
