/**
 * Which pins are in force. Pins must never leave the server unable to run anything else, so beside
 * them stay
 *   - one slot, and
 *   - adapter memory as large as the largest pinned adapter: `maxBytes` is at least the sum of the
 *     pinned ones plus the largest of them.
 * An adapter that needs more than what stays is refused while they are in force.
 */
import type { LoraDtype } from '../../native/addon-types.ts';
import type { AdapterGeneration } from '../types.ts';
import { slotBytesOf } from './slot-bytes.ts';

/** Longest pause between two tries to load a pinned adapter. */
export const PIN_RETRY_MS_MAX = 60_000;

export interface PinRoom {
  readonly maxSlots: number;
  readonly maxBytes: number;
  /** Of adapters in slots; default float32. */
  readonly loraDtype?: LoraDtype | undefined;
}

export interface PinChoice {
  /** By digest. */
  readonly pinned: ReadonlyMap<string, AdapterGeneration>;
  readonly leftOut: readonly { readonly generation: AdapterGeneration; readonly reason: string }[];
  /** Of the pinned ones. */
  readonly bytes: number;
}

/** Takes the generations in order; one without room is left out, and later ones may still fit. */
export function choosePins(generations: readonly AdapterGeneration[], room: PinRoom): PinChoice {
  const pinned = new Map<string, AdapterGeneration>();
  const leftOut: { generation: AdapterGeneration; reason: string }[] = [];
  let bytes = 0;
  let largest = 0;
  for (const generation of generations) {
    const { digest } = generation;
    if (pinned.has(digest)) continue;
    const slotBytes = slotBytesOf(generation, room.loraDtype);
    const nextBytes = bytes + slotBytes;
    const nextLargest = Math.max(largest, slotBytes);
    if (pinned.size + 1 >= room.maxSlots) {
      const reason =
        `of ${room.maxSlots} slots one must stay free of pins, and ` +
        `${pinned.size} ${pinned.size === 1 ? 'adapter is' : 'adapters are'} pinned`;
      leftOut.push({ generation, reason });
    } else if (nextBytes + nextLargest > room.maxBytes) {
      const reason =
        `with it ${nextBytes} bytes would be pinned, and ${nextLargest} more, the room of the ` +
        `largest pinned adapter, must stay free of pins; adapter memory has ${room.maxBytes} bytes`;
      leftOut.push({ generation, reason });
    } else {
      pinned.set(digest, generation);
      bytes = nextBytes;
      largest = nextLargest;
    }
  }
  return { pinned, leftOut, bytes };
}

/** Tries to load pinned adapters again after failures, later each time. */
export class PinRetries {
  readonly #firstMs: number;
  readonly #retry: (generation: AdapterGeneration) => void;
  readonly #failures = new Map<string, { count: number; timer: NodeJS.Timeout }>();

  constructor(firstMs: number, retry: (generation: AdapterGeneration) => void) {
    this.#firstMs = firstMs;
    this.#retry = retry;
  }

  /** A try is under way or to come. */
  has(digest: string): boolean {
    return this.#failures.has(digest);
  }

  failed(generation: AdapterGeneration): void {
    const { digest } = generation;
    const known = this.#failures.get(digest);
    clearTimeout(known?.timer);
    const count = (known?.count ?? 0) + 1;
    const delayMs = Math.min(this.#firstMs * 2 ** Math.min(count - 1, 30), PIN_RETRY_MS_MAX);
    const timer = setTimeout(() => this.#retry(generation), delayMs).unref();
    this.#failures.set(digest, { count, timer });
  }

  /** It is loaded, or not pinned any more. */
  forget(digest: string): void {
    clearTimeout(this.#failures.get(digest)?.timer);
    this.#failures.delete(digest);
  }

  close(): void {
    for (const digest of [...this.#failures.keys()]) this.forget(digest);
  }
}
