/**
 * Incremental detokenisation: token ids in, text out, never half a character, and the pieces
 * together are what decoding all tokens at once gives.
 */
import type { DecoderKind } from './decoder-kind.ts';
import type { Piece } from './pieces.ts';
import { decodeLossy, incompleteTailLength, isValidPrefix } from './utf8.ts';

/** Text of a growing token sequence. */
export interface Detokenizer {
  /** Text that became certain with this token; often empty while a character is incomplete. */
  push(tokenId: number): string;
  /** The rest, with U+FFFD for what stayed incomplete. The detokenizer is finished afterwards. */
  flush(): string;
}

export interface TokenSource {
  readonly decoder: DecoderKind;
  /** undefined for ids without a token and for skipped special tokens. */
  piece(tokenId: number): Piece | undefined;
  /** The library's decoder over token strings. */
  decodeTokens(tokens: string[]): string;
}

/**
 * Longest run of byte tokens (`<0x..>`) held back whole. The library turns a run that is not valid
 * UTF-8 into one U+FFFD per byte, so a run is certain only at its end; beyond this many bytes
 * complete characters are emitted all the same, to keep scripts that are written in byte tokens
 * streaming.
 */
export const BYTE_RUN_MAX = 64;

/** Tokens kept by the generic stream; its decoder must not look further back. */
const WINDOW_MAX = 16;

const REPLACEMENT = '\ufffd';

class ByteLevelStream implements Detokenizer {
  readonly #source: TokenSource;
  /** Bytes of an incomplete character, at most 3. */
  #pending: Uint8Array | undefined;

  constructor(source: TokenSource) {
    this.#source = source;
  }

  push(tokenId: number): string {
    const piece = this.#source.piece(tokenId);
    if (piece === undefined) return '';
    if (this.#pending === undefined && piece.text !== undefined) return piece.text;
    const bytes = this.#pending === undefined ? piece.bytes! : concat(this.#pending, piece.bytes!);
    const end = bytes.length - incompleteTailLength(bytes);
    this.#pending = end === bytes.length ? undefined : bytes.slice(end);
    return end === 0 ? '' : decodeLossy(bytes.subarray(0, end));
  }

  flush(): string {
    const rest = this.#pending;
    this.#pending = undefined;
    return rest === undefined ? '' : decodeLossy(rest);
  }
}

class ByteFallbackStream implements Detokenizer {
  readonly #source: TokenSource;
  /** Spaces still to drop from the start of the text. */
  #strip: number;
  /** The current run of byte tokens, as far as not emitted. */
  #run: number[] = [];
  /** The current run can no longer become valid; each of its bytes is U+FFFD. */
  #invalid = false;

  constructor(source: TokenSource, stripStart: number) {
    this.#source = source;
    this.#strip = stripStart;
  }

  push(tokenId: number): string {
    const piece = this.#source.piece(tokenId);
    if (piece === undefined) return '';
    if (piece.text !== undefined) {
      if (this.#run.length === 0 && this.#strip === 0) {
        this.#invalid = false;
        return piece.text;
      }
      return this.#emit(this.#endRun() + piece.text);
    }
    return this.#emit(this.#byte(piece.bytes![0]!));
  }

  #byte(byte: number): string {
    if (this.#invalid) return REPLACEMENT;
    this.#run.push(byte);
    if (!isValidPrefix(this.#run)) {
      this.#invalid = true;
      const text = REPLACEMENT.repeat(this.#run.length);
      this.#run = [];
      return text;
    }
    if (this.#run.length <= BYTE_RUN_MAX) return '';
    const end = this.#run.length - incompleteTailLength(this.#run);
    return decodeLossy(Uint8Array.from(this.#run.splice(0, end)));
  }

  #endRun(): string {
    const run = this.#run;
    this.#invalid = false;
    if (run.length === 0) return '';
    this.#run = [];
    return incompleteTailLength(run) === 0
      ? decodeLossy(Uint8Array.from(run))
      : REPLACEMENT.repeat(run.length);
  }

  #emit(text: string): string {
    if (this.#strip === 0 || text === '') return text;
    let from = 0;
    while (from < this.#strip && text[from] === ' ') from++;
    this.#strip = from === text.length ? this.#strip - from : 0;
    return text.slice(from);
  }

  flush(): string {
    return this.#emit(this.#endRun());
  }
}

class MetaspaceStream implements Detokenizer {
  readonly #source: TokenSource;
  readonly #replacement: string;
  #first: boolean;

  constructor(source: TokenSource, replacement: string, stripFirst: boolean) {
    this.#source = source;
    this.#replacement = replacement;
    this.#first = stripFirst;
  }

  push(tokenId: number): string {
    const piece = this.#source.piece(tokenId);
    if (piece === undefined) return '';
    if (!this.#first) return piece.text!;
    this.#first = false;
    return piece.token.replaceAll(this.#replacement, '');
  }

  flush(): string {
    return '';
  }
}

/**
 * For any decoder that looks back only a few tokens: decode the window with and without the new
 * tokens, and emit the difference once it does not end in half a character.
 */
class WindowStream implements Detokenizer {
  readonly #source: TokenSource;
  #window: string[];
  /** Tokens of the window that are already in the emitted text. */
  #read: number;
  #readText: string;

  constructor(source: TokenSource, context: string[]) {
    this.#source = source;
    this.#window = context;
    this.#read = context.length;
    this.#readText = source.decodeTokens(context);
  }

  push(tokenId: number): string {
    const piece = this.#source.piece(tokenId);
    if (piece === undefined) return '';
    this.#window.push(piece.token);
    const text = this.#source.decodeTokens(this.#window);
    const waits = text.endsWith(REPLACEMENT) || text.length <= this.#readText.length;
    if (waits && this.#window.length - this.#read < WINDOW_MAX) return '';
    return this.#take(text);
  }

  #take(text: string): string {
    const fresh = text.slice(this.#readText.length);
    // The tokens just emitted stay as context: they decide about spaces before the next one.
    this.#window = this.#window.slice(this.#read);
    this.#read = this.#window.length;
    this.#readText = this.#source.decodeTokens(this.#window);
    return fresh;
  }

  flush(): string {
    if (this.#window.length === this.#read) return '';
    return this.#take(this.#source.decodeTokens(this.#window));
  }
}

function concat(a: Uint8Array, b: Uint8Array): Uint8Array {
  const joined = new Uint8Array(a.length + b.length);
  joined.set(a);
  joined.set(b, a.length);
  return joined;
}

/** The last tokens of the context that count, oldest first. */
function contextTokens(source: TokenSource, context: ArrayLike<number>): string[] {
  const tokens: string[] = [];
  for (let i = context.length - 1; i >= 0 && tokens.length < WINDOW_MAX / 2; i--) {
    const piece = source.piece(context[i]!);
    if (piece !== undefined) tokens.unshift(piece.token);
  }
  return tokens;
}

/**
 * A stream over `source`. `context` holds the tokens that precede the text (a prompt): with any
 * visible token there, the text is a continuation and keeps its leading space.
 */
export function createStream(source: TokenSource, context: ArrayLike<number>): Detokenizer {
  const { decoder } = source;
  if (decoder.kind === 'byte-level') return new ByteLevelStream(source);
  const before = contextTokens(source, context);
  const atStart = before.length === 0;
  if (decoder.kind === 'byte-fallback') {
    return new ByteFallbackStream(source, atStart ? decoder.stripStart : 0);
  }
  if (decoder.kind === 'metaspace') {
    return new MetaspaceStream(source, decoder.replacement, atStart && decoder.stripFirst);
  }
  return new WindowStream(source, before);
}
