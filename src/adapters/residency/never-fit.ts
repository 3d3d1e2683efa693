/** What can never be resident at the same time. */
import { LoramuxError } from '../../errors.ts';
import type { LoraDtype } from '../../native/addon-types.ts';
import type { AdapterGeneration } from '../types.ts';
import type { PinChoice } from './pins.ts';
import type { SlotBook } from './slot-book.ts';
import { slotBytesOf } from './slot-bytes.ts';

/** Why these adapters cannot all be resident beside the pins; undefined when they can. */
export function neverFit(
  generations: readonly AdapterGeneration[],
  book: SlotBook,
  pins: PinChoice,
  loraDtype: LoraDtype | undefined,
): LoramuxError | undefined {
  const others = generations.filter(({ digest }) => !pins.pinned.has(digest));
  if (others.length === 0) return undefined;
  let bytes = 0;
  for (const generation of others) {
    bytes += book.get(generation.digest)?.bytes ?? slotBytesOf(generation, loraDtype);
  }
  const { maxBytes, maxSlots } = book;
  if (bytes <= maxBytes - pins.bytes && others.length <= maxSlots - pins.pinned.size) {
    return undefined;
  }
  const what = others.length === 1 ? 'The adapter takes' : `The ${others.length} adapters take`;
  const beside = pins.bytes === 0 ? '' : `, of which ${pins.bytes} belong to pinned adapters`;
  return new LoramuxError(
    'adapter_never_fits',
    `${what} ${bytes} bytes of adapter memory, which has ` +
      `${maxBytes} bytes in ${maxSlots} slots${beside}.`,
  );
}
