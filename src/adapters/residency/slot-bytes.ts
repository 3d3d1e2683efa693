import type { LoraDtype } from '../../native/addon-types.ts';
import type { AdapterGeneration } from '../types.ts';

/**
 * Bytes of adapter memory that a generation will take; when it has been loaded, the session's own
 * number counts. As bfloat16 it is half of float32, and B has an even number of ranks.
 */
export function slotBytesOf(
  { rank, residentBytes }: Pick<AdapterGeneration, 'rank' | 'residentBytes'>,
  loraDtype: LoraDtype = 'float32',
): number {
  if (loraDtype === 'float32') return residentBytes;
  return Math.ceil((residentBytes / 2) * ((rank + (rank % 2)) / rank));
}
