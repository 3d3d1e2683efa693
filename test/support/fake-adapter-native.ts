/**
 * The two adapter calls of a native session without a session: loads end when the test says so, and
 * slots are checked as the real one checks them (no load into a full slot, no free of a slot that is
 * empty, loading or read by a step).
 */
import type { AdapterImage, NativeSession } from '../../src/native/addon-types.ts';

type Loader = Pick<NativeSession, 'loadAdapter' | 'freeAdapter'>;
interface PendingLoad {
  slot: number;
  image: AdapterImage;
  finish(): void;
  fail(error: Error): void;
}

export class FakeAdapterNative implements Loader {
  /** Path of the file in each slot. */
  readonly slots = new Map<number, string>();
  readonly pending: PendingLoad[] = [];
  /** Slots that a step in flight reads: freeing them throws. */
  readonly inUse = new Set<number>();
  /** Loads end at once instead of waiting in `pending`. */
  immediate = true;
  frees = 0;

  loadAdapter(slot: number, image: AdapterImage): Promise<{ bytes: number; loadMs: number }> {
    if (this.slots.has(slot)) return Promise.reject(new Error(`slot ${slot} is full`));
    this.slots.set(slot, 'loading');
    const done = () => {
      this.slots.set(slot, image.path);
      return { bytes: image.fileBytes, loadMs: 1 };
    };
    if (this.immediate) return Promise.resolve().then(done);
    return new Promise((resolve, reject) => {
      this.pending.push({
        slot,
        image,
        finish: () => resolve(done()),
        fail: (error) => {
          this.slots.delete(slot);
          reject(error);
        },
      });
    });
  }

  freeAdapter(slot: number): void {
    const content = this.slots.get(slot);
    if (content === undefined || content === 'loading')
      throw new Error(`slot ${slot} is ${content}`);
    if (this.inUse.has(slot)) throw new Error(`slot ${slot} is read by the step in flight`);
    this.slots.delete(slot);
    this.frees++;
  }
}
