/** What each token contributes to the text, computed once per token id and kept. */
import type { DecoderKind } from './decoder-kind.ts';
import { decodeLossy, incompleteTailLength, isValidPrefix } from './utf8.ts';

/** A token's contribution; independent of its neighbours but for what the streams handle. */
export interface Piece {
  /** The token as the vocabulary spells it. */
  readonly token: string;
  /** Raw bytes, when the decoder works on bytes and they are not whole characters. */
  readonly bytes: Uint8Array | undefined;
  /** Text when the token is whole characters; undefined when only bytes are known. */
  readonly text: string | undefined;
}

/** GPT-2's printable stand-ins for bytes: character code -> byte. */
const BYTE_OF_CHAR: ReadonlyMap<number, number> = (() => {
  const map = new Map<number, number>();
  let next = 256;
  for (let byte = 0; byte < 256; byte++) {
    const printable =
      (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    map.set(printable ? byte : next++, byte);
  }
  return map;
})();

function byteLevelBytes(token: string): Uint8Array {
  const bytes = new Uint8Array(token.length);
  for (let i = 0; i < token.length; i++) {
    const byte = BYTE_OF_CHAR.get(token.charCodeAt(i));
    // An added token with any other character stands for its own UTF-8 bytes.
    if (byte === undefined) return new TextEncoder().encode(token);
    bytes[i] = byte;
  }
  return bytes;
}

const BYTE_TOKEN = /^<0x([0-9A-Fa-f]{2})>$/;

/** The piece of one token under a table decoder. */
export function pieceOf(token: string, decoder: DecoderKind): Piece {
  if (decoder.kind === 'byte-level') {
    const bytes = byteLevelBytes(token);
    const whole = isValidPrefix(bytes) && incompleteTailLength(bytes) === 0;
    return { token, bytes, text: whole ? decodeLossy(bytes) : undefined };
  }
  if (decoder.kind === 'byte-fallback') {
    const replaced = decoder.replacements.reduce((s, [from, to]) => s.replaceAll(from, to), token);
    const hex = BYTE_TOKEN.exec(replaced)?.[1];
    if (hex === undefined) return { token, bytes: undefined, text: replaced };
    return { token, bytes: Uint8Array.of(Number.parseInt(hex, 16)), text: undefined };
  }
  if (decoder.kind === 'metaspace') {
    return { token, bytes: undefined, text: token.replaceAll(decoder.replacement, ' ') };
  }
  return { token, bytes: undefined, text: token };
}

/** How a token is shown in log-probabilities: its text, or OpenAI's `bytes:\x..` for half ones. */
export function displayText(piece: Piece): string {
  if (piece.text !== undefined) return piece.text;
  const bytes = piece.bytes!;
  if (bytes.every((byte) => byte < 0x80)) return decodeLossy(bytes);
  const hex = Array.from(bytes, (byte) => `\\x${byte.toString(16).padStart(2, '0')}`);
  return `bytes:${hex.join('')}`;
}
