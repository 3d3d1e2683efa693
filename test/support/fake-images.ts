/** Generations in memory: kept by a "name" each until `drop`, and by holds. */
import type { AdapterImages, LoadTier, OpenedImage } from '../../src/adapters/service-types.ts';
import type { AdapterGeneration } from '../../src/adapters/types.ts';
import { LoramuxError } from '../../src/errors.ts';

export class FakeImages implements AdapterImages {
  readonly holds = new Map<string, number>();
  readonly dropped = new Set<string>();
  /** Digests in host memory. */
  readonly host = new Set<string>();
  readonly prefetched: string[] = [];
  /** Images given out and not given back. */
  numOpen = 0;
  failing: ((digest: string) => Error | undefined) | undefined;
  tier: LoadTier = 'disk';
  #retired: (digest: string) => void = () => {};

  async openImage(generation: AdapterGeneration): Promise<OpenedImage> {
    const { digest, residentBytes } = generation;
    const error = this.failing?.(digest);
    if (error !== undefined) throw error;
    const tier = this.host.has(digest) ? 'host' : this.tier;
    this.host.add(digest);
    this.numOpen++;
    let open = true;
    return {
      image: { path: digest, fileBytes: residentBytes, pairs: [] },
      tier,
      release: () => {
        if (open) this.numOpen--;
        open = false;
      },
    };
  }

  prefetchImage({ digest }: AdapterGeneration): void {
    this.prefetched.push(digest);
    this.host.add(digest);
  }

  dropImage(digest: string): boolean {
    return this.host.delete(digest);
  }

  hasImage(digest: string): boolean {
    return this.host.has(digest);
  }

  hold(generation: AdapterGeneration): () => void {
    const { digest } = generation;
    const count = this.holds.get(digest) ?? 0;
    if (this.dropped.has(digest) && count === 0) {
      throw new LoramuxError('adapter_not_found', 'It was removed.');
    }
    this.holds.set(digest, count + 1);
    let held = true;
    return () => {
      if (!held) return;
      held = false;
      this.holds.set(digest, this.holds.get(digest)! - 1);
      this.#retireIfUnused(digest);
    };
  }

  onRetired(listener: (digest: string) => void): void {
    this.#retired = listener;
  }

  /** Removes the name. */
  drop(generation: AdapterGeneration): void {
    this.dropped.add(generation.digest);
    this.#retireIfUnused(generation.digest);
  }

  /** The name leads to it again. */
  restore(generation: AdapterGeneration): void {
    this.dropped.delete(generation.digest);
  }

  get numHolds(): number {
    return [...this.holds.values()].reduce((sum, n) => sum + n, 0);
  }

  #retireIfUnused(digest: string): void {
    if (this.dropped.has(digest) && !this.holds.get(digest)) this.#retired(digest);
  }
}
