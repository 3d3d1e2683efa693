/** Niceness of threads, in steps above the thread that started them (docs/decisions/0005, 0006). */
import { getPriority, setPriority } from 'node:os';

/** What requests wait for. As kComputeNiceness of the native threads: the event loop goes first. */
export const COMPUTE_NICENESS = 5;
/** Reading, hashing, converting. As kLoadNiceness of the native threads: steps go first, too. */
export const LOAD_NICENESS = 17;
const NICEST = 19;

/** Called by a thread at its start. */
export function giveWay(steps: number): void {
  // On Linux process id 0 means the calling thread.
  setPriority(0, Math.min(NICEST, getPriority(0) + steps));
}
