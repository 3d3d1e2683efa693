/**
 * A tokenizer for random models: byte-level BPE without merges, one token per byte, so every text
 * round-trips. The rest of the vocabulary is filler that no text encodes to but that decodes.
 */
import type { JsonObject } from '../json.ts';

const BYTES = 256;

/**
 * GPT-2's printable stand-in for each byte (Radford et al. 2019): printable Latin-1 bytes stand for
 * themselves, the others are moved above U+00FF in order.
 */
export function byteLevelAlphabet(): string[] {
  const printable = (byte: number): boolean =>
    (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
  let moved = 0;
  return Array.from({ length: BYTES }, (_, byte) =>
    String.fromCodePoint(printable(byte) ? byte : BYTES + moved++),
  );
}

export interface SynthTokenizer {
  /** tokenizer.json of the Hugging Face tokenizers library. */
  tokenizer: JsonObject;
  tokenizerConfig: JsonObject;
}

/**
 * @param special token ids that must be special (bos, eos), each with its text.
 * @throws RangeError when the vocabulary cannot hold the bytes and the special tokens.
 */
export function synthTokenizer(
  vocabSize: number,
  special: { id: number; content: string; role: 'bos_token' | 'eos_token' }[],
  maxLength: number,
): SynthTokenizer {
  const specialById = new Map(special.map((token) => [token.id, token]));
  if (vocabSize < BYTES + specialById.size) {
    throw new RangeError(`A byte-level tokenizer needs ${BYTES + specialById.size} tokens`);
  }
  const alphabet = byteLevelAlphabet();
  const vocab: Record<string, number> = {};
  let byte = 0;
  for (let id = 0; id < vocabSize; id++) {
    const token = specialById.get(id);
    if (token !== undefined) vocab[token.content] = id;
    else if (byte < BYTES) vocab[alphabet[byte++]!] = id;
    else vocab[`<filler_${id}>`] = id;
  }
  const addedTokens = [...specialById.values()]
    .sort((a, b) => a.id - b.id)
    .map(({ id, content }) => ({
      id,
      content,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: true,
    }));
  const byteLevel = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true };
  return {
    tokenizer: {
      version: '1.0',
      truncation: null,
      padding: null,
      added_tokens: addedTokens,
      normalizer: null,
      pre_tokenizer: { ...byteLevel, use_regex: true },
      post_processor: { ...byteLevel, use_regex: true },
      decoder: { ...byteLevel, use_regex: true },
      model: {
        type: 'BPE',
        dropout: null,
        unk_token: null,
        continuing_subword_prefix: null,
        end_of_word_suffix: null,
        fuse_unk: false,
        byte_fallback: false,
        ignore_merges: false,
        vocab,
        merges: [],
      },
    },
    tokenizerConfig: {
      tokenizer_class: 'PreTrainedTokenizerFast',
      clean_up_tokenization_spaces: false,
      model_max_length: maxLength,
      ...Object.fromEntries(special.map(({ role, content }) => [role, content])),
    },
  };
}
