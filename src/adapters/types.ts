/** Types of the adapter layer that the engine and the request layer see. */
import type { LoramuxError } from '../errors.ts';

/** An immutable adapter: what a name points to. */
export interface AdapterGeneration {
  /** SHA-256, lower-case hex, over the canonical config and tensor bytes. Keys every cache. */
  readonly digest: string;
  /** Largest rank of any module. */
  readonly rank: number;
  /** Bytes it takes in adapter memory as float32. */
  readonly residentBytes: number;
}

/** An adapter of a request, and the weight on its delta: 1 is the adapter as trained. */
export interface WeightedAdapter {
  readonly generation: AdapterGeneration;
  readonly weight: number;
}

/** A registered name. */
export interface AdapterRecord {
  readonly name: string;
  readonly generation: AdapterGeneration;
  /** Seconds since the epoch. */
  readonly createdAt: number;
  /** Where the upload came from, for `root` in /v1/models: a path or 'upload'. */
  readonly source: string;
  /** Module names it changes, e.g. q_proj, v_proj. */
  readonly targetModules: readonly string[];
  readonly fileBytes: number;
  /** Its chats are rendered with a template of its own. */
  readonly hasChatTemplate?: true | undefined;
  /** Changes with every change of the name. */
  readonly revision: number;
  /** Seconds since the epoch of the last change of the name. */
  readonly updatedAt: number;
  readonly pinned: boolean;
  /** A second generation and its share of the requests. */
  readonly split: { readonly generation: AdapterGeneration; readonly weight: number } | undefined;
  /** Generations that can be rolled back to, the current one included. */
  readonly numGenerations: number;
}

/**
 * Residency as the engine sees it. All calls are synchronous and made between steps.
 * A slot with references is never evicted or reused.
 */
export interface AdapterResidency {
  readonly maxSlots: number;
  /**
   * The slots of the adapters, with one reference taken to each, when all of them are resident.
   * Otherwise undefined, and no reference: loads of those that are missing were started (or are under
   * way, or wait for room) and `onChange` fires when it is worth asking again. Returns an error when a
   * load failed or they can never be resident together. The generations are distinct; asking again
   * takes them in the same order.
   */
  tryAcquire(
    generations: readonly AdapterGeneration[],
  ): readonly number[] | undefined | LoramuxError;
  /**
   * Whether adapters that were asked for together wait for room which others have. While a load is
   * under way, or waits its turn among loads, whoever passes takes nothing from it.
   */
  waitsForRoom(generations: readonly AdapterGeneration[]): boolean;
  /** Gives one reference to each back. */
  release(generations: readonly AdapterGeneration[]): void;
  /**
   * A request names the adapter: begin to bring it nearer, without taking room from others. Cheap,
   * and never an error: what is wrong shows at `tryAcquire`.
   */
  prefetch(generation: AdapterGeneration): void;
  /** No request waits for these adapters together any more: loads for them may be dropped. */
  forget(generations: readonly AdapterGeneration[]): void;
  /** One listener: the engine's wake-up. */
  onChange(listener: () => void): void;
}

/** Residency of a native session that may be replaced. */
export interface SessionResidency extends AdapterResidency {
  /**
   * The session is gone, and every slot with it. All references must have been given back; what
   * somebody waits for, and what is pinned, is loaded anew.
   */
  slotsLost(): void;
}

/** Where the nearest copy of an adapter is. */
export type ResidencyLevel = 'device' | 'host' | 'disk';

/** One generation's residency, for clients. */
export interface ResidencyView {
  readonly level: ResidencyLevel;
  readonly pinned: boolean;
  /** Requests in the batch that use it. */
  readonly references: number;
  /** It goes as soon as its last reference does. */
  readonly evicting: boolean;
}

/** Explicit control of residency, for the admin routes. */
export interface ResidencyControl {
  view(generation: AdapterGeneration): ResidencyView;
  /**
   * Resolves when the adapter is resident; it may be evicted for others afterwards.
   * @throws LoramuxError adapter_never_fits, adapter_load_failed, adapter_load_timeout, ...
   */
  load(generation: AdapterGeneration, timeoutMs: number): Promise<void>;
  /** Drops it from device and host memory, at once or with its last reference. Pins are not touched. */
  evict(generation: AdapterGeneration): ResidencyView;
  /** Replaces the set of pinned generations; loads those that are not resident. */
  setPins(generations: readonly AdapterGeneration[]): void;
  /** @throws LoramuxError pin_limit_exceeded when these could not all be pinned at once. */
  checkPins(generations: readonly AdapterGeneration[]): void;
}
