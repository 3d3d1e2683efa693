/** Small tokenizer.json files of every decoder kind, built in memory and written where asked. */
import { mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { byteLevelAlphabet } from 'tokenizers';

type Json = Record<string, unknown>;

interface AddedToken {
  content: string;
  special: boolean;
}

function tokenizerJson(model: Json, added: AddedToken[], firstAddedId: number, rest: Json): Json {
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: added.map((token, i) => ({
      id: firstAddedId + i,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      ...token,
    })),
    normalizer: null,
    pre_tokenizer: null,
    post_processor: null,
    decoder: null,
    ...rest,
    model,
  };
}

const vocabOf = (tokens: readonly string[]): Record<string, number> =>
  Object.fromEntries(tokens.map((token, id) => [token, id]));

const bpe = (tokens: readonly string[], merges: string[], extra: Json = {}): Json => ({
  type: 'BPE',
  dropout: null,
  unk_token: null,
  continuing_subword_prefix: null,
  end_of_word_suffix: null,
  fuse_unk: false,
  byte_fallback: false,
  ignore_merges: false,
  vocab: vocabOf(tokens),
  merges,
  ...extra,
});

/** GPT-2 style: all bytes, a few merges (also across character borders), special tokens. */
export function byteLevelTokenizer(): Json {
  const merges = ['h e', 'l l', 'he ll', 'hell o', 'Ġ w', 'ð Ł', 'ðŁ ĺ', 'Ã ©', 'ä ½'];
  const tokens = [...byteLevelAlphabet(), ...merges.map((merge) => merge.replace(' ', ''))];
  const added = [
    { content: '<|end|>', special: true },
    { content: '<|pad|>', special: true },
    { content: '日本 <tool>', special: false },
  ];
  return tokenizerJson(bpe(tokens, merges), added, tokens.length, {
    pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true },
    decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
  });
}

const SP_PIECES = ['▁', '▁▁', 'h', 'e', 'l', 'o', 'w', '▁h', '▁he', '▁w', '▁wo', '你', 'é', '😀'];
const SP_MERGES = ['▁ h', '▁h e', '▁ w', '▁w o', '▁ ▁'];

/** Llama 2 style: byte tokens, Replace / ByteFallback / Fuse and, if asked, Strip. */
export function byteFallbackTokenizer(options: { strip: boolean }): Json {
  const bytes = Array.from({ length: 256 }, (_, byte) => {
    return `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`;
  });
  const tokens = ['<unk>', '<s>', '</s>', ...bytes, ...SP_PIECES];
  const added = ['<unk>', '<s>', '</s>'].map((content) => ({ content, special: true }));
  const steps: Json[] = [
    { type: 'Replace', pattern: { String: '▁' }, content: ' ' },
    { type: 'ByteFallback' },
    { type: 'Fuse' },
  ];
  if (options.strip) steps.push({ type: 'Strip', content: ' ', start: 1, stop: 0 });
  const extra = { unk_token: '<unk>', byte_fallback: true, fuse_unk: true };
  return tokenizerJson(bpe(tokens, SP_MERGES, extra), added, 0, {
    normalizer: {
      type: 'Sequence',
      normalizers: [
        { type: 'Prepend', prepend: '▁' },
        { type: 'Replace', pattern: { String: ' ' }, content: '▁' },
      ],
    },
    post_processor: {
      type: 'TemplateProcessing',
      single: [{ SpecialToken: { id: '<s>', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
      pair: [{ Sequence: { id: 'A', type_id: 0 } }, { Sequence: { id: 'B', type_id: 1 } }],
      special_tokens: { '<s>': { id: '<s>', ids: [1], tokens: ['<s>'] } },
    },
    decoder: { type: 'Sequence', decoders: steps },
  });
}

export function metaspaceTokenizer(prependScheme: 'always' | 'never'): Json {
  return tokenizerJson(bpe(SP_PIECES, SP_MERGES), [{ content: '</s>', special: true }], 14, {
    decoder: { type: 'Metaspace', replacement: '▁', prepend_scheme: prependScheme, split: true },
  });
}

/** Words with no decoder at all: the library joins tokens with spaces. */
export function wordLevelTokenizer(): Json {
  const tokens = ['<unk>', 'one', 'two', 'three', '+', '='];
  const model = { type: 'WordLevel', vocab: vocabOf(tokens), unk_token: '<unk>' };
  return tokenizerJson(model, [{ content: '<end>', special: true }], tokens.length, {
    pre_tokenizer: { type: 'Whitespace' },
  });
}

/** A decoder without a table: it looks one token back for spaces. */
export function wordPieceTokenizer(): Json {
  const tokens = ['[UNK]', 'play', '##ing', '##ed', 'do', '##n', "'", '##t', ',', '你', '##é'];
  const model = {
    type: 'WordPiece',
    vocab: vocabOf(tokens),
    unk_token: '[UNK]',
    continuing_subword_prefix: '##',
    max_input_chars_per_word: 100,
  };
  return tokenizerJson(model, [{ content: '[SEP]', special: true }], tokens.length, {
    pre_tokenizer: { type: 'BertPreTokenizer' },
    decoder: { type: 'WordPiece', prefix: '##', cleanup: true },
  });
}

export const ALL_KINDS: Record<string, () => Json> = {
  'byte-level': byteLevelTokenizer,
  'byte-fallback': () => byteFallbackTokenizer({ strip: true }),
  'byte-fallback without strip': () => byteFallbackTokenizer({ strip: false }),
  'metaspace, always': () => metaspaceTokenizer('always'),
  'metaspace, never': () => metaspaceTokenizer('never'),
  'no decoder': wordLevelTokenizer,
  'word-piece': wordPieceTokenizer,
};

/** Writes a model folder that holds only `tokenizer.json`. */
export async function writeTokenizer(dir: string, json: Json): Promise<string> {
  await mkdir(dir, { recursive: true });
  await writeFile(path.join(dir, 'tokenizer.json'), JSON.stringify(json));
  return dir;
}
