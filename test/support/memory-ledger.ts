/** A blob ledger in memory, with the contract's rules and a clock that a test moves. */
import { randomUUID } from 'node:crypto';
import type { BlobLedger } from '../../src/adapters/blobs/types.ts';
import { LoramuxError } from '../../src/errors.ts';

export interface MemoryLedgerOptions {
  /** How long a blob stays after the last name that keeps it. */
  readonly graceMs?: number;
  /** An upload that is not committed within this time is given up. */
  readonly uploadMs?: number;
  /** A claim that is not confirmed within this time is offered again. */
  readonly claimMs?: number;
}

interface Unreferenced {
  readonly location: string;
  readonly sinceMs: number;
}

export class MemoryLedger implements BlobLedger {
  nowMs = 0;
  /** Every call fails while it is set. */
  failure: Error | undefined;
  readonly #graceMs: number;
  readonly #uploadMs: number;
  readonly #claimMs: number;
  readonly #committed = new Map<string, string>();
  /** Digest -> how many names keep it. */
  readonly #kept = new Map<string, number>();
  readonly #begun = new Map<string, { digest: string; atMs: number }>();
  /** Digest -> since when nothing keeps its committed blob. */
  readonly #unreferenced = new Map<string, Unreferenced>();
  /** May be deleted; the time until which a claim holds. */
  readonly #garbage = new Map<string, number>();
  readonly #wanted = new Set<string>();

  constructor(options: MemoryLedgerOptions = {}) {
    this.#graceMs = options.graceMs ?? 1000;
    this.#uploadMs = options.uploadMs ?? 10_000;
    this.#claimMs = options.claimMs ?? 1000;
  }

  /** A name begins to keep the digest. */
  keep(digest: string): void {
    this.#kept.set(digest, (this.#kept.get(digest) ?? 0) + 1);
    this.#unreferenced.delete(digest);
  }

  /** A name stops keeping it. */
  drop(digest: string): void {
    const count = (this.#kept.get(digest) ?? 0) - 1;
    if (count > 0) {
      this.#kept.set(digest, count);
      return;
    }
    this.#kept.delete(digest);
    this.#wanted.delete(digest);
    this.#noteUnreferenced(digest);
  }

  /** Asking shows interest: the grace time begins again, and what is nowhere becomes wanted. */
  async locate(digest: string): Promise<string | undefined> {
    this.#check();
    const location = this.#committed.get(digest);
    if (location === undefined && this.#kept.has(digest)) this.#wanted.add(digest);
    if (this.#unreferenced.has(digest)) this.#noteUnreferenced(digest);
    return location;
  }

  async beginUpload(digest: string): Promise<string> {
    this.#check();
    const location = `${digest}/${randomUUID()}`;
    this.#begun.set(location, { digest, atMs: this.nowMs });
    return location;
  }

  async commitUpload(digest: string, location: string): Promise<string> {
    this.#check();
    this.#giveUpOld();
    const inForce = this.#committed.get(digest);
    if (inForce !== undefined) {
      if (inForce !== location && this.#begun.delete(location)) this.#garbage.set(location, 0);
      return inForce;
    }
    if (!this.#begun.delete(location)) {
      this.#garbage.set(location, 0);
      throw new LoramuxError('blob_unavailable', `the upload ${location} was given up`);
    }
    this.#committed.set(digest, location);
    this.#wanted.delete(digest);
    if (!this.#kept.has(digest)) this.#noteUnreferenced(digest);
    return location;
  }

  async reportMissing(digest: string, location: string): Promise<void> {
    this.#check();
    if (this.#committed.get(digest) !== location) return;
    this.#committed.delete(digest);
    this.#unreferenced.delete(digest);
    this.#garbage.set(location, 0);
    if (this.#kept.has(digest)) this.#wanted.add(digest);
  }

  async wanted(): Promise<readonly string[]> {
    this.#check();
    return [...this.#wanted];
  }

  async claimGarbage(max: number): Promise<readonly string[]> {
    this.#check();
    this.#giveUpOld();
    for (const [digest, { location, sinceMs }] of this.#unreferenced) {
      if (this.nowMs - sinceMs < this.#graceMs) continue;
      this.#unreferenced.delete(digest);
      this.#committed.delete(digest);
      this.#garbage.set(location, 0);
    }
    const free = [...this.#garbage].filter(([, until]) => until <= this.nowMs).slice(0, max);
    for (const [location] of free) this.#garbage.set(location, this.nowMs + this.#claimMs);
    return free.map(([location]) => location);
  }

  async confirmRemoved(location: string): Promise<void> {
    this.#check();
    this.#garbage.delete(location);
  }

  /** Locations whose bytes may still exist. */
  locations(): string[] {
    return [...this.#committed.values(), ...this.#begun.keys(), ...this.#garbage.keys()].sort();
  }

  #noteUnreferenced(digest: string): void {
    const location = this.#committed.get(digest);
    if (location === undefined) return;
    this.#unreferenced.set(digest, { location, sinceMs: this.nowMs });
  }

  #giveUpOld(): void {
    for (const [location, { atMs }] of this.#begun) {
      if (this.nowMs - atMs < this.#uploadMs) continue;
      this.#begun.delete(location);
      this.#garbage.set(location, 0);
    }
  }

  #check(): void {
    if (this.failure !== undefined) throw this.failure;
  }
}
