/** The tokens as the library takes them, and which may follow half a character. */
import type { Tokenizer } from '../tokenizer/tokenizer.ts';
import { isContinuation, isValidPrefix } from '../tokenizer/utf8.ts';

/** GPT-2's printable stand-ins for bytes, in which any token can be given to the library. */
const CHAR_OF_BYTE: readonly string[] = (() => {
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => {
    const printable =
      (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    return String.fromCharCode(printable ? byte : next++);
  });
})();

/**
 * After these first bytes of a character not every continuation byte is one: [first byte, lowest
 * allowed, highest allowed]. The library does not know that (RFC 3629, section 4).
 */
const NARROW: readonly (readonly [lead: number, low: number, high: number])[] = [
  [0xe0, 0xa0, 0xbf],
  [0xed, 0x80, 0x9f],
  [0xf0, 0x90, 0xbf],
  [0xf4, 0x80, 0x8f],
];

/** Whether the bytes may stand in valid UTF-8, with a part of a character at either end. */
function mayBeUtf8(bytes: Uint8Array): boolean {
  let start = 0;
  while (start < bytes.length && start < 3 && isContinuation(bytes[start]!)) start += 1;
  return isValidPrefix(bytes.subarray(start));
}

/** Characters of tokens: bytes that begin one. */
class TokenLengths {
  /** All tokens, the longest first. */
  readonly #ids: Int32Array;
  /** How many are longer than the index. */
  readonly #longer: number[] = [];

  constructor(lengths: Uint32Array) {
    this.#ids = Int32Array.from(lengths.keys()).sort((a, b) => lengths[b]! - lengths[a]!);
    let numLonger = this.#ids.length;
    for (let length = 0; numLonger > 0; length++) {
      while (numLonger > 0 && lengths[this.#ids[numLonger - 1]!]! <= length) numLonger -= 1;
      this.#longer.push(numLonger);
    }
  }

  get size(): number {
    return this.#ids.length;
  }

  /** Tokens of more than so many characters. */
  longerThan(length: number): Int32Array {
    return this.#ids.subarray(0, this.#longer[length] ?? 0);
  }
}

export interface Vocabulary {
  /** By token id; empty for what is never allowed. */
  readonly encoded: string[];
  /** None for what is never allowed. */
  bytesOf(tokenId: number): Uint8Array;
  readonly lengths: TokenLengths;
  /** By last byte of a token, where it narrows what may follow: a mask of what may not. */
  readonly forbiddenAfter: ReadonlyMap<number, Int32Array>;
  /** int32 [vocabSize]: last byte where it narrows what may follow, else 0. */
  readonly narrowing: Uint8Array;
}

/**
 * Special tokens and bytes that occur in no text are left out.
 * @param vocabSize rows of the model's output
 */
export function vocabularyOf(
  tokenizer: Pick<Tokenizer, 'tokenBytes'>,
  vocabSize: number,
): Vocabulary {
  const narrowing = new Uint8Array(vocabSize);
  const lengths = new Uint32Array(vocabSize);
  const encoded: string[] = [];
  const forbiddenAfter = new Map(
    NARROW.map(([lead]) => [lead, new Int32Array(Math.ceil(vocabSize / 32))]),
  );
  for (let id = 0; id < vocabSize; id++) {
    const bytes = tokenizer.tokenBytes(id);
    if (bytes === undefined || bytes.length === 0 || !mayBeUtf8(bytes)) {
      encoded.push('');
      continue;
    }
    let text = '';
    for (const byte of bytes) {
      text += CHAR_OF_BYTE[byte]!;
      if (!isContinuation(byte)) lengths[id]! += 1;
    }
    encoded.push(text);
    const last = bytes[bytes.length - 1]!;
    const first = bytes[0]!;
    for (const [lead, low, high] of NARROW) {
      if (last === lead) narrowing[id] = lead;
      if (isContinuation(first) && (first < low || first > high)) {
        forbiddenAfter.get(lead)![id >> 5]! |= 1 << (id & 31);
      }
    }
  }
  const none = new Uint8Array();
  return {
    encoded,
    bytesOf: (tokenId) =>
      encoded[tokenId] === '' ? none : (tokenizer.tokenBytes(tokenId) ?? none),
    lengths: new TokenLengths(lengths),
    forbiddenAfter,
    narrowing,
  };
}
