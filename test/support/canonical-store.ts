/**
 * Canonical files in a folder, with a second folder as the store of a fleet if wanted: the files
 * behind the image tiers, without a registry.
 */
import { copyFileSync, existsSync, mkdirSync, rmSync } from 'node:fs';
import path from 'node:path';
import type { BlobFiles, LocalBlob } from '../../src/adapters/blobs/types.ts';
import type { ConvertResult } from '../../src/adapters/convert/canonicalize.ts';
import type { GenerationMeta } from '../../src/adapters/registry/types.ts';
import type { ImageTiers } from '../../src/adapters/residency/image-tiers.ts';
import type {
  AdapterImages,
  HostTierStats,
  OpenedImage,
} from '../../src/adapters/service-types.ts';
import type { AdapterGeneration } from '../../src/adapters/types.ts';
import { LoramuxError } from '../../src/errors.ts';

export class CanonicalStore implements BlobFiles {
  readonly shared: boolean;
  readonly #local: string;
  readonly #remote: string;
  /** Files that a load relies on. */
  numHeld = 0;
  ensures = 0;
  readonly rejected: string[] = [];
  /** Holds `ensureLocal` back until it resolves. */
  gate: Promise<void> = Promise.resolve();

  constructor(folder: string, shared = false) {
    this.shared = shared;
    this.#local = path.join(folder, 'local');
    this.#remote = path.join(folder, 'remote');
    for (const each of [this.#local, this.#remote]) mkdirSync(each, { recursive: true });
  }

  /** Where the local file of a digest is or would be. */
  path(digest: string): string {
    return path.join(this.#local, digest);
  }

  remotePath(digest: string): string {
    return path.join(this.#remote, digest);
  }

  /** Takes in a canonical file. */
  add(file: string, result: ConvertResult, base: string): GenerationMeta {
    copyFileSync(file, this.path(result.digest));
    if (this.shared) copyFileSync(file, this.remotePath(result.digest));
    return { ...result, base };
  }

  async ensureLocal({ digest }: GenerationMeta): Promise<LocalBlob> {
    this.ensures++;
    await this.gate;
    const file = this.path(digest);
    const here = existsSync(file);
    if (!here) {
      if (!existsSync(this.remotePath(digest))) {
        throw new LoramuxError('blob_missing', `There is no ${digest}.`);
      }
      copyFileSync(this.remotePath(digest), file);
    }
    this.numHeld++;
    let held = true;
    return {
      path: file,
      tier: here ? 'disk' : 'registry',
      release: () => {
        if (held) this.numHeld--;
        held = false;
      },
    };
  }

  async ensureShared(): Promise<void> {}

  async reject(digest: string): Promise<void> {
    this.rejected.push(digest);
    rmSync(this.path(digest), { force: true });
  }
}

/** Image tiers as residency sees them, for generations that are never removed. */
export class TieredImages implements AdapterImages {
  readonly #tiers: ImageTiers;
  readonly #metas: ReadonlyMap<string, GenerationMeta>;

  constructor(tiers: ImageTiers, metas: Iterable<GenerationMeta>) {
    this.#tiers = tiers;
    this.#metas = new Map([...metas].map((meta) => [meta.digest, meta]));
  }

  openImage({ digest }: AdapterGeneration): Promise<OpenedImage> {
    return this.#tiers.open(this.#metas.get(digest)!);
  }

  prefetchImage({ digest }: AdapterGeneration): void {
    this.#tiers.prefetch(this.#metas.get(digest)!);
  }

  dropImage(digest: string): boolean {
    return this.#tiers.drop(digest);
  }

  hasImage(digest: string): boolean {
    return this.#tiers.has(digest);
  }

  imageStats(): HostTierStats {
    return this.#tiers.stats();
  }

  hold(): () => void {
    return () => {};
  }

  onRetired(): void {}
}
