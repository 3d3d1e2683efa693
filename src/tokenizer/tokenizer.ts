/** Text <-> token ids through Hugging Face's tokenizers library and a model's `tokenizer.json`. */
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { type Decoder, Tokenizer as HfTokenizer } from 'tokenizers';
import { LoramuxError } from '../errors.ts';
import { type DecoderKind, decoderKindOf } from './decoder-kind.ts';
import { createStream, type Detokenizer } from './detokenizer.ts';
import { displayText, type Piece, pieceOf } from './pieces.ts';

export type { Detokenizer } from './detokenizer.ts';

export interface EncodeOptions {
  /** Let the post-processor add its tokens (beginning of sequence and the like). */
  addSpecialTokens: boolean;
}

export interface DetokenizerOptions {
  /** Leave out tokens that `tokenizer.json` marks special. */
  skipSpecialTokens: boolean;
  /** Tokens before the text; see `createStream`. */
  context?: ArrayLike<number>;
}

export interface Tokenizer {
  /** Tokens with an id, added tokens included. The model's output may be wider. */
  readonly vocabSize: number;
  /** Runs on the library's threads. Special tokens spelled out in the text become their ids. */
  encode(text: string, options: EncodeOptions): Promise<Int32Array>;
  /** Runs on the library's threads. Ids without a token contribute nothing. */
  decode(ids: ArrayLike<number>, options: { skipSpecialTokens: boolean }): Promise<string>;
  /** One token as log-probabilities show it: text, `bytes:\x..`, or `token_id:N` without a token. */
  tokenText(tokenId: number): string;
  /** One token as the vocabulary spells it; undefined for an id without a token. */
  spelling(tokenId: number): string | undefined;
  /** Whether a token is the same bytes wherever it stands; false where only the library decodes. */
  readonly hasTokenBytes: boolean;
  /** The bytes a token adds to the text; undefined for special tokens and ids without a token. */
  tokenBytes(tokenId: number): Uint8Array | undefined;
  createDetokenizer(options: DetokenizerOptions): Detokenizer;
}

interface TokenizerJson {
  decoder: unknown;
  specialTokens: ReadonlySet<string>;
}

function parseTokenizerJson(text: string): TokenizerJson {
  const json = JSON.parse(text) as {
    decoder?: unknown;
    added_tokens?: { content?: unknown; special?: unknown }[];
  };
  const specialTokens = new Set<string>();
  for (const added of json.added_tokens ?? []) {
    if (added.special === true && typeof added.content === 'string') {
      specialTokens.add(added.content);
    }
  }
  return { decoder: json.decoder, specialTokens };
}

class LibraryTokenizer implements Tokenizer {
  readonly vocabSize: number;
  readonly #library: HfTokenizer;
  readonly #libraryDecoder: Decoder | null;
  readonly #decoder: DecoderKind;
  readonly #specialTokens: ReadonlySet<string>;
  /** By token id, filled on first use; null marks an id without a token. */
  readonly #pieces: (Piece | null | undefined)[] = [];

  constructor(library: HfTokenizer, json: TokenizerJson) {
    // A truncation or padding setting left in the file would change prompts silently.
    library.disableTruncation();
    library.disablePadding();
    this.#library = library;
    this.#libraryDecoder = library.getDecoder();
    this.#decoder = decoderKindOf(json.decoder);
    this.#specialTokens = json.specialTokens;
    this.vocabSize = library.getVocabSize(true);
  }

  async encode(text: string, options: EncodeOptions): Promise<Int32Array> {
    const encoding = await this.#library.encode(text, null, options);
    return Int32Array.from(encoding.getIds());
  }

  async decode(ids: ArrayLike<number>, options: { skipSpecialTokens: boolean }): Promise<string> {
    return this.#library.decode(Array.from(ids), options.skipSpecialTokens);
  }

  tokenText(tokenId: number): string {
    const piece = this.#piece(tokenId);
    if (piece === undefined) return `token_id:${tokenId}`;
    return this.#decoder.kind === 'library'
      ? this.#decodeTokens([piece.token])
      : displayText(piece);
  }

  spelling(tokenId: number): string | undefined {
    return this.#library.idToToken(tokenId) ?? undefined;
  }

  get hasTokenBytes(): boolean {
    return this.#decoder.kind !== 'library';
  }

  tokenBytes(tokenId: number): Uint8Array | undefined {
    const piece = this.#piece(tokenId);
    if (piece === undefined || this.#specialTokens.has(piece.token)) return undefined;
    return piece.bytes ?? new TextEncoder().encode(piece.text);
  }

  createDetokenizer(options: DetokenizerOptions): Detokenizer {
    const special = options.skipSpecialTokens ? this.#specialTokens : undefined;
    return createStream(
      {
        decoder: this.#decoder,
        piece: (tokenId) => {
          const piece = this.#piece(tokenId);
          return piece === undefined || special?.has(piece.token) ? undefined : piece;
        },
        decodeTokens: (tokens) => this.#decodeTokens(tokens),
      },
      options.context ?? [],
    );
  }

  #piece(tokenId: number): Piece | undefined {
    const known = this.#pieces[tokenId];
    if (known !== undefined) return known ?? undefined;
    // Ids beyond the vocabulary are not remembered: they must not grow the table.
    if (!Number.isInteger(tokenId) || tokenId < 0) return undefined;
    const token = this.#library.idToToken(tokenId);
    if (token === null) return undefined;
    const piece = pieceOf(token, this.#decoder);
    this.#pieces[tokenId] = piece;
    return piece;
  }

  #decodeTokens(tokens: string[]): string {
    // Without a decoder the library joins tokens with spaces.
    return this.#libraryDecoder?.decode(tokens) ?? tokens.join(' ');
  }
}

/**
 * Loads `tokenizer.json` of a model folder.
 * @throws LoramuxError `tokenizer_invalid` when it is missing or the library refuses it.
 */
export async function loadTokenizer(modelDir: string): Promise<Tokenizer> {
  const file = path.join(modelDir, 'tokenizer.json');
  let text: string;
  try {
    text = await readFile(file, 'utf8');
  } catch (cause) {
    throw new LoramuxError(
      'tokenizer_invalid',
      `${file} cannot be read; save the model with its fast tokenizer ` +
        '(transformers: AutoTokenizer.from_pretrained(...).save_pretrained(...))',
      { cause },
    );
  }
  try {
    return new LibraryTokenizer(HfTokenizer.fromString(text), parseTokenizerJson(text));
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new LoramuxError('tokenizer_invalid', `${file} is not a valid tokenizer: ${why}`, {
      cause,
    });
  }
}
