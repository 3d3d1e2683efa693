/** UTF-8 boundaries on raw bytes (Unicode 15, table 3-7: well-formed byte sequences). */

/** Bytes a lead byte announces, itself included; 0 for a byte that cannot lead. */
export function sequenceLength(lead: number): number {
  if (lead < 0x80) return 1;
  if (lead >= 0xc2 && lead <= 0xdf) return 2;
  if (lead >= 0xe0 && lead <= 0xef) return 3;
  if (lead >= 0xf0 && lead <= 0xf4) return 4;
  return 0;
}

/** Whether the byte can only continue a character. */
export const isContinuation = (byte: number): boolean => (byte & 0xc0) === 0x80;

/** Whether `second` may follow `lead`: rules out overlong forms, surrogates and > U+10FFFF. */
function secondByteFits(lead: number, second: number): boolean {
  if (lead === 0xe0) return second >= 0xa0 && second <= 0xbf;
  if (lead === 0xed) return second >= 0x80 && second <= 0x9f;
  if (lead === 0xf0) return second >= 0x90 && second <= 0xbf;
  if (lead === 0xf4) return second >= 0x80 && second <= 0x8f;
  return second >= 0x80 && second <= 0xbf;
}

/**
 * How many bytes at the end begin a character that more bytes could still complete (0 to 3). Those
 * bytes must be held back; everything before them decodes the same whatever follows.
 */
export function incompleteTailLength(bytes: ArrayLike<number>, length = bytes.length): number {
  for (let back = 1; back <= 3 && back <= length; back++) {
    const lead = bytes[length - back]!;
    if (isContinuation(lead)) continue;
    if (sequenceLength(lead) <= back) return 0;
    return back === 1 || secondByteFits(lead, bytes[length - back + 1]!) ? back : 0;
  }
  return 0;
}

/** Whether the bytes are well-formed up to an incomplete last character. */
export function isValidPrefix(bytes: ArrayLike<number>): boolean {
  const end = bytes.length - incompleteTailLength(bytes);
  let at = 0;
  while (at < end) {
    const lead = bytes[at]!;
    const length = sequenceLength(lead);
    if (length === 0 || at + length > end) return false;
    if (length > 1 && !secondByteFits(lead, bytes[at + 1]!)) return false;
    for (let i = 2; i < length; i++) {
      if (!isContinuation(bytes[at + i]!)) return false;
    }
    at += length;
  }
  return true;
}

const decoder = new TextDecoder('utf-8', { ignoreBOM: true });

/** Decodes with U+FFFD for every maximal ill-formed part, as Rust's `from_utf8_lossy` does. */
export function decodeLossy(bytes: Uint8Array): string {
  return decoder.decode(bytes);
}
