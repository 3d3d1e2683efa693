import type { LoraDtype } from '../../native/addon-types.ts';
import type { AdapterGeneration } from '../types.ts';

/** B has a multiple of so many ranks (kernels/include/loramux/lora_weights.h). */
const RANK_MULTIPLE = { bfloat16: 2, int8: 4 } as const;
/** Part of the float32 bytes; of int8, scales included. */
const SHARE = { bfloat16: 1 / 2, int8: (1 + 4 / 1024) / 4 } as const;

/**
 * Bytes of adapter memory that a generation will take, where its modules are not narrower than what
 * they are padded to; when it has been loaded, the session's own number counts.
 */
export function slotBytesOf(
  { rank, residentBytes }: Pick<AdapterGeneration, 'rank' | 'residentBytes'>,
  loraDtype: LoraDtype = 'float32',
): number {
  if (loraDtype === 'float32') return residentBytes;
  const multiple = RANK_MULTIPLE[loraDtype];
  const padded = Math.ceil(rank / multiple) * multiple;
  return Math.ceil(residentBytes * SHARE[loraDtype] * (padded / rank));
}
